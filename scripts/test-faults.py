"""test-faults.py SCRATCH OUT: see `test-faults`.

For each fault a worker does one thing after the other in main and in a branch, and keeps account: a file is `sure` when what it has was
acknowledged, `open` when the last change of it failed, and then it is what it was or what it was to be. While the fault lasts, each thing is
done, or fails with an errno that says why, within PATIENCE; when it is gone, all works again within a minute, and everything is
as accounted for, then, after a remount, and for `check`.
"""

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

from long_run import HOST, Volume, run

SCRATCH, OUT = sys.argv[1], sys.argv[2]
ONLY = os.environ.get("ONLY")
SECONDS = float(os.environ.get("FAULT_SECONDS", "1.2"))
# No operation takes longer, whatever happens below.
PATIENCE = 30
# What a store answers that has lost its log for now, or that is full.
ALWAYS = {errno.EROFS, errno.EIO, errno.ENOSPC}
BRANCHES = ("main", "one")

# What of the host fails, by the system calls that do it.
CALLS = {
    "read": "pread64",
    "write": "pwrite64",
    "open": "openat,openat2",
    "sync of a file": "fsync,fdatasync",
    "sync of all": "syncfs",
    "stat": "fstat,newfstatat,statx",
    "size": "ftruncate,fallocate",
    "copy": "copy_file_range,ioctl",
    "removal": "unlinkat",
    "rename": "renameat,renameat2,linkat",
    "directory": "mkdirat,getdents64",
    "room": "fstatfs,statfs",
}
# These are seen by somebody.
SEEN = ("for all of: write", "for all of: open", "for all of: sync of a file", "becomes read-only")


def digest(data):
    return hashlib.sha1(data).hexdigest()


def write_all(file, data):
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest):]


