"""test-kills.py SCRATCH OUT KILLS SEED: see `test-kills`.

Each worker notes in a file of the host what it was told is done; the checker compares that with what the next daemon shows.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

from long_run import COMMIT, HOST, PATIENCE, Volume, make_archive, run

SCRATCH, OUT, KILLS, SEED = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
NOTES, REFERENCE = f"{SCRATCH}/notes", f"{SCRATCH}/reference"
VOLUME = Volume(SCRATCH, OUT)
BRANCHES = ["one", "two"]
KEPT_SNAPSHOTS = 20
KILLS_PER_REPOSITORY = 20


def note(name, line):
    """What comes after was told to be done. The host does not die: no sync is needed."""
    with open(f"{NOTES}/{name}", "a") as file:
        file.write(f"{line}\n")


def noted(name):
    try:
        with open(f"{NOTES}/{name}") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def commits(branch, chance):
    """Commits files, and notes each commit."""
    work = f"{VOLUME.place(branch)}/repository"
    for lock in ("index.lock", "HEAD.lock", "refs/heads/main.lock", "objects/maintenance.lock"):
        if os.path.exists(f"{work}/.git/{lock}"):
            os.unlink(f"{work}/.git/{lock}")
    while True:
        for n in range(chance.randrange(1, 8)):
            with open(f"{work}/f{n}", "wb") as file:
                file.write(chance.randbytes(chance.randrange(1, 30_000)))
        run("git", "add", "-A", cwd=work)
        run("git", *COMMIT, "commit", "-qm", "x", cwd=work, ok=(0, 1))
        note(f"commits-{branch}", run("git", "rev-parse", "HEAD", cwd=work).strip())


def transactions(branch, chance):
    """Changes rows, and notes how many transactions were committed."""
    base = sqlite3.connect(f"{VOLUME.place(branch)}/base", timeout=PATIENCE, isolation_level=None)
    base.execute("PRAGMA synchronous=FULL")
    while True:
        base.execute("BEGIN IMMEDIATE")
        count = base.execute("SELECT max(n) FROM counter").fetchone()[0] + 1
        base.execute("INSERT INTO counter VALUES (?)", (count,))
        for _ in range(10):
            row = chance.randrange(2000)
            base.execute("INSERT OR REPLACE INTO rows VALUES (?, ?)", (row, chance.randbytes(chance.randrange(2000))))
        base.execute("COMMIT")
        note(f"transactions-{branch}", count)


def trees(branch, chance):
    """Unpacks trees, notes each, and removes what is old."""
    while True:
        known = noted(f"trees-{branch}")
        name = f"tree{len(known)}-{chance.randrange(1 << 30)}"
        os.makedirs(f"{VOLUME.place(branch)}/{name}")
        run("tar", "xf", f"{REFERENCE}.tar", "-C", f"{VOLUME.place(branch)}/{name}")
        note(f"trees-{branch}", name)
        if len(known) >= 3:
            note(f"removing-{branch}", known[-3])
            run("rm", "-rf", f"{VOLUME.place(branch)}/{known[-3]}")


def snapshots(branch, chance):
    """Takes them, and notes each; keeps some."""
    while True:
        done = subprocess.run(VOLUME.command("--json", "snapshot-create", "--branch", branch), check=False,
                              capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)
        if done.returncode == 0:
            note("snapshots", json.loads(done.stdout)["id"])
        elif "written all the while" not in done.stderr:
            raise RuntimeError(done.stderr)
        known = [taken for taken in noted("snapshots") if taken not in noted("deleting")]
        for old in known[:-KEPT_SNAPSHOTS]:
            note("deleting", old)
            run(*VOLUME.command("snapshot-delete", old))
        time.sleep(chance.random() * 0.2)


def work(kind, branch, seed):
    """In a process of its own, until the volume is gone."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    try:
        kind(branch, random.Random(seed))
    except BaseException as error:
        with open(f"{OUT}/workers.log", "a") as log:
            log.write(f"{kind.__name__} in {branch}: {error}\n")
    os._exit(0)


