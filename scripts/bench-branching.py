#!/usr/bin/env python3
"""bench-branching.py MOUNT HOST_DIR PID OUT: what branching costs on a mounted volume.

Snapshots and branches are made through the ioctl, in one process, so that no start of a program is measured. Environment:
SIZES (numbers of files, ascending; default "1000 100000"), SAMPLES (of each kind and size, default 200), ROUNDS (of the
metadata rates, default 5), FILES (for them, default 10000). Prints a report and writes it to OUT as JSON.
"""
import fcntl, json, os, statistics, struct, subprocess, sys, time

IOCTL = 0xD000_4146
mount, host, pid, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
sizes = [int(n) for n in os.environ.get("SIZES", "1000 100000").split()]
samples = int(os.environ.get("SAMPLES", "200"))
rounds, files = int(os.environ.get("ROUNDS", "5")), int(os.environ.get("FILES", "10000"))
control = os.open(f"{mount}/.agentfs/control", os.O_RDONLY)
report = {"sizes": {}, "rates": {}}


def ask(body):
    """One request: returns the response's body and how long the ioctl took, in microseconds."""
    buffer = bytearray(4096)
    struct.pack_into("<I", buffer, 0, len(body))
    buffer[4 : 4 + len(body)] = body
    begun = time.perf_counter_ns()
    fcntl.ioctl(control, IOCTL, buffer)
    took = (time.perf_counter_ns() - begun) / 1000
    (length,) = struct.unpack_from("<I", buffer)
    response = bytes(buffer[4 : 4 + length])
    if response[0] == 92:
        raise SystemExit(f"the daemon refused: {response!r}")
    return response, took


def request(selector, payload):
    return bytes([selector]) + struct.pack("<II", 8, 9) + b"1" + payload


SNAPSHOT = request(0, struct.pack("<I", 4) + b"\0")


def branch_from(origin):
    return request(4, struct.pack("<II", 8, 8 + len(origin)) + origin + b"\0")


def id_in(response):
    """The first id in a response: 32 hexadecimal characters."""
    for at in range(len(response) - 31):
        text = response[at : at + 32]
        if all(c in b"0123456789abcdef" for c in text):
            return text
    raise SystemExit(f"no id in {response!r}")


def quartiles(us):
    us = sorted(us)
    return {"median_us": round(statistics.median(us), 1), "p99_us": round(us[int(len(us) * 0.99) - 1], 1), "min_us": round(us[0], 1)}


def resident():
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024


def drop_kernel_nodes():
    try:
        with open("/proc/sys/vm/drop_caches", "w") as knob:
            knob.write("2\n")
        time.sleep(1)
        return True
    except OSError:
        return False


def grow_to(have, want):
    for n in range(have, want):
        if n % 1000 == 0:
            os.mkdir(f"{mount}/d{n // 1000}")
        os.close(os.open(f"{mount}/d{n // 1000}/file-{n}.txt", os.O_CREAT | os.O_WRONLY))


def branching():
    have, empty = 0, resident()
    for size in sizes:
        begun = time.perf_counter()
        grow_to(have, size)
        made, have = time.perf_counter() - begun, size
        with_kernel = resident()
        dropped = drop_kernel_nodes()
        alone = resident()
        snapshot, branch, straight = [], [], []
        for _ in range(samples):
            response, took = ask(SNAPSHOT)
            snapshot.append(took)
            response, took = ask(branch_from(id_in(response)))
            branch.append(took)
            straight.append(ask(branch_from(b"main"))[1])
        row = {"snapshot": quartiles(snapshot), "branch_from_snapshot": quartiles(branch), "branch_from_branch": quartiles(straight)}
        row["bytes_per_file_kernel_remembers"] = round((with_kernel - empty) / size)
        row["bytes_per_file_kernel_forgot"] = round((alone - empty) / size) if dropped else None
        row["creates_per_s"] = round(size / made) if made > 0.01 else None
        report["sizes"][size] = row
        print(f"{size} files: {json.dumps(row)}", flush=True)


def timed(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def rates_of(base):
    where = f"{base}/rates"
    os.mkdir(where)
    names = [f"{where}/{n}" for n in range(files)]
    took = {
        "create": timed(lambda: [os.close(os.open(n, os.O_CREAT | os.O_WRONLY)) for n in names]),
        "stat": timed(lambda: [os.stat(n) for n in names]),
        "list": timed(lambda: [len(list(os.scandir(where))) for _ in range(5)]),
        "unlink": timed(lambda: [os.unlink(n) for n in names]),
    }
    os.rmdir(where)
    return took


def rates():
    rows = {"volume": [], "host": []}
    for round_ in range(rounds):
        # Each is first as often as the other.
        for label, base in sorted((("volume", mount), ("host", host)), reverse=bool(round_ % 2)):
            rows[label].append(rates_of(base))
    for work in ("create", "stat", "list", "unlink"):
        per_s = {label: (5 if work == "list" else 1) * files / statistics.median(r[work] for r in rows[label]) for label in rows}
        ratio = statistics.median(h[work] / v[work] for h, v in zip(rows["host"], rows["volume"]))
        report["rates"][work] = {"volume_per_s": round(per_s["volume"]), "host_per_s": round(per_s["host"]), "ratio_to_host": round(ratio, 2)}
        print(f"{work}: {json.dumps(report['rates'][work])}", flush=True)


def requests():
    """Requests by kind since the mount, through the command line."""
    text = subprocess.run([os.environ["CLI_BIN"], "--mount", mount, "status", "--requests"], check=True, capture_output=True, text=True).stdout
    return {line.split("\t")[1]: int(line.split("\t")[2]) for line in text.splitlines()}


def git_status():
    repo = f"{mount}/repo"
    os.mkdir(repo)
    git = lambda where, *words: subprocess.run(["git", "-C", where, *words], check=True, capture_output=True)
    git(repo, "init", "-q", ".")
    for n in range(5000):
        if n < 100:
            os.mkdir(f"{repo}/d{n}")
        with open(f"{repo}/d{n % 100}/f{n}", "w") as f:
            f.write(f"file {n}\n")
    git(repo, "add", "-A")
    git(repo, "-c", "user.name=a", "-c", "user.email=a@b", "-c", "gc.auto=0", "commit", "-qm", "all")
    time.sleep(1.1)
    git(repo, "status")
    branch = id_in(ask(branch_from(b"main"))[0]).decode()
    before = requests()
    took = timed(lambda: git(f"{mount}/.agentfs/by-id/{branch}/repo", "status", "--porcelain"))
    after = requests()
    counts = {k: after[k] - before.get(k, 0) for k in after if after[k] != before.get(k, 0)}
    report["git_status_in_new_branch"] = {"files": 5000, "seconds": round(took, 3), "requests": counts}
    print(f"git status of 5,000 files in a new branch: {took:.3f} s, requests {json.dumps(counts)}", flush=True)


# Memory first: what the others free would be used again.
branching()
rates()
git_status()
json.dump(report, open(out, "w"), indent=2)
