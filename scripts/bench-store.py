"""Figures about the store. Called by bench-store: SCRATCH FIGURES [OVERLAY].

FILES (100000): files of the large store, with 1 in 10 having 2 KiB of content.
OVERWRITTEN (100000): small files that are overwritten 20 times.
BRANCHES (1000): branches, each with 100 changes.
ROUNDS (5): rounds of the rates, interleaved between the volume, the host directory and fuse-overlayfs.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time

SCRATCH, FIGURES = sys.argv[1], sys.argv[2]
OVERLAY = sys.argv[3] if len(sys.argv) > 3 else ""
HOST, CLI = os.environ["HOST_BIN"], os.environ["CLI_BIN"]
FILES = int(os.environ.get("FILES", "100000"))
OVERWRITTEN = int(os.environ.get("OVERWRITTEN", "100000"))
BRANCHES = int(os.environ.get("BRANCHES", "1000"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
PER_DIR = 1000
figures = {}


def say(text):
    print(text, flush=True)


class Volume:
    """A mounted volume on a store of its own."""

    def __init__(self, name):
        self.root, self.store = f"{SCRATCH}/{name}", f"{SCRATCH}/{name}-store"
        os.makedirs(self.root, exist_ok=True)

    def mount(self):
        """Mounts it; returns the seconds until it answered."""
        log = open(f"{SCRATCH}/daemon.log", "a")
        begun = time.monotonic()
        self.daemon = subprocess.Popen([HOST, "--store", self.store, self.root], stderr=log)
        while not os.path.exists(f"{self.root}/.agentfs/control"):
            if self.daemon.poll() is not None:
                sys.exit("the volume cannot be mounted; see the daemon's log")
            time.sleep(0.002)
        return time.monotonic() - begun

    def unmount(self):
        subprocess.run(["umount", self.root] if os.geteuid() == 0 else ["fusermount3", "-u", self.root], check=True)
        self.daemon.wait(60)

    def mount_twice(self):
        """Unmounts it and mounts it twice; returns the seconds of both, the memory after the first, and the store's size."""
        self.unmount()
        first = self.mount()
        memory = self.resident()
        self.unmount()
        second = self.mount()
        size = self.size()
        self.unmount()
        return first, second, memory, size

    def cli(self, *words):
        done = subprocess.run([CLI, "--mount", self.root, "--json", *words], check=True, capture_output=True)
        return json.loads(done.stdout)

    def settings(self):
        text = subprocess.run(
            [CLI, "--mount", self.root, "status"], check=True, capture_output=True, text=True
        ).stdout
        return {key: int(value) for key, value in re.findall(r"(pack_\w+|log_bytes|checkpoint_bytes)\W+(\d+)", text)}

    def resident(self):
        with open(f"/proc/{self.daemon.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) * 1024

    def size(self):
        return {
            folder: int(subprocess.run(["du", "-sb", f"{self.store}/{folder}"], capture_output=True, check=True, text=True).stdout.split()[0])
            for folder in ("objects", "packs")
        } | {"log": sum(os.stat(f"{self.store}/{f}").st_size for f in os.listdir(self.store) if f.startswith("log-"))}


def create(root, count, size):
    """Makes files and writes each; returns how many a second."""
    data = b"x" * size
    os.makedirs(root)
    begun = time.monotonic()
    for n in range(count):
        fd = os.open(f"{root}/{n}", os.O_CREAT | os.O_WRONLY | os.O_EXCL)
        os.write(fd, data)
        os.close(fd)
    return count / (time.monotonic() - begun)


def overwrite(root, count, size):
    data = b"y" * size
    begun = time.monotonic()
    for n in range(count):
        fd = os.open(f"{root}/{n}", os.O_WRONLY | os.O_TRUNC)
        os.write(fd, data)
        os.close(fd)
    return count / (time.monotonic() - begun)


def read(root, count):
    begun = time.monotonic()
    for n in range(count):
        with open(f"{root}/{n}", "rb") as file:
            file.read()
    return count / (time.monotonic() - begun)


def unlink(root, count):
    begun = time.monotonic()
    for n in range(count):
        os.unlink(f"{root}/{n}")
    return count / (time.monotonic() - begun)


def fsync_new(root, count):
    """Makes files, writes 4 KiB and fsyncs each."""
    os.makedirs(root)
    data = b"z" * 4096
    begun = time.monotonic()
    for n in range(count):
        fd = os.open(f"{root}/{n}", os.O_CREAT | os.O_WRONLY)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
    return count / (time.monotonic() - begun)


def fsync_append(path, count):
    """Appends 4 KiB to one file and fsyncs, again and again: it becomes an object."""
    data = b"z" * 4096
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    begun = time.monotonic()
    for _ in range(count):
        os.write(fd, data)
        os.fsync(fd)
    rate = count / (time.monotonic() - begun)
    os.close(fd)
    return rate


def rates(volume):
    """Rates of the volume, the host directory and fuse-overlayfs, interleaved; the medians' ratios."""
    count, syncs = 5000, 500
    places = {"volume": volume.root, "host": f"{SCRATCH}/host"} | ({"overlay": OVERLAY} if OVERLAY else {})
    seen = {}
    for n in range(ROUNDS):
        for place, root in places.items():
            dir = f"{root}/round-{n}"
            work = {
                "create 2 KiB": lambda: create(dir, count, 2048),
                "overwrite 2 KiB": lambda: overwrite(dir, count, 2048),
                "read 2 KiB, warm": lambda: read(dir, count),
                "unlink": lambda: unlink(dir, count),
                "create, write 4 KiB, fsync": lambda: fsync_new(f"{dir}/synced", syncs),
                "append 4 KiB, fsync": lambda: fsync_append(f"{dir}/appended", syncs),
            }
            for what, run in work.items():
                seen.setdefault(what, {}).setdefault(place, []).append(run())
            subprocess.run(["rm", "-rf", dir], check=True)
    figures["rates"] = {}
    for what, by_place in seen.items():
        medians = {place: statistics.median(values) for place, values in by_place.items()}
        ratio = statistics.median(v / h for v, h in zip(by_place["volume"], by_place["host"]))
        text = f"{what}: {medians['volume']:,.0f}/s, {ratio:.2f} of the host ({medians['host']:,.0f}/s)"
        entry = {"per_second": medians, "to_host": ratio}
        if OVERLAY:
            entry["to_overlay"] = statistics.median(v / o for v, o in zip(by_place["volume"], by_place["overlay"]))
            text += f", {entry['to_overlay']:.2f} of fuse-overlayfs ({medians['overlay']:,.0f}/s)"
        figures["rates"][what] = entry
        say(text)


def large_store():
    """A store of many files: its size, the memory, the time to mount it."""
    volume = Volume("large")
    volume.mount()
    before = volume.resident()
    begun = time.monotonic()
    for start in range(0, FILES, PER_DIR):
        dir = f"{volume.root}/d{start // PER_DIR}"
        os.mkdir(dir)
        for n in range(start, min(start + PER_DIR, FILES)):
            fd = os.open(f"{dir}/{n}", os.O_CREAT | os.O_WRONLY)
            if n % 10 == 0:
                os.write(fd, b"c" * 2048)
            os.close(fd)
    seconds = time.monotonic() - begun
    memory = volume.resident() - before
    first, second, loaded, size = volume.mount_twice()
    check = time.monotonic()
    subprocess.run([HOST, "check", volume.store], check=True, stdout=subprocess.DEVNULL)
    check = time.monotonic() - check
    figures["large"] = {
        "files": FILES, "creates_per_second": FILES / seconds, "bytes_per_file": memory / FILES,
        "mount_seconds": [first, second], "bytes_per_file_after_mount": (loaded - before) / FILES,
        "store": size, "check_seconds": check,
    }
    say(f"{FILES:,} files: made at {FILES / seconds:,.0f}/s, {memory / FILES:.0f} bytes of memory a file; mounted in "
        f"{first:.2f} and {second:.2f} s; log {size['log'] / 1e6:.1f} MB, packs {size['packs'] / 1e6:.1f} MB; checked in {check:.1f} s")


def overwriting():
    """Small files overwritten 20 times: how log and packs grow, and what is left when the volume was idle for a while."""
    volume = Volume("over")
    volume.mount()
    root, rows = f"{volume.root}/files", []
    create(root, OVERWRITTEN, 1000)
    for n in range(20):
        rate = overwrite(root, OVERWRITTEN, 1000)
        rows.append({"round": n + 1, "per_second": rate} | volume.size() | volume.settings())
    live = OVERWRITTEN * 1000
    time.sleep(12)
    after = volume.size() | volume.settings()
    highest = {what: max(row[what] for row in rows) for what in ("log", "packs")}
    volume.unmount()
    figures["overwriting"] = {"files": OVERWRITTEN, "live_bytes": live, "rounds": rows, "after": after}
    say(f"{OVERWRITTEN:,} files of 1,000 bytes overwritten 20 times ({20 * live / 1e6:,.0f} MB written, {live / 1e6:,.0f} MB live), at "
        f"{statistics.median(row['per_second'] for row in rows):,.0f}/s: packs up to {highest['packs'] / 1e6:,.0f} MB, log up to "
        f"{highest['log'] / 1e6:,.0f} MB; after 12 idle seconds packs {after['packs'] / 1e6:,.0f} MB, log {after['log'] / 1e6:,.0f} MB")


def beside():
    """Rates of a workload while the log of the large store is shortened, and while it is not."""
    volume = Volume("large")
    volume.mount()
    seen, stop = [], threading.Event()

    def work():
        n = 0
        os.makedirs(f"{volume.root}/beside", exist_ok=True)
        while not stop.is_set():
            begun = time.monotonic()
            for _ in range(500):
                fd = os.open(f"{volume.root}/beside/{n}", os.O_CREAT | os.O_WRONLY)
                os.write(fd, b"b" * 1000)
                os.close(fd)
                n += 1
            seen.append((begun, time.monotonic()))

    thread = threading.Thread(target=work)
    thread.start()
    base, lengths = None, []
    deadline = time.monotonic() + float(os.environ.get("BESIDE_SECONDS", "120"))
    # The log is shortened by itself when it is long enough: a new checkpoint shows by its length.
    while time.monotonic() < deadline:
        now = volume.settings()["checkpoint_bytes"]
        lengths.append((time.monotonic(), now))
        base = base if base is not None else now
        if now != base:
            break
        time.sleep(0.05)
    stop.set()
    thread.join()
    volume.unmount()
    slowest = max(end - begun for begun, end in seen)
    usual = statistics.median(end - begun for begun, end in seen)
    done = lengths[-1][1] != base
    figures["beside"] = {"shortened": done, "median_batch_ms": usual * 1e3, "slowest_batch_ms": slowest * 1e3}
    say(f"beside a workload: the log was {'' if done else 'not '}shortened; 500 creates take {usual * 1e3:.0f} ms at the median and "
        f"{slowest * 1e3:.0f} ms at most")


def many_branches():
    """Many branches, each with 100 changes: memory, size, time to mount."""
    volume = Volume("branches")
    volume.mount()
    create(f"{volume.root}/tree", 2000, 500)
    before = volume.resident()
    for n in range(BRANCHES):
        volume.cli("branch-create", "--from", "main", "--name", f"b{n}")
        root = f"{volume.root}/.agentfs/branches/b{n}/tree"
        for k in range(100):
            fd = os.open(f"{root}/{k * 20 % 2000 if k < 50 else f'new{k}'}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.write(fd, b"changed")
            os.close(fd)
    memory = volume.resident() - before
    first, second, second_memory, size = volume.mount_twice()
    figures["branches"] = {
        "branches": BRANCHES, "changes": 100, "memory": memory, "memory_after_mount": second_memory,
        "mount_seconds": [first, second], "store": size,
    }
    say(f"{BRANCHES:,} branches with 100 changes each: {memory / 1e6:.0f} MB of memory, {memory / BRANCHES / 100:.0f} bytes a change; "
        f"{second_memory / 1e6:.0f} MB after a mount; mounted in {first:.2f} and {second:.2f} s; log {size['log'] / 1e6:.1f} MB")


def main():
    volume = Volume("rates")
    volume.mount()
    rates(volume)
    volume.unmount()
    large_store()
    beside()
    overwriting()
    many_branches()
    with open(FIGURES, "w") as out:
        json.dump(figures, out, indent=2)


main()
