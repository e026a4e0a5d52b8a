"""mmap, direct and sparse files, allocation, ranges copied, locks, sizes past 4 GiB, vectors, sendfile, splice."""

import ctypes
import fcntl
import hashlib
import mmap
import os
import signal
import struct
import subprocess
import sys

from engine import CLOSED, SkipCase, content, fails, outcome, put, stat

LIBC = ctypes.CDLL(None, use_errno=True)
KEEP, PUNCH, COLLAPSE, ZERO, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64


def fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def digest(path):
    return hashlib.sha256(content(path)).hexdigest()[:16]


def segments(path):
    """Where data and holes begin, up to the end."""
    found, at = [], 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            try:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                found.append((at, "hole"))
                break
            if data > at:
                found.append((at, "hole"))
            hole = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            found.append((data, "data"))
            at = hole
    return found


def case_mmap_shared(at, fact):
    for size in (5000, 500_000):
        path = f"{at}/{size}"
        put(path, b"-" * size)
        fd = os.open(path, os.O_RDWR)
        shared = mmap.mmap(fd, size)
        shared[100:110] = b"from  mmap"
        yield
        fact("read sees it", os.pread(fd, 10, 100))
        os.pwrite(fd, b"from write", 200)
        fact("mmap sees it", bytes(shared[200:210]))
        shared[size - 3 :] = b"end"
        shared.flush()
        yield
        shared[300:303] = b"xyz"
        shared.close()
        os.close(fd)
        yield CLOSED
        data = content(path)
        fact(size, (data[100:110], data[200:210], data[300:303], data[-3:], len(data)))


def case_mmap_private(at, fact):
    path = f"{at}/file"
    put(path, b"-" * 70_000)
    fd = os.open(path, os.O_RDWR)
    private = mmap.mmap(fd, 70_000, flags=mmap.MAP_PRIVATE)
    private[:4] = b"mine"
    yield
    fact("mine alone", (bytes(private[:4]), os.pread(fd, 4, 0)))
    private.close()
    os.close(fd)
    fact("content", content(path)[:4])


def case_mmap_two_processes(at, fact):
    path = f"{at}/file"
    put(path, bytes(8192))
    fd = os.open(path, os.O_RDWR)
    shared = mmap.mmap(fd, 8192)
    child = os.fork()
    if child == 0:
        other = mmap.mmap(os.open(path, os.O_RDWR), 8192)
        other[4096:4101] = b"child"
        os._exit(0)
    os.waitpid(child, 0)
    yield
    fact("seen", bytes(shared[4096:4101]))
    shared.close()
    os.close(fd)


def case_mmap_past_the_end(at, fact):
    path = f"{at}/file"
    put(path, b"x" * 100)
    program = "import mmap, os, sys; fd = os.open(sys.argv[1], os.O_RDWR); m = mmap.mmap(fd, 100); os.ftruncate(fd, 0); m[50]"
    ended = subprocess.run([sys.executable, "-c", program, path], stderr=subprocess.DEVNULL)
    fact("cut away below a mapping", ended.returncode == -signal.SIGBUS)
    yield CLOSED


def case_sparse(at, fact):
    path = f"{at}/file"
    with open(path, "wb") as file:
        for offset in (0, 1 << 20, 5 << 20):
            file.seek(offset)
            file.write(b"d" * 4096)
        file.truncate(8 << 20)
    yield CLOSED
    fact("segments", segments(path))
    fact("space", (stat(path, "size"), os.stat(path).st_blocks * 512 < 100_000))
    fact("content", digest(path))
    fd = os.open(path, os.O_RDONLY)
    fact("past the end", (fails(os.lseek, fd, 8 << 20, os.SEEK_DATA), fails(os.lseek, fd, 9 << 20, os.SEEK_HOLE)))
    fact("only a hole", fails(os.lseek, fd, 7 << 20, os.SEEK_DATA))
    os.close(fd)


