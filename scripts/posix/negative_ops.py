"""What must fail, with which error, and that it changes nothing."""

import os
import socket

from engine import CLOSED, as_user, content, fails, need_root, put, stat


def tree(at):
    os.mkdir(f"{at}/dir")
    put(f"{at}/dir/inner", b"inner")
    put(f"{at}/file", b"file")
    os.symlink("file", f"{at}/link")
    os.symlink("nowhere", f"{at}/dangling")
    os.mkfifo(f"{at}/fifo")


def shown(at):
    return sorted((path[len(at) :], sorted(names), sorted(files)) for path, names, files in os.walk(at))


CALLS = {
    "open of nothing": lambda at: open(f"{at}/none"),
    "open below nothing": lambda at: open(f"{at}/none/x", "w"),
    "open below a file": lambda at: open(f"{at}/file/x"),
    "create below a file": lambda at: open(f"{at}/file/x", "w"),
    "open a directory to write": lambda at: open(f"{at}/dir", "w"),
    "create with a slash": lambda at: open(f"{at}/new/", "w"),
    "long name": lambda at: open(f"{at}/{'n' * 256}", "w"),
    "long path": lambda at: open(f"{at}/{'d/' * 2100}x"),
    "mkdir there": lambda at: os.mkdir(f"{at}/dir"),
    "mkdir over a file": lambda at: os.mkdir(f"{at}/file"),
    "mkdir over a dangling link": lambda at: os.mkdir(f"{at}/dangling"),
    "mkdir below nothing": lambda at: os.mkdir(f"{at}/none/x"),
    "mkdir below a file": lambda at: os.mkdir(f"{at}/file/x"),
    "rmdir of nothing": lambda at: os.rmdir(f"{at}/none"),
    "rmdir of a file": lambda at: os.rmdir(f"{at}/file"),
    "rmdir of a link": lambda at: os.rmdir(f"{at}/link"),
    "rmdir not empty": lambda at: os.rmdir(f"{at}/dir"),
    "rmdir of .": lambda at: os.rmdir(f"{at}/dir/."),
    "rmdir of ..": lambda at: os.rmdir(f"{at}/dir/.."),
    "unlink of nothing": lambda at: os.unlink(f"{at}/none"),
    "unlink of a directory": lambda at: os.unlink(f"{at}/dir"),
    "unlink below a file": lambda at: os.unlink(f"{at}/file/x"),
    "unlink with a slash": lambda at: os.unlink(f"{at}/file/"),
    "link to nothing": lambda at: os.link(f"{at}/none", f"{at}/new"),
    "link over a file": lambda at: os.link(f"{at}/file", f"{at}/dir/inner"),
    "link of a directory": lambda at: os.link(f"{at}/dir", f"{at}/new"),
    "link to itself": lambda at: os.link(f"{at}/file", f"{at}/file"),
    "symlink over a file": lambda at: os.symlink("x", f"{at}/file"),
    "symlink to nothing": lambda at: os.symlink("", f"{at}/new"),
    "symlink too long": lambda at: os.symlink("x" * 4096, f"{at}/new"),
    "readlink of a file": lambda at: os.readlink(f"{at}/file"),
    "rename of nothing": lambda at: os.rename(f"{at}/none", f"{at}/new"),
    "rename into nothing": lambda at: os.rename(f"{at}/file", f"{at}/none/x"),
    "rename a file over a directory": lambda at: os.rename(f"{at}/file", f"{at}/dir"),
    "rename a directory over a file": lambda at: os.rename(f"{at}/dir", f"{at}/file"),
    "rename a directory into itself": lambda at: os.rename(f"{at}/dir", f"{at}/dir/new"),
    "rename a directory over itself's parent": lambda at: os.rename(f"{at}/dir/inner", f"{at}/dir"),
    "rename of .": lambda at: os.rename(f"{at}/dir/.", f"{at}/new"),
    "rename to ..": lambda at: os.rename(f"{at}/dir", f"{at}/dir/.."),
    "rename to a long name": lambda at: os.rename(f"{at}/file", f"{at}/{'n' * 256}"),
    "truncate to less than nothing": lambda at: os.truncate(f"{at}/file", -1),
    "truncate of a directory": lambda at: os.truncate(f"{at}/dir", 0),
    "truncate of nothing": lambda at: os.truncate(f"{at}/none", 0),
    "list a file": lambda at: os.listdir(f"{at}/file"),
    "list nothing": lambda at: os.listdir(f"{at}/none"),
    "chmod of nothing": lambda at: os.chmod(f"{at}/none", 0o600),
    "utime of nothing": lambda at: os.utime(f"{at}/none"),
    "stat of nothing": lambda at: os.stat(f"{at}/none"),
    "stat through a dangling link": lambda at: os.stat(f"{at}/dangling"),
    "exec without permission": lambda at: os.execv(f"{at}/file", ["file"]),
    "chdir to a file": lambda at: os.chdir(f"{at}/file"),
    "connect to a file": lambda at: socket.socket(socket.AF_UNIX).connect(f"{at}/file"),
    "fifo without a reader": lambda at: os.open(f"{at}/fifo", os.O_WRONLY | os.O_NONBLOCK),
    "xattr of nothing": lambda at: os.getxattr(f"{at}/none", "user.a"),
    "xattr that is not there": lambda at: os.getxattr(f"{at}/file", "user.a"),
}


