"""Runs the cases of a file in a directory and prints facts: what calls answered and what is there afterwards. Run on
AgentFS and on ext4, a case must print the same.

    engine.py CASES DIR [HOOK]

A case is a generator `case_NAME(at, fact)`: `at` is an empty directory of its own, `fact(name, value)` prints. It yields
where something may happen to the volume that must make no difference: HOOK is run there, with the argument "open", or
"closed" when the case says `yield CLOSED`, that it has nothing open. A case that cannot run says why with SkipCase.
"""

import errno
import importlib.util
import os
import subprocess
import sys
import traceback

OPEN, CLOSED = "open", "closed"


class SkipCase(Exception):
    """The reason why a case has nothing to run."""


def need_root():
    if os.geteuid() != 0:
        raise SkipCase("needs root")


def outcome(call, *args, **options):
    """What a call answers, or the name of its error."""
    try:
        return call(*args, **options)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


def fails(call, *args, **options):
    """The name of the error that a call must end with."""
    try:
        call(*args, **options)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return "no error"


def content(path):
    with open(path, "rb") as file:
        return file.read()


def put(path, data=b"", mode=None):
    with open(path, "wb") as file:
        file.write(data)
    if mode is not None:
        os.chmod(path, mode)


def stat(path, *names):
    """Some attributes of a path, not followed."""
    found = os.lstat(path)
    return [oct(found.st_mode) if name == "mode" else getattr(found, "st_" + name) for name in names]


def as_user(uid, gid, groups, work):
    """What `work` returns, in a process of that user's."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            os.write(write, repr(work()).encode())
        except BaseException:
            os.write(write, traceback.format_exc().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


def run_case(name, case, directory, hook):
    def fact(key, value):
        print(f"{name}: {key} = {value!r}", flush=True)

    os.mkdir(directory)
    steps = case(directory, fact)
    try:
        for marker in steps or ():
            if hook:
                subprocess.run(["bash", "-c", hook, "hook", marker or OPEN], check=True, stdout=subprocess.DEVNULL)
    except SkipCase as why:
        print(f"{name}: skipped, {why}", flush=True)
    except Exception:
        print(f"{name}: broke off", flush=True)
        print(traceback.format_exc(), file=sys.stderr)
        return False
    return True


def main():
    path, directory = sys.argv[1], sys.argv[2]
    hook = sys.argv[3] if len(sys.argv) > 3 else None
    sys.modules["engine"] = sys.modules["__main__"]
    spec = importlib.util.spec_from_file_location("cases", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases = {name[5:]: value for name, value in vars(module).items() if name.startswith("case_")}
    os.umask(0o022)
    sound = [run_case(name, case, os.path.join(directory, name), hook) for name, case in cases.items()]
    print(f"{len(cases)} cases")
    sys.exit(0 if all(sound) else 1)


if __name__ == "__main__":
    main()
