"""A process for tests: does what it is told on standard input, a line of JSON a request, and answers in a line of JSON.

A request is Python: an expression is answered with its value, other code with None. What fails is answered with its
errno, or with the traceback when it is no failure of a system call.
"""
import ctypes, errno, json, mmap, os, random, shutil, signal, subprocess, sys, threading, time, traceback


def write(path, text, mode="w"):
    with open(path, mode) as file:
        file.write(text)


def read(path):
    with open(path) as file:
        return file.read()


def missing(path):
    try:
        os.lstat(path)
        return False
    except FileNotFoundError:
        return True


def failure(call, *args):
    """The errno of a call that must fail; 0 when it does not."""
    try:
        call(*args)
        return 0
    except OSError as error:
        return error.errno


def write_mapped(path, text):
    data = text.encode()
    with open(path, "r+b") as file:
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[: len(data)] = data


def numbers_of(path, seconds):
    """The numbers of a directory, by its path, by an open descriptor and by one that stays open, for a while."""
    found, until = set(), time.time() + seconds
    stays = os.open(path, os.O_RDONLY)
    while time.time() < until:
        number = os.lstat(path).st_ino
        opened = os.open(path, os.O_RDONLY)
        found |= {number, os.fstat(opened).st_ino, os.fstat(stays).st_ino}
        os.close(opened)
    os.close(stays)
    return sorted(found)


def unsettle(root, name, seconds):
    """Makes, changes, moves and removes a directory at one path, again and again."""
    until, turns, path = time.time() + seconds, 0, f"{root}/{name}"
    while time.time() < until:
        os.mkdir(path, 0o700 + turns % 8)
        os.mkdir(f"{path}/in")
        os.chmod(path, 0o755)
        os.lstat(f"{path}/in")
        os.rename(path, f"{path}-moved")
        os.rmdir(f"{path}-moved/in")
        os.rmdir(f"{path}-moved")
        turns += 1
    return turns


def prepare(root):
    """What all branches begin with."""
    os.makedirs(f"{root}/d/sub/deep")
    for name in ("over", "app", "trunc", "mapped", "ren", "mode", "xattr", "gone"):
        write(f"{root}/d/{name}", f"main {name} ".ljust(4096, "."))
    for name in ("rd", "gone", "swap"):
        os.mkdir(f"{root}/{name}")
    write(f"{root}/rd/inside", "main inside")


def diverge(root, tag, number):
    """Everything that can be done to a path, differently in each branch."""
    d = f"{root}/d"
    write(f"{d}/created", f"created by {tag}")
    write(f"{d}/only-{tag}", tag)
    write(f"{d}/over", f"{tag} was here " * 100)
    write(f"{d}/app", f"and {tag}", "a")
    os.truncate(f"{d}/trunc", 100 * number)
    write_mapped(f"{d}/mapped", f"mapped by {tag} ")
    os.rename(f"{d}/ren", f"{d}/ren-{tag}")
    os.rename(f"{root}/rd", f"{root}/rd-{tag}")
    write(f"{root}/rd-{tag}/inside", f"inside {tag}")
    os.chmod(f"{d}/mode", 0o600 + number)
    os.chmod(f"{d}/sub", 0o700 + number)
    os.rmdir(f"{root}/gone") if number % 2 else write(f"{root}/gone/{tag}", tag)
    os.unlink(f"{d}/gone")
    os.symlink(f"target-of-{tag}", f"{d}/link")
    os.link(f"{d}/over", f"{d}/hard")
    os.setxattr(f"{d}/xattr", "user.tag", tag.encode())
    os.mkdir(f"{root}/made")
    write(f"{root}/made/by", tag)
    # A directory and a file change places.
    os.rmdir(f"{root}/swap")
    write(f"{root}/swap", f"a file of {tag}")


