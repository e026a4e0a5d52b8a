#!/usr/bin/env python3
"""bench-sqlite.py SCRATCH CLI OUT: SQLite in three branches of one snapshot, on the volumes SCRATCH/layered and SCRATCH/whole,
and in three copies on the host.

Environment: GIB (size of the database, default 1), BENCH_RUN (seconds of updates in each place, default 120), BRANCHES (3).
Each transaction updates ten random rows of 1 KiB; the log (WAL) is written back every 1,000 pages, as by default.
Prints a report and writes it to OUT as JSON. Exits with 1 when a database is not sound.
"""
import json, os, random, shutil, sqlite3, subprocess, sys, time

from bench_store import control, held

scratch, cli, out = (sys.argv + [""])[1:4]
size = int(float(os.environ.get("GIB", "1")) * 2**30)
seconds = float(os.environ.get("BENCH_RUN", "120"))
branches = int(os.environ.get("BRANCHES", "3"))
rows = size // 1100
report = {}


def make(path):
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, data BLOB)")
    for begin in range(0, rows, 10000):
        with db:
            db.executemany(
                "INSERT INTO t VALUES (?, 0, ?)",
                ((n, random.randbytes(1024)) for n in range(begin, min(begin + 10000, rows))),
            )
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def update(path, seed, until):
    """Updates until then; prints how many transactions were done."""
    random.seed(seed)
    db = sqlite3.connect(path, timeout=60)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    done = 0
    while time.time() < until:
        with db:
            for _ in range(10):
                db.execute("UPDATE t SET n = n + 1, data = ? WHERE id = ?", (random.randbytes(1024), random.randrange(rows)))
        done += 1
    db.close()
    print(done)


def run_all(places):
    until = time.time() + seconds
    workers = [
        subprocess.Popen([sys.executable, __file__, "update", place, str(n), str(until)], stdout=subprocess.PIPE, text=True, env=os.environ)
        for n, place in enumerate(places)
    ]
    done = [int(worker.communicate(timeout=seconds + 300)[0]) for worker in workers]
    for place, count in zip(places, done):
        db = sqlite3.connect(place)
        sound, total = db.execute("PRAGMA integrity_check").fetchone()[0], db.execute("SELECT sum(n) FROM t").fetchone()[0]
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        if sound != "ok" or total != 10 * count:
            raise SystemExit(f"{place}: {sound}, {total} updates of {10 * count}")
    return done


def changed_pages(old, new):
    """How many pages of 4 KiB differ."""
    count = 0
    with open(old, "rb") as a, open(new, "rb") as b:
        while True:
            left, right = a.read(1 << 22), b.read(1 << 22)
            if not left and not right:
                return count
            for at in range(0, max(len(left), len(right)), 4096):
                count += left[at : at + 4096] != right[at : at + 4096]


def tell(name, value):
    report[name] = value
    print(f"{name}: {json.dumps(value)}", flush=True)


def main():
    made = f"{scratch}/made.db"
    make(made)
    for way in ("layered", "whole"):
        root = f"{scratch}/{way}"
        shutil.copyfile(made, f"{root}/mount/t.db")
        control(cli, f"{root}/mount", "snapshot-create", "--name", "s")
        for n in range(branches):
            control(cli, f"{root}/mount", "branch-create", "--from", "s", "--name", f"b{n}")
        before = held(f"{root}/store")
        places = [f"{root}/mount/.agentfs/branches/b{n}/t.db" for n in range(branches)]
        done = run_all(places)
        took = held(f"{root}/store") - before
        changed = sum(changed_pages(made, place) for place in places) * 4096
        tell(way, {"per_second": round(sum(done) / seconds), "transactions": done, "new_bytes": took, "changed_bytes": changed,
                   "ratio": round(took / changed, 2)})
    copies = [f"{scratch}/host{n}.db" for n in range(branches)]
    for copy in copies:
        shutil.copyfile(made, copy)
    done = run_all(copies)
    tell("host", {"per_second": round(sum(done) / seconds), "transactions": done})
    with open(out, "w") as file:
        json.dump(report, file, indent=1)


if sys.argv[1] == "update":
    update(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
else:
    main()
