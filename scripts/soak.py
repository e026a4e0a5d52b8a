"""soak.py SCRATCH OUT MINUTES SEED: see `soak`. Writes OUT/samples.jsonl.

Eight workers, each with a directory of its own in the branch that it is in, work there and compare what they read with what they
wrote, of which they keep account on the host. A worker is a process that is bound, or runs in branch-exec, or, of main, neither; after
some turns it ends, and another begins somewhere else. Meanwhile the conductor takes snapshots, merges, restores, undoes, deletes and
grows branches, each while the workers of the branches concerned hold still, and compares whole trees with what they have to be.
"""

import fcntl
import hashlib
import json
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time

from bench_store import space
from long_run import COMMIT, Volume, make_archive, run

SCRATCH, OUT = sys.argv[1], sys.argv[2]
ACCOUNTS, LOCKS, KEPT, REFERENCE = (f"{SCRATCH}/{name}" for name in ("accounts", "locks", "kept", "reference"))
BRANCHES = ["main", "one", "two", "three", "four", "five"]
WORKERS = 8
TURNS = 12
SAMPLE_SECONDS = 5
KEPT_SNAPSHOTS = 12
BLOCK, BLOCKS = 4096, 1024
# By how much a steady state may seem to grow, and how much of what was held at most may be left when all is deleted.
SLACK, LEFT = 1.1, 0.01
# A log is not shortened for less.
LITTLE = 4 << 20
# For so long the volume becomes fuller: all workers come to have something in all branches.
STEADY_MINUTES = 25


class Held:
    """A branch in which nobody else works; or, `shared`, one that nobody takes away."""

    def __init__(self, *branches, shared=False):
        # In one order, so that none waits for another that waits for it.
        self.files = [open(f"{LOCKS}/{branch}", "w") for branch in sorted(branches)]
        self.how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX

    def __enter__(self):
        for file in self.files:
            fcntl.flock(file, self.how)

    def __exit__(self, *_):
        for file in self.files:
            file.close()


def account(branch, worker):
    return f"{ACCOUNTS}/{branch}/{worker}.json"


def load(branch, worker):
    try:
        with open(account(branch, worker)) as file:
            return json.load(file)
    except FileNotFoundError:
        return {"files": {}, "rows": 0, "blocks": {}, "commits": []}


def store(branch, worker, state):
    with open(f"{account(branch, worker)}.new", "w") as file:
        json.dump(state, file)
    os.rename(f"{account(branch, worker)}.new", account(branch, worker))


def digest(data):
    return hashlib.sha1(data).hexdigest()


def content(path):
    with open(path, "rb") as file:
        return file.read()


def expect(what, found, expected):
    if found != expected:
        raise RuntimeError(f"{what} is {str(found)[:300]}, and not {str(expected)[:300]}")


# What a worker does in a turn: `home` is its directory, `state` its account.


def churn(home, state, chance):
    """Small files: written anew, appended to, renamed one over the other, removed."""
    files = state["files"]
    for _ in range(60):
        name, data = f"f{chance.randrange(80)}", chance.randbytes(chance.randrange(1, 20_000))
        path = f"{home}/{name}"
        match chance.randrange(4):
            case 0:
                with open(f"{path}.new", "wb") as file:
                    file.write(data)
                os.rename(f"{path}.new", path)
                files[name] = digest(data)
            case 1 if name in files:
                with open(path, "ab") as file:
                    file.write(data)
                files[name] = digest(content(path))
            case 2 if name in files:
                other = f"f{chance.randrange(80)}"
                os.rename(path, f"{home}/{other}")
                files[other] = files.pop(name)
            case 3 if name in files:
                os.unlink(path)
                del files[name]


