"""performance_places.py: where performance.py works: a host directory, fuse-overlayfs, and volumes in all kinds of states."""

import json
import os
import re
import struct
import subprocess
import sys
import time

from control_frames import ask as ask_control, framed

HERE = os.path.dirname(os.path.abspath(__file__))
HOST, CLI = os.environ["HOST_BIN"], os.environ["CLI_BIN"]
BRANCHES, SNAPSHOTS = 10, 10_000
IS_ROOT = os.geteuid() == 0
# Bytes of the filesystem that is made for stores that share blocks.
XFS_SIZE = 12 << 30
# Takes a snapshot without a name of the branch that is seen.
SNAPSHOT = bytes([0]) + struct.pack("<II", 8, 9) + b"1" + struct.pack("<I", 4) + b"\0"


def wait_for(condition, complaint):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    sys.exit(complaint)


def unmount(root, daemon):
    for options in ([], ["-l"], ["-z"]):
        words = ["umount", *options, root] if IS_ROOT else ["fusermount3", "-u", *options, root]
        if subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode == 0:
            break
    try:
        daemon.wait(120)
    except subprocess.TimeoutExpired:
        daemon.kill()


def resident(daemon):
    with open(f"/proc/{daemon.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) * 1024


class Place:
    """A directory to work in, and how."""

    def __init__(self, name, root, base=None):
        self.name, self.root, self.base = name, root, base or "host"
        self.work_dir, self.daemon = f"{root}/work", None

    def prepare(self):
        os.makedirs(self.work_dir)

    def command(self, work):
        return [sys.executable, f"{HERE}/performance_work.py", work, self.work_dir]

    def before(self):
        pass

    def requests(self):
        return None

    def close(self):
        pass


class Overlay(Place):
    """fuse-overlayfs."""

    def prepare(self):
        lower, upper, work = (f"{self.root}-{part}" for part in ("lower", "upper", "work"))
        for dir in (self.root, lower, upper, work):
            os.makedirs(dir)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        self.daemon = subprocess.Popen(["fuse-overlayfs", "-f", "-o", options, self.root], stderr=subprocess.DEVNULL)
        wait_for(lambda: os.path.ismount(self.root), "fuse-overlayfs does not mount")
        super().prepare()

    def close(self):
        unmount(self.root, self.daemon)


class Volume(Place):
    """A volume of ours, on a store of its own."""

    environment = {}

    def prepare(self):
        os.makedirs(self.root)
        with open(f"{sys.argv[2]}/daemon-{self.name.replace(' ', '-')}.log", "w") as log:
            words = [HOST, "--store", f"{self.root}-store", self.root]
            self.daemon = subprocess.Popen(words, stderr=log, env=os.environ | self.environment)
        wait_for(lambda: os.path.exists(f"{self.root}/.agentfs/control"), "the volume does not mount")
        super().prepare()

    def ask(self, *words):
        done = subprocess.run([CLI, "--mount", self.root, "--json", *words], check=True, capture_output=True, timeout=120)
        return json.loads(done.stdout)

    def requests(self):
        return {row["operation"]: row["count"] for row in self.ask("status", "--requests") if row["operation"] != "ioctl"}

    def close(self):
        unmount(self.root, self.daemon)


class Exact(Volume):
    """All data comes through the daemon, each write before it returns."""

    environment = {"AGENTFS_FUSE_DATA_PATH": "exact"}


class WriteBack(Volume):
    """All data comes through the daemon, from the kernel's cache some time after the write has returned."""

    environment = {"AGENTFS_FUSE_DATA_PATH": "write-back"}


class WithBranches(Volume):
    """Ten branches grew from main, and each changed something."""

    def prepare(self):
        super().prepare()
        for n in range(BRANCHES):
            self.ask("branch-create", "--from", "main", "--name", f"b{n}")
            with open(f"{self.root}/.agentfs/branches/b{n}/own", "w") as file:
                file.write("own")


class AfterSnapshot(Volume):
    """A snapshot was taken just before."""

    def before(self):
        self.ask("snapshot-create")


class Exec(Volume):
    """Inside branch-exec."""

    def prepare(self):
        super().prepare()
        self.ask("branch-create", "--from", "main", "--name", "own")

    def command(self, work):
        return [CLI, "--mount", self.root, "branch-exec", "--branch", "own", "--", *super().command(work)]


class Bound(Exec):
    """In a process that is bound to a branch."""

    def command(self, work):
        binds = '"$0" --mount "$1" branch-bind --branch own >/dev/null && shift && exec "$@"'
        return ["sh", "-c", binds, CLI, self.root, *Place.command(self, work)]


class WithSnapshots(Volume):
    """Many snapshots were taken, with a change between each."""

    def prepare(self):
        super().prepare()
        control = os.open(f"{self.root}/.agentfs/control", os.O_RDONLY)
        for n in range(SNAPSHOTS):
            os.close(os.open(f"{self.root}/changed-{n % 100}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC))
            answer = ask_control(control, framed(SNAPSHOT))
            if not isinstance(answer, bytes) or answer[:1] != b"\0":
                sys.exit(f"no snapshot was taken: {answer}")
        os.close(control)


class Xfs:
    """A filesystem that shares blocks, in a file of its own; used by two places."""

    def __init__(self, scratch):
        self.image, self.mount, self.users = f"{scratch}/xfs.img", f"{scratch}/xfs", 0

    def enter(self):
        self.users += 1
        if self.users > 1:
            return
        os.makedirs(self.mount)
        with open(self.image, "w") as image:
            image.truncate(XFS_SIZE)
        for words in (["mkfs.xfs", "-q", self.image], ["mount", "-o", "loop", self.image, self.mount]):
            subprocess.run(words, check=True, capture_output=True)

    def leave(self):
        self.users -= 1
        if self.users == 0:
            subprocess.run(["umount", self.mount], check=True)
            os.remove(self.image)


class OnXfs(Volume):
    """The store lies on a filesystem that shares blocks."""

    def __init__(self, name, xfs, base):
        super().__init__(name, f"{xfs.mount}/{name}", base)
        self.xfs = xfs

    def prepare(self):
        self.xfs.enter()
        super().prepare()

    def close(self):
        super().close()
        self.xfs.leave()


class XfsHost(Place):
    """A directory there."""

    def __init__(self, name, xfs):
        super().__init__(name, f"{xfs.mount}/{name}", name)
        self.xfs = xfs

    def prepare(self):
        self.xfs.enter()
        super().prepare()

    def close(self):
        self.xfs.leave()


STATES = {"exact": Exact, "write-back": WriteBack, "branches": WithBranches, "snapshots": WithSnapshots, "snapshot": AfterSnapshot,
          "exec": Exec, "bound": Bound}
VARIANTS = [*STATES, "xfs"]


def variants(names, scratch):
    """The places that VARIANTS names."""
    places = []
    for name in names:
        if name == "xfs":
            xfs = Xfs(scratch)
            places += [XfsHost("xfs host", xfs), OnXfs("xfs volume", xfs, "xfs host")]
        else:
            places.append(STATES[name](name, f"{scratch}/{name}"))
    return places
