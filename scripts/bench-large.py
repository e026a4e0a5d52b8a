#!/usr/bin/env python3
"""bench-large.py MOUNT SCRATCH CLI OUT: what large files in layers cost. SCRATCH holds the store, in SCRATCH/store.

Environment: GIB (size of the file, default 10), SNAPSHOTS (taken with a write between each, default 1000), SAMPLES (of each
kind, default 20), READS (of each kind, default 3). Prints a report and writes it to OUT as JSON.
"""
import json, os, random, statistics, sys, time

from bench_store import control, held

mount, scratch, cli, out = sys.argv[1:5]
size = int(float(os.environ.get("GIB", "10")) * 2**30)
snapshots = int(os.environ.get("SNAPSHOTS", "1000"))
samples = int(os.environ.get("SAMPLES", "20"))
reads = int(os.environ.get("READS", "3"))
store, report = f"{scratch}/store", {}
random.seed(9)


def run(*args):
    return control(cli, mount, *args)


def fill(path, size):
    chunk = os.urandom(1 << 24)
    with open(path, "wb", buffering=0) as file:
        for at in range(0, size, len(chunk)):
            file.write(chunk[: size - at])
        os.fsync(file.fileno())


def write_block(path):
    """Opens the file, writes 4 KiB somewhere, closes it; in milliseconds, the write alone and all of it."""
    block, at = os.urandom(4096), random.randrange(size // 4096) * 4096
    begun = time.perf_counter()
    fd = os.open(path, os.O_RDWR)
    opened = time.perf_counter()
    assert os.pwrite(fd, block, at) == 4096
    written = time.perf_counter()
    os.close(fd)
    return (written - opened) * 1000, (time.perf_counter() - begun) * 1000


def first_writes():
    took, whole, space = [], [], []
    for _ in range(samples):
        run("snapshot-create")
        before = held(store)
        one, all_of_it = write_block(f"{mount}/large")
        took.append(one)
        whole.append(all_of_it)
        space.append(held(store) - before)
    median = statistics.median
    return {
        "write_ms": round(median(took), 3),
        "most_write_ms": round(max(took), 3),
        "open_write_close_ms": round(median(whole), 3),
        "new_bytes": median(space),
        "most_new_bytes": max(space),
    }


def drop_caches():
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
    except PermissionError:
        print("not root: the host's caches are not dropped", flush=True)


def read_all(path):
    """MiB/s of one sequential reading."""
    drop_caches()
    buffer = memoryview(bytearray(1 << 20))
    begun = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    while os.readv(fd, [buffer]):
        pass
    os.close(fd)
    return size / 2**20 / (time.perf_counter() - begun)


def compare_reads(paths):
    rates = {name: [] for name in paths}
    for _ in range(reads):
        for name, path in paths.items():
            rates[name].append(read_all(path))
    return {name: round(statistics.median(rate)) for name, rate in rates.items()}


def tell(name, value):
    report[name] = value
    print(f"{name}: {json.dumps(value)}", flush=True)


def settled(wanted):
    """What the store takes when it is within 1 % of what it should take, or half a minute later."""
    deadline = time.time() + 30
    while held(store) > wanted * 1.01 and time.time() < deadline:
        time.sleep(0.5)
    return held(store)


def space_comes_back():
    """A file of a tenth is frozen, overwritten, and its snapshot deleted."""
    part = size // 10
    before_all = held(store)
    fill(f"{mount}/part", part)
    before = held(store)
    run("snapshot-create", "--name", "whole")
    fd = os.open(f"{mount}/part", os.O_WRONLY)
    block = os.urandom(1 << 20)
    for at in range(0, part, len(block)):
        os.pwrite(fd, block[: part - at], at)
    os.fsync(fd)
    os.close(fd)
    between = held(store)
    run("snapshot-delete", "whole")
    after = settled(before)
    tell("overwritten", {"file": before - before_all, "with_snapshot": between - before, "left_over": after - before})
    # And in part: every other MiB.
    run("snapshot-create", "--name", "parts")
    fd = os.open(f"{mount}/part", os.O_WRONLY)
    for at in range(0, part, 2 << 20):
        os.pwrite(fd, block[: part - at], at)
    os.close(fd)
    between = held(store)
    run("snapshot-delete", "parts")
    tell("overwritten_in_part", {"with_snapshot": between - after, "left_over": settled(after) - after})


fill(f"{mount}/large", size)
run("snapshot-create", "--name", "first")
tell("first_write", first_writes())
for n in range(snapshots):
    run("snapshot-create")
    write_block(f"{mount}/large")
tell("first_write_later", first_writes())
fill(f"{scratch}/plain", size)
run("branch-create", "--from", "first", "--name", "reader")
paths = {
    "layered": f"{mount}/large",
    "frozen": f"{mount}/.agentfs/branches/reader/large",
    "past_the_daemon": f"{mount}/.agentfs/snapshots/first/large",
    "host": f"{scratch}/plain",
}
rates = compare_reads(paths)
tell("read_mib_s", {**rates, **{f"to_{name}": round(rates["layered"] / rates[name], 2) for name in rates if name != "layered"}})
os.remove(f"{scratch}/plain")
space_comes_back()
with open(out, "w") as file:
    json.dump(report, file, indent=1)