def transactions(home, state, chance):
    """Rows of a database, committed."""
    base = sqlite3.connect(f"{home}/base", timeout=60, isolation_level=None)
    try:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, bytes BLOB)")
        expect("the number of rows", base.execute("SELECT count(*) FROM rows").fetchone()[0], state["rows"])
        for _ in range(20):
            base.execute("BEGIN IMMEDIATE")
            row = chance.randrange(500)
            known = base.execute("SELECT count(*) FROM rows WHERE n = ?", (row,)).fetchone()[0]
            base.execute("INSERT OR REPLACE INTO rows VALUES (?, ?)", (row, chance.randbytes(chance.randrange(4000))))
            base.execute("COMMIT")
            state["rows"] += 1 - known
        expect("the database", base.execute("PRAGMA integrity_check").fetchone()[0], "ok")
    finally:
        base.close()


def overwrite(home, state, chance):
    """Blocks of a file that is large enough to come into layers."""
    path, blocks = f"{home}/blocks", state["blocks"]
    if not os.path.exists(path):
        with open(path, "wb") as file:
            file.truncate(BLOCK * BLOCKS)
    with open(path, "r+b") as file:
        for _ in range(100):
            at, data = chance.randrange(BLOCKS), chance.randbytes(BLOCK)
            os.pwrite(file.fileno(), data, at * BLOCK)
            blocks[str(at)] = digest(data)
        os.fdatasync(file.fileno())


def repository(home, state, chance):
    """A commit of some files."""
    work = f"{home}/repository"
    if len(state["commits"]) > 40:
        shutil.rmtree(work)
        state["commits"] = []
    if not os.path.exists(work):
        os.makedirs(work)
        run("git", "init", "-q", "-b", "main", cwd=work)
    for n in range(5):
        with open(f"{work}/f{n}", "wb") as file:
            file.write(chance.randbytes(chance.randrange(1, 30_000)))
    run("git", "add", "-A", cwd=work)
    run("git", *COMMIT, "commit", "-qm", "x", cwd=work)
    state["commits"].append(run("git", "rev-parse", "HEAD", cwd=work).strip())


def tree(home, _state, _chance):
    """An archive, unpacked, compared and removed."""
    run("tar", "xf", f"{REFERENCE}.tar", "-C", home)
    try:
        for directory in os.listdir(REFERENCE):
            run("diff", "-r", f"{REFERENCE}/{directory}", f"{home}/{directory}")
    finally:
        for directory in os.listdir(REFERENCE):
            shutil.rmtree(f"{home}/{directory}")


def compare(home, state):
    """Is a worker's directory what its account says?"""
    if not os.path.exists(home):
        expect(home, {"files": {}, "rows": 0, "blocks": {}, "commits": []}, state)
        return
    names = {name for name in os.listdir(home) if name.startswith("f")}
    expect(f"the names in {home}", names, set(state["files"]))
    for name, known in state["files"].items():
        expect(f"{home}/{name}", digest(content(f"{home}/{name}")), known)
    if state["blocks"]:
        with open(f"{home}/blocks", "rb") as file:
            for at, known in state["blocks"].items():
                expect(f"block {at} of {home}", digest(os.pread(file.fileno(), BLOCK, int(at) * BLOCK)), known)
    if state["commits"]:
        run("git", "fsck", "--strict", cwd=f"{home}/repository")
        expect(f"{home}/repository", run("git", "rev-parse", "HEAD", cwd=f"{home}/repository").strip(), state["commits"][-1])
        expect(f"{home}/repository", run("git", "status", "--porcelain", cwd=f"{home}/repository"), "")
    if state["rows"]:
        # Where a snapshot is taken, the database is as after a crash.
        base = sqlite3.connect(f"{home}/base", timeout=60)
        expect(f"the rows of {home}", base.execute("SELECT count(*) FROM rows").fetchone()[0], state["rows"])
        base.close()


def worker(branch, number, seed, until):
    """A worker in its branch: the process sees it at the mount point."""
    chance, home = random.Random(seed), f"{SCRATCH}/mount/w{number}"
    with open(f"{LOCKS}/ready-{number}", "w"):
        pass
    for _ in range(TURNS):
        with Held(branch, shared=True):
            if time.time() >= until or os.path.exists(f"{LOCKS}/leave-{branch}"):
                return
            state = load(branch, number)
            os.makedirs(home, exist_ok=True)
            chance.choice([churn, churn, transactions, overwrite, repository, tree])(home, state, chance)
            store(branch, number, state)
            if chance.random() < 0.3:
                compare(home, state)
        time.sleep(chance.random() * 0.2)


