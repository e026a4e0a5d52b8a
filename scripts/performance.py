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

from performance_work import NEEDS_ROOT, WORKS

SCRATCH, OUT = sys.argv[1], sys.argv[2]
HERE = os.path.dirname(os.path.abspath(__file__))
HOST, CLI = os.environ["HOST_BIN"], os.environ["CLI_BIN"]
ROUNDS = int(os.environ.get("ROUNDS", "5"))
CARGO_ROUNDS = int(os.environ.get("CARGO_ROUNDS", "1"))
CHOSEN = re.compile(os.environ.get("WORKS", "."))
BRANCHES = 10
IS_ROOT = os.geteuid() == 0
# The longest that one work may take, in seconds.
PATIENCE = 900
TICKS = os.sysconf("SC_CLK_TCK")


def say(text):
    print(text, flush=True)


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
        with open(f"{OUT}/daemon-{self.name.replace(' ', '-')}.log", "w") as log:
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


VARIANTS = {"exact": Exact, "write-back": WriteBack, "branches": WithBranches, "snapshot": AfterSnapshot, "exec": Exec, "bound": Bound}


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


def cpu_seconds(daemon):
    with open(f"/proc/{daemon.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(daemon):
    with open(f"/proc/{daemon.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) * 1024


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
            for other in (place.base, "fuse-overlayfs"):
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
    return rows, missed


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
    unknown = set(os.environ.get("VARIANTS", "").split()) - set(VARIANTS)
    if unknown:
        sys.exit(f"there is no variant {' '.join(sorted(unknown))}; there are {' '.join(VARIANTS)}")
    os.environ["TREE"], os.environ["REPOSITORY"] = f"{SCRATCH}/tree.tar", f"{SCRATCH}/repository"
    make_tree(os.environ["TREE"])
    works = chosen_works(make_repository(os.environ["REPOSITORY"]))
    places = [Place("host", f"{SCRATCH}/host"), Volume("volume", f"{SCRATCH}/volume")]
    if os.environ.get("HAS_OVERLAY") == "1":
        places.append(Overlay("fuse-overlayfs", f"{SCRATCH}/overlay"))
    places += [VARIANTS[name](name, f"{SCRATCH}/{name}") for name in os.environ.get("VARIANTS", "").split()]
    if not IS_ROOT:
        say("not as root: without passthrough and without the rows that need empty caches")
    mounted = []
    try:
        for place in places:
            place.prepare()
            mounted.append(place)
        results = collect(places, works)
    finally:
        for place in mounted:
            place.close()
    with open(f"{HERE}/performance-floors.json") as file:
        floors = json.load(file)
    rows, missed = summarize(places, results, floors)
    with open(f"{OUT}/figures.json", "w") as out:
        json.dump(rows, out, indent=2)
    show(places, rows)
    draw(places)
    for sentence in missed:
        say(f"MISSED {sentence}")
    if missed and os.environ.get("GATE") == "1":
        sys.exit(f"{len(missed)} missed")


main()
