"""soak.py SCRATCH OUT MINUTES: mixed work on one volume for so long; see `soak`. Writes OUT/minutes.jsonl.

Fails when anything that is read is not what was written, when a program fails, or when the daemon's memory or descriptors
grow from the second quarter of the time to the last.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tarfile
import time
from io import BytesIO

from performance_places import CLI, Volume, resident

SCRATCH, OUT, MINUTES = sys.argv[1], sys.argv[2], int(sys.argv[3])
SAMPLE_SECONDS = 5
KEPT_SNAPSHOTS = 20
BLOCK, BLOCKS = 4096, 4096
# By how much a steady state may seem to grow.
SLACK = 1.1
COMMIT = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "gc.auto=0", "-c", "commit.gpgsign=false"]


def run(*words, cwd=None):
    done = subprocess.run(words, check=False, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout[-300:]} {done.stderr[-300:]}")
    return done.stdout


def ask(volume, *words):
    return json.loads(run(CLI, "--mount", volume.root, "--json", *words))


def make_reference(path, seed):
    """A tree on the host and its archive."""
    chance = random.Random(seed)
    with tarfile.open(f"{path}.tar", "w") as archive:
        for n in range(400):
            data = chance.randbytes(int(min(300_000, chance.lognormvariate(8, 1.5))))
            entry = tarfile.TarInfo(f"tree/d{n % 20}/f{n}")
            entry.size, entry.mtime = len(data), 1_700_000_000
            archive.addfile(entry, BytesIO(data))
    os.makedirs(path)
    run("tar", "xf", f"{path}.tar", "-C", path)


def trees(volume, reference, _chance):
    """Unpacks, compares, commits, removes, in main."""
    work = f"{volume.root}/trees"
    os.makedirs(work)
    run("tar", "xf", f"{reference}.tar", "-C", work)
    run("diff", "-r", f"{reference}/tree", f"{work}/tree")
    run("git", "init", "-q", cwd=work)
    run("git", "add", "-A", cwd=work)
    run("git", *COMMIT, "commit", "-qm", "x", cwd=work)
    run("git", "fsck", "--strict", cwd=work)
    run("rm", "-rf", work)


def blocks(volume, _reference, chance):
    """Overwrites blocks of a file, in main, and reads all of them."""
    path, written = f"{volume.root}/blocks", {}
    if not os.path.exists(path):
        with open(path, "wb") as file:
            file.truncate(BLOCK * BLOCKS)
    with open(path, "r+b") as file:
        for _ in range(500):
            at, data = chance.randrange(BLOCKS), chance.randbytes(BLOCK)
            os.pwrite(file.fileno(), data, at * BLOCK)
            written[at] = data
        os.fdatasync(file.fileno())
    time.sleep(0.05)
    with open(path, "rb") as file:
        for at, data in written.items():
            if os.pread(file.fileno(), BLOCK, at * BLOCK) != data:
                raise RuntimeError(f"{path}: block {at} is not what was written")


def snapshots(volume, _reference, chance):
    """Takes them; keeps some."""
    done = subprocess.run([CLI, "--mount", volume.root, "snapshot-create"], check=False, capture_output=True, text=True)
    if done.returncode != 0 and "written all the while" not in done.stderr:
        raise RuntimeError(done.stderr)
    known = ask(volume, "snapshot-list")
    for snapshot in known[:-KEPT_SNAPSHOTS]:
        run(CLI, "--mount", volume.root, "snapshot-delete", snapshot["id"])
    time.sleep(chance.random() * 0.3)


def branches(volume, reference, chance):
    """Grows one, works in it as one of three kinds of process, and deletes it."""
    name = f"b{os.getpid()}"
    done = subprocess.run([CLI, "--mount", volume.root, "branch-create", "--from", "main", "--name", name], check=False,
                          capture_output=True, text=True)
    if done.returncode != 0:
        if "written all the while" in done.stderr:
            return
        raise RuntimeError(done.stderr)
    script = f'rm -rf "$1/own" && mkdir "$1/own" && tar xf {reference}.tar -C "$1/own" && diff -r {reference}/tree "$1/own/tree"'
    own = f"{volume.root}/.agentfs/branches/{name}"
    cli = [CLI, "--mount", volume.root]
    words = chance.choice([
        ["sh", "-c", script, "sh", own],
        [*cli, "branch-exec", "--branch", name, "--", "sh", "-c", script, "sh", volume.root],
        ["sh", "-c", f'"$0" --mount "$1" branch-bind --branch {name} >/dev/null && {script}', CLI, volume.root],
    ])
    run(*words)
    run("diff", "-r", f"{reference}/tree", f"{own}/own/tree")
    for _ in range(100):
        # Closing, and the end of a process, are told a little later.
        gone = subprocess.run([*cli, "branch-delete", name, "--force", "--now"], check=False, capture_output=True, text=True)
        if gone.returncode == 0:
            return
        time.sleep(0.1)
    raise RuntimeError(gone.stderr)


def worker(work, volume, reference, seed, until):
    pid = os.fork()
    if pid:
        return pid
    chance, rounds = random.Random(seed), 0
    try:
        while time.time() < until:
            work(volume, reference, chance)
            rounds += 1
        print(f"{work.__name__}: {rounds} rounds", flush=True)
    except BaseException as error:
        print(f"FAILED {work.__name__}, round {rounds}: {error}", flush=True)
        os._exit(1)
    os._exit(0)


def sample(volume):
    pid = volume.daemon.pid
    return {"memory_bytes": resident(volume.daemon), "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}


def main():
    volume, reference = Volume("volume", f"{SCRATCH}/volume"), f"{SCRATCH}/reference"
    make_reference(reference, 3)
    volume.prepare()
    samples, failed = [], []
    try:
        until = time.time() + MINUTES * 60
        works = [trees, blocks, snapshots, branches, branches]
        pids = [worker(work, volume, reference, n, until) for n, work in enumerate(works)]
        with open(f"{OUT}/minutes.jsonl", "w") as out:
            begun = time.time()
            while time.time() < until:
                time.sleep(SAMPLE_SECONDS)
                samples.append({"second": round(time.time() - begun)} | sample(volume))
                out.write(json.dumps(samples[-1]) + "\n")
                out.flush()
        failed = [work.__name__ for work, pid in zip(works, pids) if os.waitpid(pid, 0)[1]]
        status = ask(volume, "status")
        print(f"at the end: {json.dumps({key: value for key, value in status.items() if isinstance(value, int)})}")
    finally:
        volume.close()
    quarter = len(samples) // 4
    for what in ("memory_bytes", "descriptors"):
        middle, last = (statistics.median(sample[what] for sample in part) for part in
                        (samples[quarter : 2 * quarter], samples[-quarter:]))
        print(f"{what}: {middle:.0f} in the second quarter, {last:.0f} in the last")
        if last > middle * SLACK:
            failed.append(what)
    if failed:
        sys.exit(f"soak: failed: {', '.join(failed)}")


main()