# What the conductor does.


def compare_branch(at, branch):
    for number in range(WORKERS):
        compare(f"{at}/w{number}", load(branch, number))


class Conductor:
    def __init__(self, volume, chance, crew):
        self.volume, self.chance, self.crew, self.kept, self.done = volume, chance, crew, {}, {}

    def snapshot(self, branch):
        """A snapshot, and the accounts as they are then. The caller holds the branch."""
        taken = self.volume.ask("snapshot-create", "--branch", branch)["id"]
        shutil.copytree(f"{ACCOUNTS}/{branch}", f"{KEPT}/{taken}")
        self.kept[taken] = branch
        return taken

    def forget(self):
        """Deletes snapshots that are too many, whichever they are, and those that merges and restores kept."""
        for taken in self.volume.ask("snapshot-list"):
            if taken["id"] not in self.kept:
                run(*self.volume.command("snapshot-delete", taken["id"]))
        while len(self.kept) > KEPT_SNAPSHOTS:
            old = self.chance.choice(list(self.kept))
            run(*self.volume.command("snapshot-delete", old))
            shutil.rmtree(f"{KEPT}/{old}")
            del self.kept[old]

    def restore_accounts(self, branch, kept):
        shutil.rmtree(f"{ACCOUNTS}/{branch}")
        shutil.copytree(f"{KEPT}/{kept}", f"{ACCOUNTS}/{branch}")

    def take(self):
        branch = self.chance.choice(BRANCHES)
        with Held(branch):
            self.snapshot(branch)
        self.forget()

    def look_into_a_snapshot(self):
        """It is what the branch was, through a branch that grows from it."""
        if not self.kept:
            return
        kept = self.chance.choice(list(self.kept))
        self.volume.ask("branch-create", "--from", kept, "--name", "look")
        with Held("look"):
            shutil.copytree(f"{KEPT}/{kept}", f"{ACCOUNTS}/look")
            compare_branch(self.volume.place("look"), "look")
            shutil.rmtree(f"{ACCOUNTS}/look")
        self.delete("look")

    def restore(self):
        """Back to a snapshot of the same branch; then, sometimes, undone."""
        branch = self.chance.choice(BRANCHES)
        own = [kept for kept, of in self.kept.items() if of == branch]
        if not own:
            return
        with Held(branch):
            before = self.snapshot(branch)
            kept = self.chance.choice(own)
            changed = json.loads(self.insist("--json", "restore", "--from", kept, branch))["steps"]
            self.restore_accounts(branch, kept)
            compare_branch(self.volume.place(branch), branch)
            # What changed nothing cannot be undone.
            if changed and self.chance.random() < 0.5:
                self.insist("undo")
                self.restore_accounts(branch, before)
                compare_branch(self.volume.place(branch), branch)
        self.forget()

    def merge(self):
        """A branch with files of its own comes back."""
        into = self.chance.choice(BRANCHES)
        with Held(into):
            self.volume.ask("branch-create", "--from", into, "--name", "side")
        at, number = self.volume.place("side"), self.chance.randrange(1 << 40)
        data = self.chance.randbytes(self.chance.randrange(1, 3_000_000))
        with open(f"{at}/merged", "wb") as file:
            file.write(data)
        with open(f"{at}/number", "w") as file:
            file.write(str(number))
        with Held(into):
            self.insist("merge", "side", "--into", into, "--theirs")
            place = self.volume.place(into)
            expect("what was merged", digest(content(f"{place}/merged")), digest(data))
            expect("what was merged", content(f"{place}/number"), str(number).encode())
            compare_branch(place, into)
        self.delete("side")

    def renew(self):
        """A branch is deleted, and grows anew from another."""
        branch, source = self.chance.choice(BRANCHES[1:]), self.chance.choice(BRANCHES)
        if branch == source:
            return
        self.crew.vacate(branch)
        with Held(branch, source):
            self.delete(branch)
            self.volume.ask("branch-create", "--from", source, "--name", branch)
            shutil.rmtree(f"{ACCOUNTS}/{branch}")
            shutil.copytree(f"{ACCOUNTS}/{source}", f"{ACCOUNTS}/{branch}")
            compare_branch(self.volume.place(branch), branch)
        os.unlink(f"{LOCKS}/leave-{branch}")

    def insist(self, *words):
        """Workers that hold still have closed their files, which is told a little later."""
        for _ in range(200):
            done = subprocess.run(self.volume.command(*words), check=False, capture_output=True, text=True, timeout=120)
            if done.returncode == 0:
                return done.stdout
            if "busy" not in done.stderr.lower() and "open" not in done.stderr and "bound" not in done.stderr and \
               "see branch" not in done.stderr and "live" not in done.stderr:
                break
            time.sleep(0.1)
        raise RuntimeError(f"{words}: {done.stderr}")

    def delete(self, branch):
        self.insist("branch-delete", branch, "--force", "--now")

    def turn(self):
        work = self.chance.choices(
            [self.take, self.look_into_a_snapshot, self.restore, self.merge, self.renew], [4, 2, 2, 3, 1])[0]
        work()
        self.done[work.__name__] = self.done.get(work.__name__, 0) + 1


