"""Special files: pipes, sockets, devices, whiteouts."""

import ctypes
import os
import socket
import stat as mode_of

from engine import CLOSED, as_user, content, fails, need_root, outcome, put, stat

AT_FDCWD, NOREPLACE, EXCHANGE, WHITEOUT = -100, 1, 2, 4
LIBC = ctypes.CDLL(None, use_errno=True)


def rename(old, new, flags):
    if LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def case_fifo(at, fact):
    path = f"{at}/fifo"
    os.mkfifo(path, 0o640)
    yield CLOSED
    fact("attributes", stat(path, "mode", "size", "nlink", "rdev"))
    child = os.fork()
    if child == 0:
        with open(path, "wb") as pipe:
            pipe.write(b"through the pipe")
        os._exit(0)
    fact("read", content(path))
    os.waitpid(child, 0)
    os.rename(path, f"{at}/moved")
    os.link(f"{at}/moved", f"{at}/linked")
    fact("moved", stat(f"{at}/linked", "mode", "nlink"))


def case_socket(at, fact):
    # The address of a socket is short: by a directory's descriptor it stays so.
    directory = os.open(at, os.O_RDONLY)
    path = f"/proc/self/fd/{directory}/socket"
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    yield
    fact("attributes", stat(f"{at}/socket", "mode", "size", "nlink"))
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    peer, _ = server.accept()
    client.send(b"hello")
    fact("received", peer.recv(10))
    fact("taken", fails(socket.socket(socket.AF_UNIX).bind, path))
    for end in (peer, client, server):
        end.close()
    fact("nobody listens", fails(socket.socket(socket.AF_UNIX).connect, path))
    os.close(directory)
    yield CLOSED
    fact("still there", stat(f"{at}/socket", "mode"))


def case_devices(at, fact):
    need_root()
    devices = {"null": (mode_of.S_IFCHR | 0o666, (1, 3)), "zero": (mode_of.S_IFCHR | 0o666, (1, 5)),
               "loop": (mode_of.S_IFBLK | 0o660, (7, 0)), "far": (mode_of.S_IFCHR | 0o600, (4095, 1048575))}
    for name, (mode, (major, minor)) in devices.items():
        os.mknod(f"{at}/{name}", mode, os.makedev(major, minor))
        os.chmod(f"{at}/{name}", mode & 0o777)
    yield CLOSED
    for name in devices:
        found = os.stat(f"{at}/{name}")
        fact(name, (oct(found.st_mode), os.major(found.st_rdev), os.minor(found.st_rdev), found.st_size))
    fact("a user's", as_user(4444, 4444, [], lambda: fails(os.mknod, f"{at}/no", mode_of.S_IFCHR, 0)))


def case_devices_work(at, fact):
    """Where the volume is mounted with `dev`, as root does."""
    need_root()
    os.mknod(f"{at}/null", mode_of.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(f"{at}/zero", mode_of.S_IFCHR | 0o666, os.makedev(1, 5))
    yield CLOSED
    with open(f"{at}/null", "r+b", buffering=0) as device:
        fact("null", (device.write(b"gone"), device.read(10)))
    with open(f"{at}/zero", "rb", buffering=0) as device:
        fact("zero", device.read(3))


def case_regular(at, fact):
    os.mknod(f"{at}/file", mode_of.S_IFREG | 0o644)
    fact("there", fails(os.mknod, f"{at}/file", mode_of.S_IFREG | 0o644))
    fact("a directory", fails(os.mknod, f"{at}/dir", mode_of.S_IFDIR | 0o755))
    put(f"{at}/file", b"usable")
    yield CLOSED
    fact("content", (content(f"{at}/file"), stat(f"{at}/file", "mode")))


def case_rename_flags(at, fact):
    for name in "abc":
        put(f"{at}/{name}", name.encode())
    os.mkdir(f"{at}/dir")
    put(f"{at}/dir/in", b"in")
    yield CLOSED
    fact("noreplace", fails(rename, f"{at}/a", f"{at}/b", NOREPLACE))
    fact("noreplace of nothing", outcome(rename, f"{at}/a", f"{at}/free", NOREPLACE))
    fact("exchange", outcome(rename, f"{at}/b", f"{at}/dir", EXCHANGE))
    yield CLOSED
    fact("exchanged", (content(f"{at}/dir"), content(f"{at}/b/in"), stat(at, "nlink")))
    fact("exchange with nothing", fails(rename, f"{at}/c", f"{at}/none", EXCHANGE))
    fact("exchange with what is inside", fails(rename, f"{at}/b", f"{at}/b/in", EXCHANGE))
    fact("both", fails(rename, f"{at}/c", f"{at}/b", EXCHANGE | NOREPLACE))
    fact("unknown", fails(rename, f"{at}/c", f"{at}/b", 64))
    os.mkdir(f"{at}/other")
    rename(f"{at}/b", f"{at}/other/x", NOREPLACE)
    rename(f"{at}/other/x", f"{at}/c", EXCHANGE)
    fact("across", (content(f"{at}/other/x"), content(f"{at}/c/in"), stat(f"{at}/other", "nlink"), stat(at, "nlink")))


def case_whiteout(at, fact):
    need_root()
    put(f"{at}/a", b"a")
    put(f"{at}/b", b"b")
    os.mkdir(f"{at}/d")
    yield CLOSED
    rename(f"{at}/a", f"{at}/new", WHITEOUT)
    found = os.stat(f"{at}/a")
    fact("left", (oct(found.st_mode), found.st_rdev, found.st_nlink, found.st_uid, content(f"{at}/new")))
    rename(f"{at}/new", f"{at}/b", WHITEOUT)
    yield CLOSED
    fact("over a file", (content(f"{at}/b"), stat(f"{at}/new", "mode", "rdev")))
    fact("not over", fails(rename, f"{at}/b", f"{at}/d", WHITEOUT | NOREPLACE))
    rename(f"{at}/d", f"{at}/e", WHITEOUT | NOREPLACE)
    fact("a directory", (sorted(os.listdir(at)), stat(f"{at}/d", "mode"), stat(at, "nlink")))
    fact("a user's", as_user(4444, 4444, [], lambda: fails(rename, f"{at}/b", f"{at}/f", WHITEOUT)))
