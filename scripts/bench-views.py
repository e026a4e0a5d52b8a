"""bench-views.py MOUNT HOSTDIR CLI ROUNDS: rates of stat and open on a path of six components, by view.

All kinds are measured in turn in each round. The last line is JSON: the medians.
"""
import json, os, resource, statistics, subprocess, sys, time

SECONDS = 0.5
PATH = "a/b/c/d/e/file"

WORKER = r"""
import json, os, sys, time
path = sys.argv[1]
def rate(call, seconds):
    calls, end = 0, time.perf_counter() + seconds
    begun = time.perf_counter()
    while time.perf_counter() < end:
        for _ in range(20): call()
        calls += 20
    return calls / (time.perf_counter() - begun), calls
def open_close(): os.close(os.open(path, os.O_RDONLY))
print("ready", flush=True)
for line in sys.stdin:
    what, seconds = line.split()
    print(json.dumps(rate((lambda: os.stat(path)) if what == "stat" else open_close, float(seconds))), flush=True)
"""


class Worker:
    def __init__(self, path, before=()):
        words = [*before, sys.executable, "-c", WORKER, path]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def measure(self, what, seconds=SECONDS):
        self.process.stdin.write(f"{what} {seconds}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.kill()
        self.process.wait()


def main(mount, host, cli, rounds):
    def ask(*words):
        return subprocess.run([cli, "--mount", mount, *words], check=True, capture_output=True, text=True).stdout

    def requests():
        counted = json.loads(ask("--json", "status", "--requests"))
        return sum(c["count"] for c in counted if c["operation"] != "ioctl")

    for root in (host, mount):
        os.makedirs(os.path.join(root, os.path.dirname(PATH)))
        with open(os.path.join(root, PATH), "w") as file:
            file.write("content")
    for branch in ("one", "two"):
        ask("branch-create", "--from", "main", "--name", branch)
    path = os.path.join(mount, PATH)
    figures = {}

    def note(kind, what, worker, counted):
        before = requests() if counted else 0
        rate, calls = worker.measure(what)
        # The question itself opens the control file, and looks it up.
        asked = max(0, requests() - before - 8) / calls if counted else 0
        figures.setdefault((kind, what), []).append((rate, asked))

    for _ in range(rounds):
        for kind in ("host", "nobody bound", "exec", "bound, one of two branches", "not bound, beside them"):
            workers = []
            if kind == "host":
                workers = [Worker(os.path.join(host, PATH))]
            elif kind == "exec":
                workers = [Worker(path, [cli, "--mount", mount, "branch-exec", "--branch", "one", "--"])]
            else:
                workers = [Worker(path)]
                if kind != "nobody bound":
                    bound = [Worker(path), Worker(path)]
                    for worker, branch in zip(bound, ("one", "two")):
                        ask("branch-bind", "--branch", branch, "--pid", str(worker.process.pid))
                    workers = bound + workers if kind.startswith("bound") else workers + bound
            for what in ("stat", "open"):
                workers[0].measure(what, 0.05)
                note(kind, what, workers[0], kind != "host")
            for worker in workers:
                worker.end()
            # The daemon notices within seconds that nobody is bound any more.
            time.sleep(3)
    medians = {}
    for (kind, what), found in figures.items():
        rate = statistics.median(rate for rate, _ in found)
        asked = statistics.median(asked for _, asked in found)
        low, high = min(r for r, _ in found), max(r for r, _ in found)
        of_host = rate / statistics.median(r for r, _ in figures[("host", what)])
        print(f"{kind:28} {what:5} {rate:9.0f}/s ({low:.0f}..{high:.0f})  {of_host:5.2f} of the host  {asked:5.2f} requests each")
        medians[f"{kind}, {what}"] = {"rate": round(rate), "of_host": round(of_host, 3), "requests": round(asked, 2)}

    def cost(call, times=20000):
        begun = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - begun) / times * 1e6

    def bind_ms(pid, branch):
        begun = time.perf_counter()
        ask("branch-bind", "--branch", branch, "--pid", str(pid))
        return round((time.perf_counter() - begun) * 1000, 1)

    for files in (0, 50_000):
        for n in range(files):
            with open(os.path.join(mount, "a", f"file{n}"), "w"):
                pass
        workers = [Worker(path), Worker(path)]
        first, second = [bind_ms(worker.process.pid, "one") for worker in workers]
        for worker in workers:
            worker.end()
        time.sleep(3)
        medians[f"first bind with {files} files known, ms"] = first
        medians[f"second bind with {files} files known, ms"] = second
        print(f"binding the first process with {files} files known {first} ms, the second {second} ms, with the command")

    pid = os.getpid()
    empty = cost(lambda: os.getppid())

    def told():
        with open(f"/proc/{pid}/limits") as file:
            file.read()

    medians["caller by system call, us"] = round(cost(lambda: resource.prlimit(pid, resource.RLIMIT_RTTIME)) - empty, 2)
    medians["caller of another user by /proc, us"] = round(cost(told, 2000) - empty, 2)
    print(f"a caller's mark, with Python's share: {medians['caller by system call, us']} us; told by /proc "
          f"{medians['caller of another user by /proc, us']} us; there is no cache to be cold")
    print(json.dumps(medians))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