def verify(root, tag, number, others):
    """All of that is there, and nothing of the others; returns what is wrong."""
    d = f"{root}/d"
    wrong = []

    def same(what, found, expected):
        if found != expected:
            wrong.append(f"{tag}: {what}: {found!r} and not {expected!r}")

    same("created", read(f"{d}/created"), f"created by {tag}")
    same("over", read(f"{d}/over"), f"{tag} was here " * 100)
    same("hard", read(f"{d}/hard"), f"{tag} was here " * 100)
    same("nlink", os.stat(f"{d}/over").st_nlink, 2)
    same("app", read(f"{d}/app"), "main app ".ljust(4096, ".") + f"and {tag}")
    same("trunc", os.stat(f"{d}/trunc").st_size, 100 * number)
    same("mapped", read(f"{d}/mapped")[: len(f"mapped by {tag} ")], f"mapped by {tag} ")
    same("mode", os.stat(f"{d}/mode").st_mode & 0o7777, 0o600 + number)
    same("mode of a directory", os.stat(f"{d}/sub").st_mode & 0o7777, 0o700 + number)
    same("inside", read(f"{root}/rd-{tag}/inside"), f"inside {tag}")
    same("link", os.readlink(f"{d}/link"), f"target-of-{tag}")
    same("xattr", os.getxattr(f"{d}/xattr", "user.tag"), tag.encode())
    same("made", read(f"{root}/made/by"), tag)
    same("swap", read(f"{root}/swap"), f"a file of {tag}")
    same("a listing", sorted(os.listdir(d)),
         sorted(["created", f"only-{tag}", "over", "app", "trunc", "mapped", f"ren-{tag}", "mode", "xattr", "link",
                 "hard", "sub"]))
    root_names = ["d", f"rd-{tag}", "made", "swap"] + ([] if number % 2 else ["gone"])
    same("the root's listing", sorted(os.listdir(root)), sorted(root_names))
    for name in (f"{d}/ren", f"{root}/rd", f"{d}/gone"):
        same(f"{name} is missing", missing(name), True)
    for other in others:
        for name in (f"{d}/only-{other}", f"{d}/ren-{other}", f"{root}/rd-{other}"):
            same(f"{name} is missing", missing(name), True)
    return wrong


def verify_main(root, others):
    """Main is as it was prepared."""
    wrong = []
    for name in ("over", "app", "trunc", "mapped", "ren", "mode", "xattr", "gone"):
        if read(f"{root}/d/{name}") != f"main {name} ".ljust(4096, "."):
            wrong.append(f"main: {name} has changed")
    if sorted(os.listdir(root)) != ["d", "gone", "rd", "swap"]:
        wrong.append(f"main: {os.listdir(root)}")
    if read(f"{root}/rd/inside") != "main inside" or os.listdir(f"{root}/gone") != []:
        wrong.append("main: a directory has changed")
    if os.listxattr(f"{root}/d/xattr") or os.stat(f"{root}/d/sub").st_mode & 0o777 != 0o755:
        wrong.append("main: attributes have changed")
    wrong += [f"main: has {other}'s" for other in others if not missing(f"{root}/d/only-{other}")]
    return wrong


def exchange(a, b):
    """renameat2(RENAME_EXCHANGE), which Python does not have."""
    if ctypes.CDLL(None, use_errno=True).renameat2(-100, a.encode(), -100, b.encode(), 2) != 0:
        raise OSError(ctypes.get_errno(), "exchange")


def outcome(call, *args):
    """What a call answers, or its errno."""
    try:
        answer = call(*args)
        return sorted(answer) if isinstance(answer, list) else answer
    except OSError as error:
        return -error.errno


def mode_of(path):
    status = os.lstat(path)
    return [status.st_mode, status.st_uid, 0 if os.path.isdir(path) else status.st_size]


def dump(root):
    """All there is below a directory: kinds, modes, link counts of directories, content."""
    found = []
    for dir, dirs, files in os.walk(root, onerror=lambda error: found.append(f"{error.errno} {dir}")):
        dirs.sort()
        for name in sorted(dirs) + sorted(files):
            path = os.path.join(dir, name)
            status = os.lstat(path)
            content = read(path) if name in files else status.st_nlink
            found.append([os.path.relpath(path, root), status.st_mode, content])
    return found


