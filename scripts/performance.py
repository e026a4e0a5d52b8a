"""performance.py SCRATCH OUT: the same work on a host directory, on volumes and on fuse-overlayfs, in turn.

Called by test-fuse-performance. Writes OUT/results.jsonl, OUT/summary.json and OUT/report.svg. Of each row the medians over
ROUNDS, and the median of the ratios within a round; above 1 is faster. VARIANTS are further volumes: what is alive, who asks,
what the volume lies on. WORKS, a regular expression, chooses rows. GATE=1 fails the run where a floor is missed.
"""

import json
import os
import random
import re
import statistics
import subprocess
import sys
import tarfile
import time
from io import BytesIO

from performance_places import BRANCHES, HERE, IS_ROOT, VARIANTS, Overlay, Place, Volume, WithBranches, resident, variants
from performance_work import NEEDS_ROOT, WORKS

SCRATCH, OUT = sys.argv[1], sys.argv[2]
ROUNDS = int(os.environ.get("ROUNDS", "5"))
CARGO_ROUNDS = int(os.environ.get("CARGO_ROUNDS", "1"))
CHOSEN = re.compile(os.environ.get("WORKS", "."))
# The longest that one work may take, in seconds.
PATIENCE = 900
TICKS = os.sysconf("SC_CLK_TCK")


def say(text):
    print(text, flush=True)


def cpu_seconds(daemon):
    with open(f"/proc/{daemon.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def make_tree(path):
    """An archive of 4,650 small files of text, the same in each run."""
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(2000)]
    with tarfile.open(path, "w") as archive:
        for dir in range(310):
            for n in range(15):
                text = " ".join(chance.choices(words, k=int(min(10000, chance.lognormvariate(6.1, 1.0))) + 1))
                data = "\n".join(text[at : at + 72] for at in range(0, len(text), 72)).encode()
                entry = tarfile.TarInfo(f"tree/p{dir % 31}/q{dir}/f{n}.txt")
                entry.size, entry.mtime = len(data), 1700000000
                archive.addfile(entry, BytesIO(data))


def make_repository(path):
    """A clone of this repository, or where it is none a repository of the tree."""
    root = os.path.dirname(HERE)
    if subprocess.run(["git", "clone", "-q", "--no-local", root, path], check=False, stderr=subprocess.DEVNULL).returncode:
        say("the rows of git clone and cargo build are left out: these sources are no git repository")
        return False
    return True


