"""What every program does: files, directories, links, names, renames, times, permissions, holes."""

import os
import stat as mode_of
import time

from engine import CLOSED, SkipCase, as_user, content, fails, need_root, outcome, put, stat


def case_create_write_read(at, fact):
    path = f"{at}/file"
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
    fact("written", os.write(fd, b"hello world"))
    yield
    fact("again", os.pwrite(fd, b"HELLO", 0))
    fact("read", os.pread(fd, 100, 0))
    fact("at end", os.pread(fd, 100, 11))
    os.close(fd)
    yield CLOSED
    fact("content", content(path))
    fact("attributes", stat(path, "mode", "size", "nlink", "uid", "gid"))


def case_sizes(at, fact):
    for size in (0, 1, 511, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20, (3 << 20) + 1):
        data = bytes(range(256)) * (size // 256 + 1)
        put(f"{at}/{size}", data[:size])
    yield CLOSED
    for name in sorted(os.listdir(at), key=int):
        path = f"{at}/{name}"
        data = content(path)
        fact(name, (len(data), sum(data) % 65521, os.stat(path).st_size, os.stat(path).st_blocks * 512 >= len(data)))


def case_overwrite_in_place(at, fact):
    for size in (3000, 300_000):
        path = f"{at}/{size}"
        put(path, b"a" * size)
        yield CLOSED
        with open(path, "r+b") as file:
            file.seek(size // 2)
            file.write(b"MIDDLE")
            file.seek(0, os.SEEK_END)
            file.write(b"END")
        yield CLOSED
        data = content(path)
        fact(size, (len(data), data[size // 2 - 1 : size // 2 + 7], data[-4:]))


def case_truncate(at, fact):
    for size in (2000, 200_000):
        path = f"{at}/{size}"
        put(path, b"x" * size)
        yield CLOSED
        os.truncate(path, size // 2)
        os.truncate(path, size * 2)
        yield CLOSED
        data = content(path)
        fact(size, (len(data), data.count(b"x"), data.count(b"\0"), data.rstrip(b"\0") == b"x" * (size // 2)))
        os.truncate(path, 0)
        fact("empty", stat(path, "size", "blocks"))
        with open(path, "w") as file:
            file.write("new")
        fact("then", content(path))


def case_append_from_many(at, fact):
    path = f"{at}/log"
    put(path)
    children = []
    for writer in range(4):
        child = os.fork()
        if child == 0:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND)
            for line in range(500):
                os.write(fd, f"{writer} {line:03}\n".encode())
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    yield CLOSED
    lines = content(path).decode().splitlines()
    fact("lines", len(lines))
    for writer in range(4):
        own = [line for line in lines if line.startswith(f"{writer} ")]
        fact(writer, own == [f"{writer} {line:03}" for line in range(500)])


def case_directories(at, fact):
    os.makedirs(f"{at}/a/b/c")
    for number in range(300):
        put(f"{at}/a/file{number:03}")
    os.mkdir(f"{at}/a/sub", 0o2755)
    yield CLOSED
    fact("links", [stat(f"{at}/{path}", "nlink") for path in ("a", "a/b", "a/b/c")])
    fact("listed", sorted(os.listdir(f"{at}/a")))
    fact("kinds", sorted((entry.name, entry.is_dir()) for entry in os.scandir(f"{at}/a") if entry.name < "f"))
    fact("not empty", fails(os.rmdir, f"{at}/a/b"))
    os.rmdir(f"{at}/a/b/c")
    os.rmdir(f"{at}/a/b")
    yield CLOSED
    fact("links", stat(f"{at}/a", "nlink", "mode"))
    for number in range(0, 300, 2):
        os.unlink(f"{at}/a/file{number:03}")
    fact("left", len(os.listdir(f"{at}/a")))


def case_listing_while_changing(at, fact):
    for number in range(2000):
        put(f"{at}/stay{number}")
    seen = []
    with os.scandir(at) as entries:
        for number, entry in enumerate(entries):
            seen.append(entry.name)
            if number % 100 == 0:
                put(f"{at}/new{number}")
                yield
    stayed = [name for name in seen if name.startswith("stay")]
    fact("each once", (len(stayed), len(set(stayed))))


def case_hard_links(at, fact):
    put(f"{at}/a", b"one")
    os.link(f"{at}/a", f"{at}/b")
    os.mkdir(f"{at}/d")
    os.link(f"{at}/a", f"{at}/d/c")
    yield CLOSED
    fact("links", [stat(f"{at}/{path}", "nlink") for path in ("a", "b", "d/c")])
    fact("same", len({os.stat(f"{at}/{path}").st_ino for path in ("a", "b", "d/c")}))
    with open(f"{at}/b", "ab") as file:
        file.write(b" two")
    yield CLOSED
    fact("content", [content(f"{at}/{path}") for path in ("a", "b", "d/c")])
    os.unlink(f"{at}/a")
    fact("left", (stat(f"{at}/b", "nlink"), content(f"{at}/d/c")))
    os.symlink("b", f"{at}/s")
    os.link(f"{at}/s", f"{at}/s2", follow_symlinks=False)
    fact("of a symlink", (os.readlink(f"{at}/s2"), stat(f"{at}/s", "nlink")))


def case_symlinks(at, fact):
    targets = {"rel": "target", "abs": "/nowhere", "long": "x" * 4095, "raw": b"\xff\xfe", "loop": "loop"}
    for name, target in targets.items():
        os.symlink(target, os.fsencode(f"{at}/{name}") if isinstance(target, bytes) else f"{at}/{name}")
    put(f"{at}/target", b"there")
    yield CLOSED
    for name in targets:
        path = os.fsencode(f"{at}/{name}")
        fact(name, (len(os.readlink(path)), os.readlink(path)[-3:], os.lstat(path).st_size, stat(path, "mode")))
    fact("followed", content(f"{at}/rel"))
    fact("loop", fails(open, f"{at}/loop"))
    os.utime(f"{at}/rel", ns=(5, 7), follow_symlinks=False)
    found = os.lstat(f"{at}/rel")
    fact("times", (found.st_atime_ns, found.st_mtime_ns))
    fact("owner", outcome(os.chown, f"{at}/rel", os.geteuid(), os.getegid(), follow_symlinks=False))


def case_rename(at, fact):
    put(f"{at}/a", b"a")
    put(f"{at}/b", b"b")
    ino = os.stat(f"{at}/a").st_ino
    yield CLOSED
    os.rename(f"{at}/a", f"{at}/b")
    fact("over a file", (sorted(os.listdir(at)), content(f"{at}/b"), os.stat(f"{at}/b").st_ino == ino))
    os.makedirs(f"{at}/d1/in")
    os.makedirs(f"{at}/d2")
    yield CLOSED
    os.rename(f"{at}/d1/in", f"{at}/d2/in")
    fact("links", [stat(f"{at}/{path}", "nlink") for path in ("d1", "d2")])
    fact("parent", os.stat(f"{at}/d2/in/..").st_ino == os.stat(f"{at}/d2").st_ino)
    os.rename(f"{at}/d2", f"{at}/d1")
    fact("over an empty directory", sorted(os.listdir(f"{at}/d1")))
    fact("over a full one", fails(os.rename, f"{at}/d1/in", f"{at}/d1"))
    os.link(f"{at}/b", f"{at}/c")
    os.rename(f"{at}/b", f"{at}/c")
    fact("of two names of one file", sorted(os.listdir(at)))
    yield CLOSED
    fact("content", content(f"{at}/c"))


def case_unlinked_files_live_on(at, fact):
    for size in (100, 100_000):
        path = f"{at}/{size}"
        fd = os.open(path, os.O_CREAT | os.O_RDWR)
        os.write(fd, b"z" * size)
        os.unlink(path)
        yield
        os.write(fd, b"more")
        fact(size, (os.fstat(fd).st_nlink, os.fstat(fd).st_size, os.pread(fd, 10, size - 2), os.path.exists(path)))
        fact("no name again", fails(os.link, f"/proc/self/fd/{fd}", path))
        os.close(fd)
    os.mkdir(f"{at}/d")
    fd = os.open(f"{at}/d", os.O_RDONLY)
    os.rmdir(f"{at}/d")
    fact("a directory", (os.fstat(fd).st_nlink, os.listdir(fd)))
    fact("nothing is made in it", fails(os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def case_names(at, fact):
    raw = os.fsencode(at)
    for name in (b"a" * 255, b"\xff\xfe\x80", "ä€😀".encode(), b"with space\n\t", b"-rf", b"...", b"*?[]\\"):
        put(raw + b"/" + name, name)
    yield CLOSED
    fact("listed", sorted(os.listdir(raw)))
    fact("content", all(content(raw + b"/" + name) == name for name in os.listdir(raw)))
    fact("256 bytes", fails(open, raw + b"/" + b"b" * 256, "w"))


def case_times(at, fact):
    path = f"{at}/f"
    put(path, b"x")
    for name, ns in {"old": -(10**18) // 2 + 3, "epoch": 0, "fine": 1_600_000_000_123_456_789, "late": 4_000_000_000 * 10**9}.items():
        os.utime(path, ns=(ns, ns + 1))
        yield CLOSED
        found = os.stat(path)
        fact(name, (found.st_atime_ns - ns, found.st_mtime_ns - ns))
    before = time.time_ns()
    time.sleep(0.02)
    os.utime(path)
    found = os.stat(path)
    fact("now", (found.st_mtime_ns > before, found.st_ctime_ns > before))
    os.utime(path, ns=(1, 1))
    time.sleep(0.02)
    with open(path, "ab") as file:
        file.write(b"y")
    found = os.stat(path)
    fact("a write", (found.st_mtime_ns > before, found.st_ctime_ns >= found.st_mtime_ns))
    mtime = os.stat(at).st_mtime_ns
    time.sleep(0.02)
    put(f"{at}/g")
    fact("a name", os.stat(at).st_mtime_ns > mtime)
    ctime = os.stat(path).st_ctime_ns
    for call in (lambda: os.chmod(path, 0o600), lambda: os.link(path, f"{at}/h"), lambda: os.rename(path, f"{at}/i"),
                 lambda: os.chown(f"{at}/i", -1, os.getegid())):
        time.sleep(0.02)
        call()
        new = os.stat(f"{at}/i" if not os.path.exists(path) else path).st_ctime_ns
        fact("changes ctime", new > ctime)
        ctime = new


def case_read_times(at, fact):
    path = f"{at}/f"
    put(path, b"x" * 100)
    os.utime(path, ns=(10**18, 2 * 10**18))
    yield CLOSED
    content(path)
    first = os.stat(path).st_atime_ns
    fact("older than the change: updated", first > 2 * 10**18)
    os.utime(path, ns=(time.time_ns() - 10**9, 10**18))
    before = os.stat(path).st_atime_ns
    time.sleep(0.02)
    with open(path, "rb") as file:
        file.read()
    # ctime is newer than atime: relatime updates once more, and then not again.
    again = os.stat(path).st_atime_ns
    fact("once", again >= before)
    time.sleep(0.02)
    content(path)
    fact("and not again", os.stat(path).st_atime_ns == again)


def case_permissions(at, fact):
    need_root()
    os.chmod(at, 0o777)
    put(f"{at}/secret", b"s", 0o600)
    put(f"{at}/group", b"g", 0o640)
    os.chown(f"{at}/group", 0, 5555)
    put(f"{at}/exec", b"#!/bin/sh\necho ran\n", 0o755)
    os.mkdir(f"{at}/closed", 0o700)
    put(f"{at}/closed/in", b"i", 0o644)
    yield CLOSED
    user = lambda groups, work: as_user(4444, 4444, groups, work)
    fact("not mine", user([], lambda: fails(open, f"{at}/secret")))
    fact("my group's", user([5555], lambda: content(f"{at}/group")))
    fact("not my group's", user([], lambda: fails(open, f"{at}/group")))
    fact("behind a closed door", user([], lambda: fails(open, f"{at}/closed/in")))
    fact("exec", user([], lambda: os.popen(f"{at}/exec").read()))
    fact("chmod", user([], lambda: fails(os.chmod, f"{at}/secret", 0o777)))
    fact("chown", user([], lambda: fails(os.chown, f"{at}/exec", 4444, -1)))
    fact("utime", user([], lambda: fails(os.utime, f"{at}/secret")))
    fact("access", user([], lambda: [os.access(f"{at}/secret", bit) for bit in (os.R_OK, os.W_OK, os.F_OK)]))


def case_sticky(at, fact):
    need_root()
    os.chmod(at, 0o1777)
    put(f"{at}/roots", b"r", 0o666)
    os.mkdir(f"{at}/dir", 0o777)
    yield CLOSED
    fact("unlink", as_user(4444, 4444, [], lambda: fails(os.unlink, f"{at}/roots")))
    fact("rename", as_user(4444, 4444, [], lambda: fails(os.rename, f"{at}/roots", f"{at}/mine")))
    fact("rmdir", as_user(4444, 4444, [], lambda: fails(os.rmdir, f"{at}/dir")))
    fact("own", as_user(4444, 4444, [], lambda: (put(f"{at}/own"), os.unlink(f"{at}/own"))))


def case_set_ids(at, fact):
    need_root()
    os.chmod(at, 0o777)
    mode = lambda path: oct(mode_of.S_IMODE(os.stat(path).st_mode))
    make = lambda name, bits, owner=4444: (put(f"{at}/{name}", b"x" * 10, bits), os.chown(f"{at}/{name}", owner, owner), os.chmod(f"{at}/{name}", bits))

    def rewrite(path):
        with open(path, "r+b") as file:
            file.write(b"y")

    def cut(path):
        os.truncate(path, 3)

    def reopen(path):
        open(path, "wb").close()

    for bits in (0o6755, 0o2745, 0o6766):
        for name, work in {"write": rewrite, "truncate": cut, "open": reopen}.items():
            for who in (4444, 0):
                path = f"{at}/{name}-{who}-{bits:o}"
                make(os.path.basename(path), bits)
                yield CLOSED
                as_user(who, who, [], lambda: work(path))
                fact(f"{name} by {who} of {bits:o}", mode(path))
        for who, owner, group in ((0, 5, 5), (0, -1, -1), (4444, -1, 4444)):
            path = f"{at}/chown-{who}-{owner}-{bits:o}"
            make(os.path.basename(path), bits)
            as_user(who, who, [], lambda: os.chown(path, owner, group))
            fact(f"chown by {who} to {owner} of {bits:o}", mode(path))
    # Whose group the writer is no member of.
    for name, work in {"write": rewrite, "truncate": cut, "open": reopen, "chown": lambda path: os.chown(path, 4444, -1)}.items():
        for bits in (0o2745, 0o2755, 0o4745):
            path = f"{at}/stranger-{name}-{bits:o}"
            put(path, b"x" * 10)
            os.chown(path, 4444, 7777)
            os.chmod(path, bits)
            yield CLOSED
            as_user(4444, 4444, [], lambda: work(path))
            fact(f"{name} by a stranger of {bits:o}", mode(path))
    os.mkdir(f"{at}/inherit")
    os.chown(f"{at}/inherit", 0, 7777)
    os.chmod(f"{at}/inherit", 0o2777)
    yield CLOSED
    os.mkdir(f"{at}/inherit/d")
    put(f"{at}/inherit/f")
    fact("inherited", [stat(f"{at}/inherit/{name}", "gid", "mode") for name in ("d", "f")])
    fact("not a member", as_user(4444, 4444, [], lambda: (put(f"{at}/inherit/u"), os.chmod(f"{at}/inherit/u", 0o2755), mode(f"{at}/inherit/u"))))
    fact("a member", as_user(4444, 4444, [7777], lambda: (put(f"{at}/inherit/m"), os.chmod(f"{at}/inherit/m", 0o2755), mode(f"{at}/inherit/m"))))


def case_umask(at, fact):
    for mask in (0, 0o027, 0o077):
        before = os.umask(mask)
        os.close(os.open(f"{at}/f{mask}", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(f"{at}/d{mask}")
        os.umask(before)
    yield CLOSED
    fact("modes", [(name, stat(f"{at}/{name}", "mode")) for name in sorted(os.listdir(at))])


def case_statvfs(at, fact):
    found = os.statvfs(at)
    fact("name", (found.f_namemax, found.f_bsize, found.f_blocks >= found.f_bfree >= found.f_bavail > 0, found.f_files > 0))
    yield CLOSED


def case_open_flags(at, fact):
    path = f"{at}/f"
    put(path, b"12345")
    os.symlink("f", f"{at}/s")
    fact("excl", fails(os.open, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    fact("excl of a symlink", fails(os.open, f"{at}/s", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    fact("nofollow", fails(os.open, f"{at}/s", os.O_RDONLY | os.O_NOFOLLOW))
    fact("directory", fails(os.open, path, os.O_RDONLY | os.O_DIRECTORY))
    yield CLOSED
    fd = os.open(path, os.O_PATH)
    fact("path", (fails(os.read, fd, 1), os.fstat(fd).st_size))
    os.close(fd)
    fd = os.open(path, os.O_RDONLY)
    fact("write to a reader", fails(os.write, fd, b"x"))
    os.close(fd)
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    fact("read from a writer", fails(os.read, fd, 1))
    os.close(fd)
    fact("truncated", content(path))
    for flag in (os.O_SYNC, os.O_DSYNC, os.O_NOATIME):
        fd = os.open(path, os.O_RDWR | flag)
        fact("written", os.write(fd, b"sync"))
        os.close(fd)
    fact("content", content(path))