def case_fallocate(at, fact):
    path = f"{at}/file"
    put(path, b"a" * (1 << 20))
    fd = os.open(path, os.O_RDWR)
    yield
    fallocate(fd, PUNCH | KEEP, 4096, 8192)
    fallocate(fd, ZERO, 65536, 65536)
    fallocate(fd, ZERO, (1 << 20) - 4096, 8192)
    fact("grown", os.fstat(fd).st_size)
    fallocate(fd, ZERO | KEEP, 1 << 20, 1 << 20)
    fallocate(fd, KEEP, 2 << 20, 1 << 20)
    fact("kept", (os.fstat(fd).st_size, os.fstat(fd).st_blocks * 512 >= 2 << 20))
    fallocate(fd, 0, 0, 3 << 20)
    fact("reserved", (os.fstat(fd).st_size, os.fstat(fd).st_blocks * 512 >= 3 << 20))
    fallocate(fd, PUNCH | KEEP, 100, 200)
    yield
    os.close(fd)
    yield CLOSED
    data = content(path)
    fact("content", (digest(path), data.count(b"a")))
    fact("punched", (4096, "hole") in segments(path))
    fd = os.open(path, os.O_RDWR)
    fact("nothing", fails(fallocate, fd, 0, 0, 0))
    fact("before the start", fails(fallocate, fd, 0, -1, 10))
    fact("punch without keep", fails(fallocate, fd, PUNCH, 0, 10))
    fact("punch and zero", fails(fallocate, fd, PUNCH | ZERO | KEEP, 0, 10))
    fact("too far", fails(fallocate, fd, 0, (1 << 63) - 10, 100))
    os.close(fd)


def case_fallocate_small(at, fact):
    path = f"{at}/file"
    put(path, b"s" * 1000)
    fd = os.open(path, os.O_RDWR)
    fallocate(fd, PUNCH | KEEP, 100, 100)
    fallocate(fd, ZERO, 900, 300)
    os.posix_fallocate(fd, 0, 5000)
    yield
    os.close(fd)
    yield CLOSED
    fact("content", (digest(path), stat(path, "size"), content(path).count(b"s")))


def case_copy_file_range(at, fact):
    put(f"{at}/small", b"0123456789" * 100)
    put(f"{at}/large", bytes(range(256)) * 4000)
    with open(f"{at}/sparse", "wb") as file:
        file.seek(3 << 20)
        file.write(b"tail")
    yield CLOSED
    for name in ("small", "large", "sparse"):
        source = os.open(f"{at}/{name}", os.O_RDONLY)
        target = os.open(f"{at}/{name}-copy", os.O_CREAT | os.O_RDWR)
        copied = 0
        while count := os.copy_file_range(source, target, 1 << 22):
            copied += count
        fact(name, copied)
        yield
        # A part into the middle of what is there.
        part = os.open(f"{at}/{name}-part", os.O_CREAT | os.O_RDWR)
        os.write(part, b"=" * 5000)
        fact("part", os.copy_file_range(source, part, 700, 50, 1000))
        fact("at the end", os.copy_file_range(source, part, 100, os.fstat(source).st_size, 0))
        fact("in itself", os.copy_file_range(part, part, 100, 1000, 3000))
        fact("overlapping", fails(os.copy_file_range, part, part, 1000, 0, 500))
        # The copy is a file of its own.
        os.pwrite(target, b"CHANGED", 10)
        for fd in (source, target, part):
            os.close(fd)
        yield CLOSED
        fact("source", (digest(f"{at}/{name}"), stat(f"{at}/{name}", "size")))
        fact("copy", (digest(f"{at}/{name}-copy"), stat(f"{at}/{name}-copy", "size")))
        fact("part", (digest(f"{at}/{name}-part"), stat(f"{at}/{name}-part", "size")))
        with open(f"{at}/{name}", "r+b") as file:
            file.write(b"SOURCE")
        fact("still", (content(f"{at}/{name}-copy")[:20], content(f"{at}/{name}")[:6]))
    fd = os.open(f"{at}/small", os.O_RDONLY)
    other = os.open(f"{at}/small-copy", os.O_RDONLY)
    fact("to a reader", fails(os.copy_file_range, fd, other, 10))
    os.close(fd)
    os.close(other)


def case_sendfile_and_splice(at, fact):
    put(f"{at}/from", bytes(range(256)) * 1000)
    source, target = os.open(f"{at}/from", os.O_RDONLY), os.open(f"{at}/to", os.O_CREAT | os.O_RDWR)
    sent = 0
    while count := os.sendfile(target, source, sent, 1 << 20):
        sent += count
    yield
    fact("sent", sent)
    read, write = os.pipe()
    fact("spliced", os.splice(source, write, 5000, 1000))
    fact("into", os.splice(read, target, 5000, offset_dst=10))
    for fd in (read, write, source, target):
        os.close(fd)
    yield CLOSED
    fact("content", digest(f"{at}/to"))