class Accounts:
    """What files are to have: by branch and name, the digests that are allowed, None among them where it need not be there; or None where
    a change in place failed, and it may have anything."""

    def __init__(self, volume, seed):
        self.volume, self.chance, self.allowed, self.snapshots = volume, random.Random(seed), {}, {}
        self.answers, self.slowest, self.wrong = {}, 0.0, []

    def path(self, branch, name):
        return f"{self.volume.place(branch)}/{name}"

    def attempt(self, what, work, *args):
        """Does it, and tells whether it was done."""
        begun = time.monotonic()
        try:
            work(*args)
            done = 0
        except OSError as error:
            done = error.errno
        took = time.monotonic() - begun
        self.slowest = max(self.slowest, took)
        self.answers.setdefault(what, set()).add(errno.errorcode.get(done, "done") if done else "done")
        if took > PATIENCE:
            self.wrong.append(f"{what} took {took:.0f} s")
        return done == 0

    def write(self, branch, name, data, how):
        path, before = self.path(branch, name), self.allowed.get((branch, name), {None})

        def plainly():
            with open(path, "wb", buffering=0) as file:
                write_all(file, data)
                if how == "synced":
                    os.fsync(file.fileno())

        def renamed():
            with open(f"{path}.new", "wb", buffering=0) as file:
                write_all(file, data)
                os.fsync(file.fileno())
            os.rename(f"{path}.new", path)

        # A write in place that fails may have cut the file, or written a part.
        self.allowed[branch, name] = before | {digest(data)} if before is not None and how == "renamed" else None
        if self.attempt(f"{how} write", renamed if how == "renamed" else plainly):
            self.allowed[branch, name] = {digest(data)}

    def patch(self, branch, name, data, at):
        """A part of a large file, in place."""
        known = self.allowed.get((branch, name))
        if not known or known == {None}:
            return
        path = self.path(branch, name)
        self.allowed[branch, name] = None

        def work():
            with open(path, "r+b", buffering=0) as file:
                expected = bytearray(file.read())
                file.seek(at)
                if file.write(data) != len(data):
                    raise OSError(errno.EIO, "written in part")
                expected[at : at + len(data)] = data
                return expected

        held = []
        if self.attempt("patch", lambda: held.append(work())):
            self.allowed[branch, name] = {digest(bytes(held[0]))}

    def read(self, branch, name):
        known, held = self.allowed.get((branch, name)), []

        def work():
            with open(self.path(branch, name), "rb") as file:
                held.append(file.read())

        if known and None not in known and self.attempt("read", work) and digest(held[0]) not in known:
            self.wrong.append(f"{name} in {branch} reads as something else")

    def remove(self, branch, name):
        before = self.allowed.get((branch, name), {None})
        self.allowed[branch, name] = None if before is None else before | {None}
        if self.attempt("unlink", os.unlink, self.path(branch, name)):
            self.allowed[branch, name] = {None}

    def mkdir(self, branch, number):
        self.attempt("mkdir", lambda: os.makedirs(self.path(branch, f"d{number}/x"), exist_ok=True))
        self.attempt("list", os.listdir, self.volume.place(branch))

    def snapshot(self, branch):
        done = subprocess.run(self.volume.command("--json", "snapshot-create", "--branch", branch), check=False,
                              capture_output=True, text=True, timeout=PATIENCE + 30)
        self.answers.setdefault("snapshot", set()).add("done" if done.returncode == 0 else done.stderr.split("(")[-1].strip(" )\n"))
        if done.returncode == 0:
            taken = done.stdout.split('"id":"')[1][:32]
            self.snapshots[taken] = {name: known for (of, name), known in self.allowed.items() if of == branch and known}

    def turn(self):
        chance, branch = self.chance, self.chance.choice(BRANCHES)
        name = f"f{chance.randrange(12)}"
        data = chance.randbytes(chance.choice([10, 3000, 70_000, 2_000_000]))
        match chance.randrange(9):
            case 0:
                self.write(branch, name, data, "plain")
            case 1 | 2:
                self.write(branch, name, data, "synced")
            case 3 | 4:
                self.write(branch, name, data, "renamed")
            case 5:
                self.patch(branch, f"f{chance.randrange(12)}", data[:5000], 0)
            case 6:
                self.read(branch, name)
            case 7:
                self.remove(branch, name) if chance.random() < 0.5 else self.mkdir(branch, chance.randrange(50))
            case 8:
                self.snapshot(branch)

    def compare(self, when):
        """Everything is as accounted for."""
        for (branch, name), known in self.allowed.items():
            if known is None:
                continue
            self.compare_file(f"{when}: {name} in {branch}", self.path(branch, name), known)
        listed = {taken["id"] for taken in self.volume.ask("snapshot-list")}
        for taken, files in self.snapshots.items():
            if taken not in listed:
                self.wrong.append(f"{when}: snapshot {taken} is gone")
                continue
            for name, known in files.items():
                self.compare_file(f"{when}: {name} in snapshot {taken}", f"{self.volume.root}/.agentfs/by-id/{taken}/{name}", known)

    def compare_file(self, what, path, known):
        try:
            with open(path, "rb") as file:
                found = digest(file.read())
        except FileNotFoundError:
            found = None
        except OSError as error:
            self.wrong.append(f"{what} cannot be read: {error.strerror}")
            return
        if found not in known:
            self.wrong.append(f"{what} is {'gone' if found is None else 'something else'}")

    def until(self, end):
        while time.monotonic() < end:
            self.turn()

    def recover(self):
        """Changes are taken again, within a minute."""
        for branch in BRANCHES:
            path, end = self.path(branch, "recovered"), time.monotonic() + 60
            while True:
                try:
                    with open(path, "w") as file:
                        file.write("x")
                        os.fsync(file.fileno())
                    break
                except OSError as error:
                    if time.monotonic() > end:
                        self.wrong.append(f"{branch} does not take changes again: {error.strerror}")
                        return
                    time.sleep(0.2)


# Faults: each a function that brings it about, and returns what ends it.