def begin_repository(branch):
    """A new one: what `git fsck` takes grows with all that was ever committed."""
    work = f"{VOLUME.place(branch)}/repository"
    run("rm", "-rf", work)
    with open(f"{NOTES}/commits-{branch}", "w"):
        pass
    os.makedirs(work)
    run("git", "init", "-q", "-b", "main", cwd=work)
    run("git", *COMMIT, "commit", "-qm", "first", "--allow-empty", cwd=work)


def prepare():
    """What the workers begin with."""
    make_archive(REFERENCE, SEED, 200)
    begin_repository("main")
    base = sqlite3.connect(f"{VOLUME.root}/base")
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("CREATE TABLE counter (n INTEGER)")
    base.execute("INSERT INTO counter VALUES (0)")
    base.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, bytes BLOB)")
    base.commit()
    base.close()
    for branch in BRANCHES:
        run(*VOLUME.command("branch-create", "--from", "main", "--name", branch))


def check(branch):
    """Is all there that was told to be done, and sound?"""
    at = VOLUME.place(branch)
    run("git", "fsck", "--strict", cwd=f"{at}/repository")
    for commit in noted(f"commits-{branch}")[-50:]:
        run("git", "cat-file", "-e", commit, cwd=f"{at}/repository")
    base = sqlite3.connect(f"{at}/base", timeout=PATIENCE)
    found = base.execute("PRAGMA integrity_check").fetchone()[0]
    if found != "ok":
        raise RuntimeError(f"the database of {branch}: {found}")
    told = [int(count) for count in noted(f"transactions-{branch}")[-1:]] or [0]
    has = base.execute("SELECT max(n) FROM counter").fetchone()[0]
    base.close()
    if has < told[0]:
        raise RuntimeError(f"the database of {branch} has {has} transactions of {told[0]} that were committed")
    removing = noted(f"removing-{branch}")
    for name in noted(f"trees-{branch}"):
        if name not in removing:
            run("diff", "-r", REFERENCE, f"{at}/{name}")


def check_snapshots():
    known = {taken["id"] for taken in VOLUME.ask("snapshot-list")}
    missing = [taken for taken in noted("snapshots") if taken not in known and taken not in noted("deleting")]
    if missing:
        raise RuntimeError(f"snapshots are gone: {missing}")
    return len(known)


def main():
    os.makedirs(NOTES)
    chance = random.Random(SEED)
    VOLUME.start()
    prepare()
    works = [(kind, branch) for branch in ("main", *BRANCHES) for kind in (commits, transactions, trees)]
    works.append((snapshots, "main"))
    works.append((snapshots, BRANCHES[0]))
    begun, taken = time.time(), 0
    try:
        for kill in range(KILLS):
            chosen = chance.sample(works, 5)
            pids = [work(kind, branch, chance.random()) for kind, branch in chosen]
            time.sleep(0.1 + chance.random() * 1.2)
            VOLUME.daemon.kill()
            VOLUME.daemon.wait()
            for pid in pids:
                # What waits for something else than the volume does not end by itself.
                for _ in range(200):
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        break
                    time.sleep(0.05)
                else:
                    os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    raise RuntimeError("a program hangs in a volume whose daemon is dead")
            run(HOST, "check", VOLUME.store)
            VOLUME.start()
            for branch in ("main", *BRANCHES):
                check(branch)
            taken = check_snapshots()
            if kill % KILLS_PER_REPOSITORY == KILLS_PER_REPOSITORY - 1:
                for branch in ("main", *BRANCHES):
                    begin_repository(branch)
            print(f"kill {kill + 1} of {KILLS}: all is there ({', '.join(f'{kind.__name__} {branch}' for kind, branch in chosen)})", flush=True)
    except BaseException as error:
        print(f"FAILED after {kill + 1} kills, seed {SEED}: {error}", flush=True)
        sys.exit(1)
    finally:
        VOLUME.abandon()
    done = {name: len(noted(name)) for name in sorted(os.listdir(NOTES))}
    print(f"{KILLS} kills in {time.time() - begun:.0f} s, nothing lost; {taken} snapshots in the end; told to be done: {json.dumps(done)}")


main()