class Worker:
    """Works at the same paths as others in other branches, and knows what must be there."""

    def __init__(self, root, tag, number, seed):
        self.root, self.tag, self.number = root, tag, number
        self.random = random.Random(seed)
        self.files, self.dirs, self.wrong, self.count = {}, set(), [], 0
        self.home = f"{root}/home{number}"

    def start(self):
        os.makedirs(self.home, exist_ok=True)
        os.chdir(self.home)

    def path(self, name):
        return f"{self.root}/{name}"

    def step(self):
        r, tag = self.random, self.tag
        # The other worker of the branch has names of its own, the workers of other branches have the same.
        name = f"d{r.randrange(3)}/p{self.number}-{r.randrange(6)}"
        path = self.path(name)
        known = self.files.get(name)
        what = r.randrange(10)
        self.count += 1
        text = f"{tag} {self.count} " * r.randrange(1, 40)
        if what < 3:
            write(path, text)
            self.files[name] = text
        elif what == 3 and known is not None:
            write(path, text, "a")
            self.files[name] = known + text
        elif what == 4 and known:
            write_mapped(path, "M")
            self.files[name] = "M" + known[1:]
        elif what == 5 and known is not None:
            os.unlink(path)
            del self.files[name]
        elif what == 6 and known is not None:
            to = f"d{r.randrange(3)}/p{self.number}-{r.randrange(6)}"
            os.rename(path, self.path(to))
            del self.files[name]
            self.files[to] = known
        elif what == 7:
            dir = f"d{r.randrange(3)}/x{self.number}-{r.randrange(3)}"
            if dir in self.dirs:
                os.rmdir(self.path(dir))
                self.dirs.discard(dir)
            else:
                os.mkdir(self.path(dir))
                self.dirs.add(dir)
        elif what == 8 and self.dirs:
            dir = r.choice(sorted(self.dirs))
            to = f"d{r.randrange(3)}/x{self.number}-{r.randrange(3)}"
            if to not in self.dirs:
                os.rename(self.path(dir), self.path(to))
                self.dirs.discard(dir)
                self.dirs.add(to)
        else:
            if known is None:
                if not missing(path):
                    self.wrong.append(f"{tag}: {name} is there: {read(path)[:40]!r}")
            elif read(path) != known:
                self.wrong.append(f"{tag}: {name} has {read(path)[:40]!r} and not {known[:40]!r}")
        here = os.getcwd()
        if here != self.home:
            self.wrong.append(f"{tag}: getcwd says {here}")
        write("local", str(self.count))
        if read(f"{self.home}/local") != str(self.count):
            self.wrong.append(f"{tag}: the current directory is another")

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(self.wrong) < 5:
            try:
                self.step()
            except OSError as error:
                self.wrong.append(f"{self.tag}: step {self.count}: {traceback.format_exc()}")
        return self.count

    def finish(self):
        for name, text in self.files.items():
            if read(self.path(name)) != text:
                self.wrong.append(f"{self.tag}: at the end {name} is wrong")
        for d in range(3):
            own = [n for n in os.listdir(self.path(f"d{d}")) if n[1:].startswith(f"{self.number}-")]
            expected = [n[3:] for n in [*self.files, *self.dirs] if n.startswith(f"d{d}/")]
            if sorted(own) != sorted(expected):
                self.wrong.append(f"{self.tag}: at the end d{d} has {own} and not {expected}")
        return self.wrong


def serve():
    scope = globals()
    for line in sys.stdin:
        code = json.loads(line)
        try:
            try:
                answer = {"value": eval(compile(code, "request", "eval"), scope)}
            except SyntaxError:
                exec(compile(code, "request", "exec"), scope)
                answer = {"value": None}
        except OSError as error:
            answer = {"errno": error.errno, "told": traceback.format_exc()}
        except BaseException:
            answer = {"told": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
