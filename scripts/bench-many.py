"""bench-many.py SCRATCH OUT: see `bench-many`. Writes OUT/figures.json.

The tree has FILES files; one of them is written between each two snapshots, so that all differ. Figures of creation are medians of
the last hundred commands.
"""
import json
import os
import random
import statistics
import sys
import time

from long_run import Volume

SCRATCH, OUT = sys.argv[1], sys.argv[2]
FILES = int(os.environ.get("FILES", "10000"))
SNAPSHOTS = int(os.environ.get("SNAPSHOTS", "100000"))
BRANCHES = int(os.environ.get("BRANCHES", "10000"))
SETTLED = 45  # seconds
AT = [n for n in (1_000, 10_000, 100_000, 1_000_000) if n <= SNAPSHOTS] or [SNAPSHOTS]


def timed(work, *args):
    begun = time.perf_counter()
    work(*args)
    return (time.perf_counter() - begun) * 1000


def last_hundred(volume, make):
    """What one takes, of the last hundred, and what a command takes that asks for nothing much, in ms."""
    def median(work):
        return statistics.median(timed(work) for _ in range(100))

    return {"ms": median(make), "ms_of_a_question": median(lambda: volume.ask("whoami"))}


def write(root, chance):
    name = f"{root}/d{chance.randrange(FILES // 100 or 1)}/f{chance.randrange(100)}"
    with open(name, "w") as file:
        file.write(str(chance.random()))


def look_up(place):
    """The time to stat a file in each of a hundred versions that nobody looked at before, in µs."""
    took = [timed(os.stat, f"{path}/d0/f0") * 1000 for path in place]
    return statistics.median(took)


def log_bytes(store):
    return sum(os.stat(f"{store}/{name}").st_size for name in os.listdir(store) if name.startswith("log-"))


def remount(volume):
    volume.stop()
    return timed(volume.start) / 1000


def main(volume):
    chance = random.Random(1)
    figures = {"files": FILES, "snapshots": {}}
    volume.start()
    for directory in range(FILES // 100 or 1):
        os.mkdir(f"{volume.root}/d{directory}")
        for file in range(100):
            with open(f"{volume.root}/d{directory}/f{file}", "w") as made:
                made.write("content")
    figures["mount_s_before"] = remount(volume)
    figures["resident_mib_before"] = volume.resident() / 2**20
    made = []

    def snapshot():
        made.append(volume.ask("snapshot-create", "--name", f"s{len(made)}")["id"])

    for goal in AT:
        while len(made) < goal - 100:
            write(volume.root, chance)
            snapshot()
        figures["snapshots"][goal] = row = last_hundred(volume, lambda: (write(volume.root, chance), snapshot()))
        row["resident_mib"] = volume.resident() / 2**20
        print(f"{goal} snapshots: {row}", flush=True)
    branches = []

    def branch():
        name = f"b{len(branches)}"
        volume.ask("branch-create", "--from", chance.choice(made), "--name", name)
        branches.append(name)

    while len(branches) < BRANCHES - 100:
        branch()
    figures["branches"] = row = last_hundred(volume, branch)
    row["count"] = len(branches)
    row["resident_mib"] = volume.resident() / 2**20
    print(f"branches: {row}", flush=True)
    figures["mount_s"] = remount(volume)
    figures["resident_mib_mounted"] = volume.resident() / 2**20
    # What nobody looks at leaves memory, which is given back to the kernel every 30 s.
    time.sleep(SETTLED)
    figures["resident_mib_settled"] = volume.resident() / 2**20
    figures["snapshots_on_disk"] = int(volume.ask("status")["settings"]["snapshots_on_disk"])
    figures["branch_lookup_us"] = look_up(f"{volume.root}/.agentfs/branches/{name}" for name in branches[::BRANCHES // 100 or 1])
    figures["resident_mib_looked_up"] = volume.resident() / 2**20
    figures["list_ms"] = timed(volume.ask, "snapshot-list")
    figures["log_mib"] = log_bytes(volume.store) / 2**20
    volume.stop()
    print(json.dumps(figures, indent=1))
    with open(f"{OUT}/figures.json", "w") as file:
        json.dump(figures, file)


VOLUME = Volume(SCRATCH, OUT)
try:
    main(VOLUME)
finally:
    VOLUME.abandon()