def measure(place, work):
    place.before()
    # What the work before left to be written is not to be written meanwhile.
    os.sync()
    cpu = cpu_seconds(place.daemon) if place.daemon else 0
    requests = place.requests()
    done = subprocess.run(place.command(work), check=False, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        say(f"{place.name}: {work} failed: {done.stderr.strip()[-300:]}")
        return None
    result = json.loads(done.stdout)
    if place.daemon:
        result["daemon_cpu_seconds"] = round(cpu_seconds(place.daemon) - cpu, 3)
        result["daemon_memory_bytes"] = resident(place.daemon)
    if requests is not None:
        after = place.requests()
        more = {name: count - requests.get(name, 0) for name, count in after.items()}
        result["requests"] = {name: count for name, count in more.items() if count > 0}
    return result


def faster(result, than):
    """How many times as fast."""
    ratio = result["value"] / than["value"]
    return 1 / ratio if result["unit"] == "s" else ratio


def chosen_works(has_repository):
    works = []
    for work in WORKS:
        if not CHOSEN.search(work):
            continue
        if work in NEEDS_ROOT and not IS_ROOT:
            say(f"{work}: left out, only root can empty the caches")
        elif (work in ("git clone", "cargo build") and not has_repository) or (work == "cargo build" and CARGO_ROUNDS == 0):
            say(f"{work}: left out")
        else:
            works.append(work)
    return works


def collect(places, works):
    """All results, by work and place, a list with an entry a round."""
    results = {work: {place.name: [] for place in places} for work in works}
    with open(f"{OUT}/results.jsonl", "w") as out:
        for n in range(ROUNDS):
            order = places[n % len(places):] + places[: n % len(places)]
            begun = time.monotonic()
            for work in works:
                if work == "cargo build" and n >= CARGO_ROUNDS:
                    continue
                for place in order:
                    result = measure(place, work)
                    results[work][place.name].append(result)
                    if result:
                        out.write(json.dumps({"round": n, "work": work, "place": place.name} | result) + "\n")
                        out.flush()
            for place in places:
                subprocess.run(["rm", "-rf", place.work_dir], check=True)
                os.makedirs(place.work_dir)
            say(f"round {n + 1} of {ROUNDS}: {time.monotonic() - begun:.0f} s")
    return results


def summarize(places, results, floors):
    rows, missed = {}, []
    for work, by_place in results.items():
        row = {}
        for place in places:
            good = [result for result in by_place[place.name] if result]
            if not good:
                missed.append(f"{work}: {place.name} failed")
                continue
            entry = {"median": statistics.median(result["value"] for result in good), "unit": good[0]["unit"], "rounds": len(good)}
            for other in (place.base, "fuse-overlayfs", "volume"):
                pairs = zip(by_place[place.name], by_place.get(other, []))
                ratios = [faster(mine, theirs) for mine, theirs in pairs if mine and theirs]
                if ratios and other != place.name:
                    entry[f"to {other}"] = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
            for key in ("daemon_cpu_seconds", "daemon_memory_bytes"):
                if key in good[0]:
                    entry[key] = statistics.median(result[key] for result in good)
            if "requests" in good[-1]:
                entry["requests"] = good[-1]["requests"]
            row[place.name] = entry
        floor = floors.get(work)
        volume = row.get("volume", {}).get("to host")
        if floor and volume:
            row["volume"]["floor"] = floor
            if volume["median"] < floor:
                missed.append(f"{work}: {volume['median']:.2f} of the host, and the floor is {floor}")
        rows[work] = row
        missed += beside_others(work, row)
    return rows, missed


def beside_others(work, row):
    """What is slower than another FUSE filesystem, or than the same volume with nothing behind it, beyond what rounds differ."""
    missed = []
    ours = row.get("volume", {})
    host, peer = ours.get("to host"), ours.get("to fuse-overlayfs")
    if peer and peer["most"] < 1:
        missed.append(f"{work}: {peer['median']:.2f} of fuse-overlayfs")
    elif peer and host and host["median"] < 0.6 and peer["median"] < 1.5:
        missed.append(f"{work}: below 0.6 of the host, and {peer['median']:.2f} of fuse-overlayfs, which is to be 1.5")
    for name in ("branches", "snapshots"):
        ratio = row.get(name, {}).get("to volume")
        if ratio and ratio["median"] < 0.8 and ratio["most"] < 1:
            missed.append(f"{work}: {ratio['median']:.2f} of itself with {name}, and is to be 0.8")
    return missed


def cached_bytes():
    with open("/proc/meminfo") as info:
        return int(re.search(r"^Cached:\s+(\d+)", info.read(), re.M).group(1)) * 1024


def page_cache_of_branches(volume):
    """What the kernel caches when each of the branches reads the same tree, beside the tree's size."""
    subprocess.run(["tar", "xf", os.environ["TREE"], "-C", volume.root], check=True)
    names = [f"read-{n}" for n in range(BRANCHES)]
    for name in names:
        volume.ask("branch-create", "--from", "main", "--name", name)
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
    cached, size = [cached_bytes()], 0
    for name in names:
        size = 0
        for dir, _, files in os.walk(f"{volume.root}/.agentfs/branches/{name}/tree"):
            for file in files:
                with open(f"{dir}/{file}", "rb") as open_file:
                    size += len(open_file.read())
        cached.append(cached_bytes())
    say(f"page cache: {BRANCHES} branches that read a tree of {size / 1e6:.0f} MB took {(cached[-1] - cached[0]) / 1e6:.0f} MB, "
        f"the first of them {(cached[1] - cached[0]) / 1e6:.0f} MB")
    return {"tree_bytes": size, "branches": BRANCHES, "first": cached[1] - cached[0], "all": cached[-1] - cached[0]}


def show(places, rows):
    names = [place.name for place in places]
    say("| work | " + " | ".join(names) + " | floor |")
    say("|---" * (len(names) + 2) + "|")
    for work, row in rows.items():
        cells = []
        for place in places:
            entry = row.get(place.name)
            if not entry:
                cells.append("failed")
                continue
            ratio = entry.get(f"to {place.base}")
            cells.append(f"{entry['median']:.4g} {entry['unit']}" if not ratio else
                         f"{ratio['median']:.2f} ({ratio['least']:.2f}–{ratio['most']:.2f})")
        say(f"| {work} | " + " | ".join(cells) + f" | {row.get('volume', {}).get('floor', '')} |")


def draw(places):
    """A picture, by whichever Python has the library for it."""
    names = [f"{place.name}={place.base}" for place in places if place.name != place.base]
    for python in (sys.executable, "/usr/bin/python3"):
        words = [python, f"{HERE}/performance_picture.py", f"{OUT}/figures.json", f"{OUT}/report.svg", *names]
        if subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return
    say("no picture: matplotlib is not installed (scripts/setup --bench)")


def main():
    wanted = os.environ.get("VARIANTS", "").split()
    unknown = set(wanted) - set(VARIANTS)
    if unknown:
        sys.exit(f"there is no variant {' '.join(sorted(unknown))}; there are {' '.join(VARIANTS)}")
    os.environ["TREE"], os.environ["REPOSITORY"] = f"{SCRATCH}/tree.tar", f"{SCRATCH}/repository"
    make_tree(os.environ["TREE"])
    works = chosen_works(make_repository(os.environ["REPOSITORY"]))
    places = [Place("host", f"{SCRATCH}/host"), Volume("volume", f"{SCRATCH}/volume")]
    if os.environ.get("HAS_OVERLAY") == "1":
        places.append(Overlay("fuse-overlayfs", f"{SCRATCH}/overlay"))
    if "xfs" in wanted and not IS_ROOT:
        sys.exit("the variant xfs is root's: it makes a filesystem and mounts it")
    places += variants(wanted, SCRATCH)
    if not IS_ROOT:
        say("not as root: without passthrough and without the rows that need empty caches")
    mounted = []
    try:
        for place in places:
            place.prepare()
            mounted.append(place)
        results = collect(places, works)
        with_branches = [place for place in places if isinstance(place, WithBranches) and IS_ROOT]
        page_cache = page_cache_of_branches(with_branches[0]) if with_branches else None
    finally:
        for place in mounted:
            place.close()
    with open(f"{HERE}/performance-floors.json") as file:
        floors = json.load(file)
    rows, missed = summarize(places, results, floors)
    with open(f"{OUT}/figures.json", "w") as out:
        json.dump(rows, out, indent=2)
    if page_cache:
        with open(f"{OUT}/page-cache.json", "w") as out:
            json.dump(page_cache, out, indent=2)
    show(places, rows)
    draw(places)
    for sentence in missed:
        say(f"MISSED {sentence}")
    if missed and os.environ.get("GATE") == "1":
        sys.exit(f"{len(missed)} missed")


main()
