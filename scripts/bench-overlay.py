"""Measures a volume over a large directory. See bench-overlay.

    bench-overlay.py SCRATCH FIGURES
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time

SCRATCH, FIGURES = sys.argv[1:3]
FILES, ROUNDS = int(os.environ["FILES"]), int(os.environ["ROUNDS"])
HOST, CLI = os.environ["HOST_BIN"], os.environ["CLI_BIN"]
figures = {}


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)


def timed(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def drop_caches():
    if os.geteuid() == 0:
        run("sync")
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")


def make(at):
    for n in range(FILES):
        directory = f"{at}/d{n // 1000}/e{n // 50 % 20}"
        if n % 50 == 0:
            os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/f{n}", "w") as file:
            file.write(f"file {n}\n" * 20)
    git = ("git", "-C", at, "-c", "user.name=b", "-c", "user.email=b@b", "-c", "gc.auto=0")
    run("git", "init", "-q", at)
    run(*git, "add", "-A")
    run(*git, "commit", "-q", "-m", "all")


def mount(lower, store, at, *more):
    os.makedirs(at, exist_ok=True)
    took = timed(lambda: run(HOST, "--background", "--store", store, "--lower", lower, *more, at))
    return took


def unmount(at):
    for _ in range(50):
        if subprocess.run(["umount" if os.geteuid() == 0 else "fusermount3", *([] if os.geteuid() == 0 else ["-u"]), at], stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.1)


def memory(at):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if b"agentfs-fuse-host" in words[0] and os.fsencode(at) in words and b"flush-files" not in words:
                with open(f"/proc/{pid}/status") as file:
                    return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) // 1024
        except (OSError, StopIteration):
            pass
    return None


def walk(at):
    """As programs do: from inside, each name beside its directory's others."""
    os.chdir(at)
    open_directories = ["."]
    while open_directories:
        for entry in os.scandir(open_directories.pop()):
            entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                open_directories.append(entry.path)
    os.chdir("/")


def note(name, value, unit):
    figures[name] = {"value": round(value, 3), "unit": unit}
    print(f"{name:58} {value:10.3f} {unit}", flush=True)


def places(lower):
    """What is compared: name, directory, how it is taken away."""
    yield "host", lower, lambda: None
    at, store = f"{SCRATCH}/volume", f"{SCRATCH}/store"
    # What was just made is not to be written out meanwhile.
    run("sync")
    took = mount(lower, store, at)
    note(f"mount over {FILES} files", took * 1000, "ms")
    note("memory after mounting", memory(at), "MiB")
    run(CLI, "--mount", at, "branch-create", "--from", "main", "--name", "b")
    yield "main", at, lambda: None
    yield "branch", os.path.realpath(f"{at}/.agentfs/branches/b"), lambda: unmount(at)


def tree():
    lower = f"{SCRATCH}/lower"
    make(lower)
    kept, rows = list(places(lower)), {}
    if os.geteuid() == 0 and shutil.which("fuse-overlayfs"):
        at = f"{SCRATCH}/overlay"
        for part in ("overlay", "upper", "work"):
            os.makedirs(f"{SCRATCH}/{part}")
        run("fuse-overlayfs", "-o", f"lowerdir={lower},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work", at)
        kept.append(("fuse-overlayfs", at, lambda: unmount(at)))
    for _ in range(ROUNDS):
        for name, at, _ in kept:
            drop_caches()
            rows.setdefault(("walk cold", name), []).append(timed(lambda: walk(at)))
            rows.setdefault(("walk warm", name), []).append(timed(lambda: walk(at)))
            status = lambda: run("git", "-C", at, "--no-optional-locks", "status", "--porcelain")
            status()
            rows.setdefault(("git status", name), []).append(timed(status))
    for (work, name), times in rows.items():
        median, host = statistics.median(times), statistics.median(rows[(work, "host")])
        note(f"{work}, {name}", median, "s")
        if name != "host":
            note(f"{work}, {name}: ratio to host (above 1 is faster)", host / median, "")
    note("memory after walks", memory(f"{SCRATCH}/volume"), "MiB")
    drop_caches()
    time.sleep(15)
    note("memory after the kernel forgot", memory(f"{SCRATCH}/volume"), "MiB")
    log = sum(entry.stat().st_size for entry in os.scandir(f"{SCRATCH}/store") if entry.name.startswith("log"))
    note("log after walks", log / 1024, "KiB")
    for _, _, leave in kept:
        leave()


def first_write(where, lower, store, at):
    with open(f"{lower}/large", "wb") as file:
        for _ in range(100):
            file.write(os.urandom(1 << 20))
    times = []
    for n in range(ROUNDS):
        shutil.copy(f"{lower}/large", f"{lower}/large{n}")
    mount(lower, store, at)
    for n in range(ROUNDS):
        def write():
            with open(f"{at}/large{n}", "r+b", buffering=0) as file:
                file.write(b"x")
        times.append(timed(write))
    note(f"first write to 100 MiB, {where}", statistics.median(times) * 1000, "ms")
    copies = [timed(lambda: run("cp", f"{lower}/large", f"{lower}/copy{n}")) for n in range(ROUNDS)]
    note(f"cp of it below, {where}", statistics.median(copies) * 1000, "ms")
    unmount(at)


def writes():
    os.makedirs(f"{SCRATCH}/l1")
    kind = subprocess.run(["stat", "-f", "-c", "%T", SCRATCH], capture_output=True, text=True, check=True).stdout.strip()
    first_write(kind, f"{SCRATCH}/l1", f"{SCRATCH}/s1", f"{SCRATCH}/m1")
    if os.geteuid() != 0 or not shutil.which("mkfs.xfs"):
        print("without XFS: that needs root and xfsprogs")
        return
    run("truncate", "-s", "2G", f"{SCRATCH}/xfs.img")
    run("mkfs.xfs", "-q", "-m", "reflink=1", f"{SCRATCH}/xfs.img")
    os.makedirs(f"{SCRATCH}/xfs")
    run("mount", "-o", "loop", f"{SCRATCH}/xfs.img", f"{SCRATCH}/xfs")
    try:
        os.makedirs(f"{SCRATCH}/xfs/lower")
        first_write("XFS", f"{SCRATCH}/xfs/lower", f"{SCRATCH}/xfs/store", f"{SCRATCH}/m2")
    finally:
        unmount(f"{SCRATCH}/xfs")


try:
    tree()
    writes()
finally:
    for at in ("volume", "overlay", "m1", "m2"):
        if os.path.ismount(f"{SCRATCH}/{at}"):
            unmount(f"{SCRATCH}/{at}")
    with open(FIGURES, "w") as file:
        json.dump(figures, file, indent=1)
