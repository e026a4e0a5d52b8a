#!/usr/bin/env python3
"""bench-merging.py MOUNT CLI OUT: what diff, merge and undo cost, as whole commands.

In a branch ten files are changed, in main five of them in other lines. Environment: SIZES (numbers of files in the tree,
ascending; default "1000 100000"), SAMPLES (of each kind and size, default 30). Prints a report and writes it to OUT as JSON.
"""
import json, os, statistics, subprocess, sys, time

mount, cli, out = sys.argv[1:4]
sizes = [int(n) for n in os.environ.get("SIZES", "1000 100000").split()]
samples = int(os.environ.get("SAMPLES", "30"))
report = {}


def run(*args, codes=(0,)):
    """How long a command took, in milliseconds."""
    begun = time.perf_counter()
    done = subprocess.run([cli, "--mount", mount, *args], capture_output=True, text=True)
    took = (time.perf_counter() - begun) * 1000
    if done.returncode not in codes:
        raise SystemExit(f"{args}: {done.returncode}: {done.stdout}{done.stderr}")
    return took, done.stdout


def name(n):
    return f"d{n // 1000}/file-{n}.txt"


def grow_to(have, want):
    for n in range(have, want):
        if n % 1000 == 0:
            os.mkdir(f"{mount}/d{n // 1000}")
        with open(f"{mount}/{name(n)}", "w") as file:
            file.write(f"{n}\n" + "line\n" * 5 + "last\n")


def change(root, n, old, new):
    path = f"{root}/{name(n)}"
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:
        file.write(text.replace(old, new, 1))


def quartiles(ms):
    ms = sorted(ms)
    return {"median_ms": round(statistics.median(ms), 2), "p90_ms": round(ms[int(len(ms) * 0.9)], 2), "min_ms": round(ms[0], 2)}


def measure(size):
    changed = [n * (size // 10) for n in range(10)]
    run("branch-create", "--from", "main", "--name", "b")
    branch = f"{mount}/.agentfs/branches/b"
    for n in changed:
        change(branch, n, "last\n", f"the end in {size}\n")
    for n in changed[:5]:
        change(mount, n, f"{n}\n", f"{n} in {size}\n")
    took = {"whoami": [], "diff": [], "merge": [], "undo": []}
    for _ in range(samples):
        took["whoami"].append(run("whoami")[0])
        ms, told = run("diff", "main", "b", codes=(1,))
        assert len(told.splitlines()) == 10, told
        took["diff"].append(ms)
        ms, told = run("merge", "b")
        assert "CHANGED=10\tCONFLICTS=0" in told, told
        took["merge"].append(ms)
        took["undo"].append(run("undo")[0])
    run("branch-delete", "b", "--now", "--force")
    run("prune", "--keep-last", "0", "--delete")
    return {kind: quartiles(ms) for kind, ms in took.items()}


have = 0
for size in sizes:
    grow_to(have, size)
    have = size
    report[size] = measure(size)
    print(f"{size} files: {json.dumps(report[size])}", flush=True)
with open(out, "w") as file:
    json.dump(report, file, indent=1)