def injected(calls, error, when=""):
    def begin(volume):
        tracer = subprocess.Popen(
            ["strace", "-qq", "-f", "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}{when}", "-p", str(volume.daemon.pid), "-o", "/dev/null"],
            stderr=subprocess.DEVNULL)
        # It has taken hold of all threads.
        end = time.monotonic() + PATIENCE
        while any("TracerPid:\t0" in open(f"/proc/{volume.daemon.pid}/task/{task}/status").read()
                  for task in os.listdir(f"/proc/{volume.daemon.pid}/task")):
            if time.monotonic() > end or tracer.poll() is not None:
                raise RuntimeError("strace does not take hold of the daemon")
            time.sleep(0.01)

        def finish():
            tracer.send_signal(signal.SIGINT)
            tracer.wait(PATIENCE)

        return finish

    return begin


def few_descriptors(volume):
    pid, most = volume.daemon.pid, max(int(number) for number in os.listdir(f"/proc/{volume.daemon.pid}/fd"))
    before = run("prlimit", "--pid", str(pid), "--nofile", "--noheadings", "--output", "SOFT,HARD", "--raw").split()
    run("prlimit", "--pid", str(pid), f"--nofile={most + 1}:{before[1]}")
    return lambda: run("prlimit", "--pid", str(pid), f"--nofile={before[0]}:{before[1]}")


def read_only(volume):
    """The store's filesystem finds itself broken, and takes no more changes until it is checked and mounted again."""
    # All that was done before is to be there then.
    run(*volume.command("snapshot-create", "--sync"))
    run("mount", "-o", "remount,abort", f"{SCRATCH}/disk")

    def finish():
        volume.abandon()
        run("umount", f"{SCRATCH}/disk")
        # Who has a mount namespace of his own keeps it for as long as he lives.
        end = time.monotonic() + 2 * PATIENCE
        while run("losetup", "-j", f"{SCRATCH}/image"):
            if time.monotonic() > end:
                raise RuntimeError("the store's filesystem stays mounted somewhere")
            time.sleep(0.2)
        run("e2fsck", "-fy", f"{SCRATCH}/image", ok=(0, 1))
        mount_disk()
        volume.start()

    return finish


def mount_disk():
    run("mount", "-o", "loop,errors=remount-ro", f"{SCRATCH}/image", f"{SCRATCH}/disk")


def unmounted(volume):
    """The store's filesystem is unmounted under the daemon, as far as that goes: it has it open."""
    run("umount", "-l", f"{SCRATCH}/disk")
    return mount_disk


def little_memory(volume):
    group = f"/sys/fs/cgroup/memory/agentfs-faults-{os.getpid()}"
    os.mkdir(group)
    with open(f"{group}/memory.limit_in_bytes", "w") as file:
        file.write(str(48 << 20))
    with open(f"{group}/cgroup.procs", "w") as file:
        file.write(str(volume.daemon.pid))

    def finish():
        with open("/sys/fs/cgroup/memory/cgroup.procs", "w") as file:
            file.write(str(volume.daemon.pid))
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return os.rmdir(group)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    return finish


def can_trace():
    return bool(shutil.which("strace")) and subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "-e", "inject=getpid:error=EIO", "true"], check=False, stderr=subprocess.DEVNULL).returncode == 0


def faults():
    """All of them: what each is called, what begins it, and the errnos that may tell of it."""
    if can_trace():
        for what, calls in CALLS.items():
            for error in ("EIO", "ENOSPC") + (("EMFILE",) if what == "open" else ()):
                for how, when in (("all", ""), ("one in seven", ":when=3+7")):
                    yield f"{error} for {how} of: {what}", injected(calls, error, when), {getattr(errno, error)}
    else:
        print("faults of system calls: skipped, there is no strace, or it may not trace here")
    yield "no descriptor is left", few_descriptors, {errno.EMFILE, errno.ENFILE}
    yield "the store becomes read-only", read_only, {errno.EROFS}
    yield "the store is unmounted", unmounted, set()
    if os.access("/sys/fs/cgroup/memory/cgroup.procs", os.W_OK):
        yield "48 MiB of memory", little_memory, {errno.ENOMEM}
    else:
        print("a limit on memory: skipped, there is no cgroup of version 1 for it")