class Crew:
    """The workers, and where they are."""

    def __init__(self, volume, chance, until):
        self.volume, self.chance, self.until = volume, chance, until
        self.running, self.shifts = {}, {}

    def hire(self, number):
        branch = self.chance.choice(BRANCHES)
        words = [sys.executable, __file__, SCRATCH, OUT, "worker", branch, str(number), str(self.chance.random()), str(self.until)]
        how = "alone" if branch == "main" else self.chance.choice(["bound", "exec"])
        if how == "bound":
            words = ["sh", "-c", 'cli=$1 mount=$2 branch=$3; shift 3; "$cli" --mount "$mount" branch-bind --branch "$branch" >/dev/null && exec "$@"',
                     "sh", *self.volume.command()[:1], self.volume.root, branch, *words]
        elif how == "exec":
            words = self.volume.command("branch-exec", "--branch", branch, "--", *words)
        ready = f"{LOCKS}/ready-{number}"
        with open(f"{OUT}/workers.log", "a") as log:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running[number] = (process, branch)
        # It is in its branch before anybody takes that away.
        while not os.path.exists(ready) and process.poll() is None:
            time.sleep(0.01)
        if os.path.exists(ready):
            os.unlink(ready)
        self.shifts[how] = self.shifts.get(how, 0) + 1

    def vacate(self, branch):
        """All workers leave a branch, when they have done what they are at."""
        with open(f"{LOCKS}/leave-{branch}", "w"):
            pass
        for number in [number for number, (_, place) in self.running.items() if place == branch]:
            self.wait_for(number)

    def wait_for(self, number):
        process, branch = self.running[number]
        if process.wait(180) != 0:
            raise RuntimeError(f"worker {number} in {branch} ended with {process.returncode}: see workers.log")

    def look_after(self):
        """Who has ended is followed by another, who must not be in two places."""
        for number in range(WORKERS):
            known = self.running.get(number)
            if known is not None and known[0].poll() is None:
                continue
            if known is not None:
                self.wait_for(number)
            if time.time() < self.until:
                self.hire(number)

    def end(self):
        for number in self.running:
            self.wait_for(number)


def counts(volume):
    status = volume.ask("status")
    return {"known_inodes": status["known_inodes"],
            **{what: int(status["settings"][what]) for what in ("merge_points", "snapshots_on_disk")}}


