"""performance_work.py WORK DIR: does one piece of work in DIR and prints a line of JSON, {"value": …, "unit": …}.

What a later work needs is left there by an earlier one; WORKS has the order. The time is that of the work alone. Sizes:
SIZE_MB (1024) of the large files, FILES (10000) empty files; TREE is an archive, REPOSITORY a git repository.
"""

import json
import mmap
import os
import random
import shutil
import subprocess
import sys
import time

SIZE = int(os.environ.get("SIZE_MB", "1024")) << 20
FILES = int(os.environ.get("FILES", "10000"))
TREE, REPOSITORY = os.environ.get("TREE", ""), os.environ.get("REPOSITORY", "")
SECONDS = 3
BLOCK = 4096
IDENTITY = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "gc.auto=0", "-c", "commit.gpgsign=false"]


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def seconds(call):
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def megabytes(size, call):
    return {"value": size / 1e6 / seconds(call), "unit": "MB/s"}


def each(count, call):
    return {"value": count / seconds(call), "unit": "1/s"}


def took(call):
    return {"value": seconds(call), "unit": "s"}


def run(*words, cwd=None):
    subprocess.run(words, check=True, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write(path, size, block=4 << 20):
    data = random.Random(1).randbytes(block)
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for _ in range(size // block):
        os.write(fd, data)
    os.fdatasync(fd)
    os.close(fd)


def read(path):
    buffer, fd = bytearray(4 << 20), os.open(path, os.O_RDONLY)
    while os.readv(fd, [buffer]):
        pass
    os.close(fd)


def writers(count):
    def work():
        children = []
        for n in range(count):
            pid = os.fork()
            if pid == 0:
                write(f"writer-{n}", SIZE // count)
                os._exit(0)
            children.append(pid)
        if any(os.waitpid(pid, 0)[1] for pid in children):
            sys.exit("a writer failed")

    result = megabytes(SIZE, work)
    for n in range(count):
        os.unlink(f"writer-{n}")
    return result


def fio(*words, file="random", size=SIZE // 4):
    """Operations a second of a work of fio's on an existing file, whose pages are in the cache."""
    words = ["fio", "--name=work", f"--filename={file}", "--bs=4k", f"--size={size}", "--output-format=json", "--invalidate=0",
             "--fallocate=none", *words]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    job = json.loads(said[said.index("{"):])["jobs"][0]
    return {"value": job["read"]["iops"] + job["write"]["iops"], "unit": "1/s"}


def prepare_random():
    if not os.path.exists("random"):
        write("random", SIZE // 4)
    read("random")


def random_read():
    prepare_random()
    return fio("--rw=randread", "--ioengine=psync", "--time_based", f"--runtime={SECONDS}")


def random_write():
    prepare_random()
    return fio("--rw=randwrite", "--ioengine=psync", "--time_based", f"--runtime={SECONDS}")


def mmap_write():
    prepare_random()

    def work():
        at = random.Random(2)
        with open("random", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            pages = len(mapped) // BLOCK
            for _ in range(pages):
                page = at.randrange(pages) * BLOCK
                mapped[page : page + 8] = b"mmapped!"
            mapped.flush()

    return each(SIZE // 4 // BLOCK, work)


def new_file_4k():
    def work():
        run("dd", "if=/dev/zero", "of=new", f"bs={BLOCK}", f"count={SIZE // 16 // BLOCK}", "conv=fdatasync")

    result = megabytes(SIZE // 16, work)
    os.unlink("new")
    return result


def append_fsync():
    count, data = 1000, b"x" * BLOCK
    fd = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def work():
        for _ in range(count):
            os.write(fd, data)
            os.fsync(fd)

    result = each(count, work)
    os.close(fd)
    os.unlink("log")
    return result


def create():
    os.mkdir("many")

    def work():
        for n in range(FILES):
            os.close(os.open(f"many/{n}", os.O_CREAT | os.O_WRONLY | os.O_EXCL))

    return each(FILES, work)


def stat():
    return each(FILES, lambda: [os.stat(f"many/{n}") for n in range(FILES)])


def list_directory():
    return each(5 * FILES, lambda: [list(os.scandir("many")) for _ in range(5)])


def unlink():
    result = each(FILES, lambda: [os.unlink(f"many/{n}") for n in range(FILES)])
    os.rmdir("many")
    return result


def untar():
    shutil.rmtree("tree", ignore_errors=True)
    return took(lambda: run("tar", "xf", TREE))


def walk():
    return took(lambda: run("find", "tree", "-size", "+0"))


def cold(call):
    drop_caches()
    return call()


def grep():
    # Nothing is found: 1.
    return took(lambda: subprocess.run(["grep", "-rq", "no-such-word-here", "tree"], check=False))


def copy():
    return took(lambda: run("cp", "-r", "tree", "copy"))


def remove():
    return took(lambda: run("rm", "-r", "copy"))


def git_add_commit():
    run("git", "init", "-q", ".", cwd="tree")

    def work():
        run("git", *IDENTITY, "add", "-A", cwd="tree")
        run("git", *IDENTITY, "commit", "-qm", "all", cwd="tree")

    return took(work)


def git_status():
    run("git", "status", "--porcelain", cwd="tree")
    return took(lambda: run("git", "status", "--porcelain", cwd="tree"))


def git_clone():
    result = took(lambda: run("git", "clone", "-q", "--no-local", REPOSITORY, "clone"))
    shutil.rmtree("clone")
    return result


def cargo_build():
    run("git", "clone", "-q", REPOSITORY, "workspace")
    here = dict(os.environ, CARGO_TARGET_DIR=os.path.abspath("workspace/target"))
    words = ["cargo", "build", "--workspace", "--quiet"]
    result = took(lambda: subprocess.run(words, check=True, cwd="workspace", env=here, stderr=subprocess.DEVNULL))
    shutil.rmtree("workspace")
    return result


# In the order in which they are done.
WORKS = {
    "sequential write, fdatasync": lambda: megabytes(SIZE, lambda: write("sequential", SIZE)),
    "sequential read, cold": lambda: cold(lambda: megabytes(SIZE, lambda: read("sequential"))),
    "sequential read, warm": lambda: megabytes(SIZE, lambda: read("sequential")),
    "4 writers": lambda: writers(4),
    "16 writers": lambda: writers(16),
    "random read 4k, warm": random_read,
    "random write 4k": random_write,
    "mmap write 4k": mmap_write,
    "4k writes to a new file": new_file_4k,
    "append 4k, fsync": append_fsync,
    "create empty files": create,
    "stat": stat,
    "list": list_directory,
    "unlink": unlink,
    "untar": untar,
    "walk, cold": lambda: cold(walk),
    "walk, warm": lambda: walk() and walk(),
    "grep, warm": lambda: grep() and grep(),
    "cp -r": copy,
    "rm -r": remove,
    "git add, commit": git_add_commit,
    "git status": git_status,
    "git clone": git_clone,
    "cargo build": cargo_build,
}
NEEDS_ROOT = {work for work in WORKS if work.endswith("cold")}

if __name__ == "__main__":
    os.chdir(sys.argv[2])
    print(json.dumps(WORKS[sys.argv[1]]()))
