"""What the harnesses share that work on one volume for long: its daemon, its command line, and things to work with."""
import json, os, random, re, subprocess, tarfile, time
from io import BytesIO

HOST, CLI = os.environ["HOST_BIN"], os.environ["CLI_BIN"]
# For git, which is told no more than this.
COMMIT = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "gc.auto=0", "-c", "commit.gpgsign=false"]
PATIENCE = 120


def run(*words, cwd=None, ok=(0,)):
    """What a command prints. It ends in time, and as is `ok`, or the run does not go on."""
    done = subprocess.run(words, check=False, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          timeout=PATIENCE)
    if done.returncode not in ok:
        raise RuntimeError(f"{' '.join(words)}: {done.returncode} {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return done.stdout


def make_archive(path, seed, files):
    """An archive PATH.tar of random files, and what it holds in PATH."""
    chance = random.Random(seed)
    with tarfile.open(f"{path}.tar", "w") as archive:
        for n in range(files):
            data = chance.randbytes(int(min(200_000, chance.lognormvariate(8, 1.5))))
            entry = tarfile.TarInfo(f"d{n % 10}/f{n}")
            entry.size, entry.mtime = len(data), 1_700_000_000
            archive.addfile(entry, BytesIO(data))
    os.makedirs(path)
    run("tar", "xf", f"{path}.tar", "-C", path)


class Volume:
    """A volume on a store of its own, below a scratch directory; its daemon writes to OUT/daemon.log."""

    def __init__(self, scratch, out, *options):
        self.root, self.store, self.log = f"{scratch}/mount", f"{scratch}/store", f"{out}/daemon.log"
        self.options, self.daemon = options, None
        os.makedirs(self.root)

    def start(self):
        with open(self.log, "a") as log:
            words = [HOST, *self.options, "--store", self.store, self.root]
            self.daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.time() + PATIENCE
        while time.time() < end:
            try:
                os.statvfs(f"{self.root}/.agentfs/control")
                return
            except OSError:
                if self.daemon.poll() is not None:
                    raise RuntimeError(f"the daemon does not start: {self.daemon.returncode}") from None
                time.sleep(0.005)
        raise RuntimeError("the volume does not mount")

    def stop(self):
        """Unmounts it cleanly."""
        run("umount" if os.geteuid() == 0 else "fusermount3", *([] if os.geteuid() == 0 else ["-u"]), self.root)
        if self.daemon.wait(PATIENCE) != 0:
            raise RuntimeError(f"the daemon ended with {self.daemon.returncode}")

    def abandon(self):
        """Has nothing left behind, in whatever state it is."""
        words = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
        subprocess.run([*words, self.root], check=False, stderr=subprocess.DEVNULL)
        if self.daemon is None:
            return
        try:
            self.daemon.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        # Where the kernel is old, dead mounts lie below.
        while subprocess.run([*words, self.root], check=False, stderr=subprocess.DEVNULL).returncode == 0:
            pass

    def command(self, *words):
        """Words of the command line."""
        return [CLI, "--mount", self.root, *words]

    def ask(self, *words):
        return json.loads(run(*self.command("--json", *words)))

    def place(self, branch):
        """Where a branch is seen."""
        return self.root if branch == "main" else f"{self.root}/.agentfs/branches/{branch}"

    def resident(self):
        """The daemon's memory, in bytes."""
        with open(f"/proc/{self.daemon.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) * 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))