def delete_everything(volume):
    """And waits for the space to come back, for a minute at most. Returns what is held then."""
    for branch in volume.ask("branch-list"):
        if branch.get("name") != "main":
            run(*volume.command("branch-delete", branch["id"], "--force", "--now"))
    for name in os.listdir(volume.root):
        if name != ".agentfs":
            run("rm", "-rf", f"{volume.root}/{name}")
    for snapshot in volume.ask("snapshot-list"):
        run(*volume.command("snapshot-delete", snapshot["id"]))
    time.sleep(5)
    print(f"memory when all is deleted: {volume.resident()}, with {volume.ask('status')['known_inodes']} known inodes")
    volume.stop()
    volume.start()
    print(f"and after a remount: {volume.resident()}")
    time.sleep(8)
    last = space(volume.store)
    # Until some seconds bring no more.
    for _ in range(10):
        time.sleep(5)
        now = space(volume.store)
        if now >= last:
            break
        last = now
    return last


def flat(samples, what):
    """Does it not grow from the third quarter of the time, when the volume is full, to the last?"""
    quarter = max(len(samples) // 4, 1)
    middle, last = (statistics.median(sample[what] for sample in part) for part in
                    (samples[2 * quarter : 3 * quarter], samples[-quarter:]))
    print(f"{what}: {middle:.0f} in the third quarter, {last:.0f} in the last")
    return last <= middle * SLACK


def main(minutes, seed):
    chance = random.Random(seed)
    for path in (ACCOUNTS, LOCKS, KEPT, *(f"{ACCOUNTS}/{branch}" for branch in BRANCHES)):
        os.makedirs(path)
    make_archive(REFERENCE, seed, 150)
    # Most snapshots leave memory.
    with open(f"{SCRATCH}/config.json", "w") as file:
        json.dump({"limits": {"resident_snapshots": 2}}, file)
    volume = Volume(SCRATCH, OUT, "--config", f"{SCRATCH}/config.json")
    try:
        volume.start()
        empty = space(volume.store)
        for branch in BRANCHES[1:]:
            volume.ask("branch-create", "--from", "main", "--name", branch)
        begun, until, samples = time.time(), time.time() + minutes * 60, []
        crew = Crew(volume, chance, until)
        conductor = Conductor(volume, chance, crew)
        with open(f"{OUT}/samples.jsonl", "w") as out:
            while time.time() < until:
                crew.look_after()
                conductor.turn()
                if not samples or time.time() - begun - samples[-1]["second"] >= SAMPLE_SECONDS:
                    samples.append({"second": round(time.time() - begun), "memory_bytes": volume.resident(),
                                    "descriptors": volume.descriptors(), "store_bytes": space(volume.store),
                                    **counts(volume)})
                    out.write(json.dumps(samples[-1]) + "\n")
                    out.flush()
        crew.end()
        for branch in BRANCHES:
            compare_branch(volume.place(branch), branch)
        print(f"0 differences in {minutes} minutes; the conductor: {conductor.done}; shifts of the workers: {crew.shifts}")
        steady = [flat(samples, what) for what in ("memory_bytes", "descriptors")]
        most, left = max(sample["store_bytes"] for sample in samples), delete_everything(volume)
        print(f"store: {empty} bytes when empty, {most} at most, {left} when all was deleted")
        volume.stop()
        run(os.environ["HOST_BIN"], "check", volume.store)
    except BaseException as error:
        sys.exit(f"soak: failed, seed {seed}: {type(error).__name__}: {error}")
    finally:
        volume.abandon()
    if minutes < STEADY_MINUTES:
        print(f"memory and descriptors: not judged, as {minutes} minutes are too few for a steady state")
    elif not all(steady):
        sys.exit("soak: failed: memory or descriptors grow")
    if left - empty > max(LEFT * most, LITTLE):
        sys.exit("soak: failed: not all space came back")


if sys.argv[3] == "worker":
    worker(sys.argv[4], int(sys.argv[5]), float(sys.argv[6]), float(sys.argv[7]))
else:
    main(float(sys.argv[3]), int(sys.argv[4]))