def case_calls(at, fact):
    tree(at)
    before = shown(at)
    yield CLOSED
    for name, call in CALLS.items():
        fact(name, fails(call, at))
    yield CLOSED
    fact("nothing changed", (shown(at) == before, content(f"{at}/file"), content(f"{at}/dir/inner"), stat(f"{at}/dir", "nlink")))


def case_bad_descriptors(at, fact):
    put(f"{at}/file", b"12345")
    fd = os.open(f"{at}/file", os.O_RDONLY)
    yield
    fact("write", fails(os.write, fd, b"x"))
    fact("ftruncate", fails(os.ftruncate, fd, 1))
    fact("fallocate", fails(os.posix_fallocate, fd, 0, 10))
    fact("fsync", os.fsync(fd))
    fact("lseek", fails(os.lseek, fd, -1, os.SEEK_SET))
    fact("pread", fails(os.pread, fd, 10, -1))
    os.close(fd)
    fact("closed", fails(os.fstat, fd))
    directory = os.open(at, os.O_RDONLY)
    fact("read a directory", fails(os.read, directory, 10))
    fact("fsync a directory", os.fsync(directory))
    os.close(directory)
    yield CLOSED
    fact("content", content(f"{at}/file"))


def case_too_large(at, fact):
    path = f"{at}/file"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    fact("write at the end of time", fails(os.pwrite, fd, b"x", (1 << 63) - 1))
    fact("size", os.fstat(fd).st_size)
    os.close(fd)
    yield CLOSED


def case_not_mine(at, fact):
    need_root()
    tree(at)
    os.chmod(at, 0o755)
    yield CLOSED
    for name in ("create below a file", "mkdir there", "rmdir not empty", "link over a file", "rename a file over a directory"):
        fact(name, as_user(4444, 4444, [], lambda: fails(CALLS[name], at)))
    user = lambda work: as_user(4444, 4444, [], work)
    fact("create", user(lambda: fails(open, f"{at}/new", "w")))
    fact("mkdir", user(lambda: fails(os.mkdir, f"{at}/new")))
    fact("unlink", user(lambda: fails(os.unlink, f"{at}/file")))
    fact("rename", user(lambda: fails(os.rename, f"{at}/file", f"{at}/new")))
    fact("link", user(lambda: fails(os.link, f"{at}/file", f"{at}/dir/new")))
    fact("truncate", user(lambda: fails(os.truncate, f"{at}/file", 0)))
    fact("mknod", user(lambda: fails(os.mknod, f"{at}/new", 0o20600, 0x103)))
    fact("xattr", user(lambda: fails(os.setxattr, f"{at}/file", "user.a", b"x")))
    fact("trusted", user(lambda: fails(os.setxattr, f"{at}/file", "trusted.a", b"x")))
    fact("nothing changed", (content(f"{at}/file"), sorted(os.listdir(at))))