def case_vectors(at, fact):
    fd = os.open(f"{at}/file", os.O_CREAT | os.O_RDWR)
    fact("written", os.pwritev(fd, [b"one", b"two" * 1000, b"three"], 10))
    yield
    buffers = [bytearray(5), bytearray(3000), bytearray(100)]
    fact("read", os.preadv(fd, buffers, 10))
    fact("parts", (bytes(buffers[0]), bytes(buffers[2][:11])))
    os.close(fd)


def case_direct(at, fact):
    path = f"{at}/file"
    try:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    except OSError as error:
        fact("refused", error.errno)
        return
    page = mmap.mmap(-1, 65536)
    page.write(b"direct" * 10922)
    fact("written", os.pwritev(fd, [page], 0))
    yield
    back = mmap.mmap(-1, 65536)
    fact("read", os.preadv(fd, [back], 0))
    fact("same", bytes(back[:65532]) == b"direct" * 10922)
    with open(path, "rb") as cached:
        fact("through the cache", cached.read(6))
    with open(path, "r+b") as cached:
        cached.write(b"CACHED")
    os.preadv(fd, [back], 0)
    fact("seen directly", bytes(back[:8]))
    os.close(fd)
    page.close()
    back.close()


def case_past_4_gib(at, fact):
    path = f"{at}/file"
    places = [(1 << 32) - 5, (1 << 32) + 4096, 1 << 40]
    with open(path, "wb") as file:
        for place in places:
            file.seek(place)
            file.write(b"0123456789")
    yield CLOSED
    with open(path, "rb") as file:
        for place in places:
            file.seek(place - 2)
            fact(place, file.read(14))
    fact("size", stat(path, "size"))
    fact("space", os.stat(path).st_blocks < 1000)
    os.truncate(path, (1 << 32) + 1)
    yield CLOSED
    with open(path, "rb") as file:
        file.seek((1 << 32) - 6)
        fact("cut", file.read())


def locked_by_another(path, work):
    """What another process makes of a lock, before and after `work`."""
    program = "import fcntl, sys\nwith open(sys.argv[1], 'r+b') as f:\n  try:\n    getattr(fcntl, sys.argv[2])(f, fcntl.LOCK_EX | fcntl.LOCK_NB); print('free')\n  except OSError: print('taken')"
    return subprocess.run([sys.executable, "-c", program, path, work], capture_output=True, text=True).stdout.strip()


def case_locks(at, fact):
    path = f"{at}/file"
    put(path, b"x" * 100)
    for kind in ("flock", "lockf"):
        with open(path, "r+b") as file:
            getattr(fcntl, kind)(file, fcntl.LOCK_EX)
            yield
            fact(kind, locked_by_another(path, kind))
            getattr(fcntl, kind)(file, fcntl.LOCK_UN)
            fact("unlocked", locked_by_another(path, kind))
            getattr(fcntl, kind)(file, fcntl.LOCK_EX)
        fact("closed", locked_by_another(path, kind))
    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
        lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 5, 50, 0)
        program = "import fcntl, sys, struct\nwith open(sys.argv[1], 'r+b') as f:\n  r = fcntl.fcntl(f, fcntl.F_GETLK, bytes.fromhex(sys.argv[2]))\n  print(struct.unpack('hhqqi', r)[:4])"
        told = subprocess.run([sys.executable, "-c", program, path, lock.hex()], capture_output=True, text=True).stdout
        fact("who holds it", told.strip())


def case_directory_sync(at, fact):
    put(f"{at}/file", b"x")
    directory = os.open(at, os.O_RDONLY | os.O_DIRECTORY)
    fact("fsync", outcome(os.fsync, directory))
    fd = os.open(f"{at}/file", os.O_RDWR)
    fact("fdatasync", outcome(os.fdatasync, fd))
    fact("syncfs", LIBC.syncfs(fd))
    fact("fadvise", outcome(os.posix_fadvise, fd, 0, 100, os.POSIX_FADV_DONTNEED))
    os.close(fd)
    os.close(directory)
    yield CLOSED


def case_execute(at, fact):
    path = f"{at}/program"
    put(path, content("/bin/true"), 0o755)
    yield CLOSED
    fact("runs", subprocess.run([path]).returncode)
    fd = os.open(path, os.O_RDWR)
    fact("busy", fails(os.execv, path, ["program"]))
    os.close(fd)