def suffer(volume, name, begin, expected, seed):
    """One fault. Returns what was wrong."""
    accounts = Accounts(volume, seed)
    for branch in BRANCHES:
        for number in range(12):
            accounts.allowed[branch, f"f{number}"] = None
            accounts.write(branch, f"f{number}", random.Random(number).randbytes(100_000 if number % 2 else 900), "renamed")
    accounts.until(time.monotonic() + 0.2)
    before, accounts.answers = accounts.answers, {}
    accounts.wrong += [f"before the fault {what}: {told}" for what, told in before.items() if told != {"done"} and what not in ("unlink", "patch", "read")]
    end = begin(volume)
    try:
        worker = threading.Thread(target=accounts.until, args=(time.monotonic() + SECONDS,), daemon=True)
        worker.start()
        worker.join(PATIENCE * 2)
        if worker.is_alive():
            raise RuntimeError(f"{name}: an operation hangs")
    finally:
        end()
    allowed = {errno.errorcode[code] for code in expected | ALWAYS | {errno.ENOENT}} | {"done"}
    for what, told in accounts.answers.items():
        if told - allowed:
            accounts.wrong.append(f"{what} answered {', '.join(sorted(told - allowed))}")
    if "EROFS" in accounts.answers.get("read", ()):
        accounts.wrong.append("who only reads is told that the store is read-only")
    if name.endswith(SEEN) and all(told == {"done"} for told in accounts.answers.values()):
        accounts.wrong.append("nothing failed at all: it was no fault")
    if volume.daemon.poll() is not None:
        return [f"the daemon ended with {volume.daemon.returncode}"]
    accounts.recover()
    accounts.compare("when it was over")
    volume.stop()
    checked = subprocess.run([HOST, "check", volume.store], check=False, capture_output=True, text=True)
    if checked.returncode != 0:
        accounts.wrong.append(f"check: {checked.stdout} {checked.stderr}")
    volume.start()
    accounts.compare("after a remount")
    told = "; ".join(f"{what}: {', '.join(sorted(answers))}" for what, answers in sorted(accounts.answers.items()))
    print(f"{name}: {'FAILED' if accounts.wrong else 'passed'}; slowest {accounts.slowest:.1f} s; {told}", flush=True)
    for wrong in accounts.wrong[:20]:
        print(f"    {wrong}", flush=True)
    return accounts.wrong


def main():
    disk = f"{SCRATCH}/disk"
    os.makedirs(disk)
    with open(f"{SCRATCH}/image", "wb") as image:
        image.truncate(4 << 30)
    run("mkfs.ext4", "-q", "-F", f"{SCRATCH}/image")
    mount_disk()
    failed, count = [], 0
    try:
        for number, (name, begin, expected) in enumerate(faults()):
            if ONLY and ONLY not in name:
                continue
            place = f"{SCRATCH}/{number}"
            os.makedirs(place)
            volume = Volume(place, OUT)
            volume.store = f"{disk}/{number}"
            try:
                volume.start()
                volume.ask("branch-create", "--from", "main", "--name", "one")
                count += 1
                if suffer(volume, name, begin, expected, number):
                    failed.append(name)
                volume.stop()
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                print(f"{name}: FAILED: {error}", flush=True)
                failed.append(name)
            finally:
                volume.abandon()
            shutil.rmtree(f"{disk}/{number}", ignore_errors=True)
    finally:
        subprocess.run(["umount", "-l", disk], check=False)
    print(f"{count} faults, {len(failed)} failed" + "".join(f"\n  {name}" for name in failed))
    sys.exit(bool(failed) or not count)


main()
