"""Extended attributes in all namespaces, and POSIX ACLs."""

import os
import shutil
import struct
import subprocess

from engine import CLOSED, SkipCase, as_user, content, fails, need_root, outcome, put, stat


def names(path, follow=True):
    # What a security module adds is the host's own.
    return sorted(name for name in os.listxattr(path, follow_symlinks=follow) if name != "security.selinux")


def case_user(at, fact):
    put(f"{at}/file")
    os.mkdir(f"{at}/dir")
    for path in ("file", "dir"):
        for name, value in {"user.a": b"1", "user.empty": b"", "user.bin": bytes(range(256)), "user." + "n" * 250: b"long"}.items():
            fact(name[:10], outcome(os.setxattr, f"{at}/{path}", name, value))
    yield CLOSED
    for path in ("file", "dir"):
        fact(path, [(name[:10], os.getxattr(f"{at}/{path}", name)) for name in names(f"{at}/{path}")])
        os.setxattr(f"{at}/{path}", "user.a", b"2", os.XATTR_REPLACE)
        fact("create", fails(os.setxattr, f"{at}/{path}", "user.a", b"3", os.XATTR_CREATE))
        fact("replace", fails(os.setxattr, f"{at}/{path}", "user.none", b"3", os.XATTR_REPLACE))
        os.removexattr(f"{at}/{path}", "user.empty")
        fact("removed", fails(os.getxattr, f"{at}/{path}", "user.empty"))
        fact("again", fails(os.removexattr, f"{at}/{path}", "user.empty"))
        fact("value", os.getxattr(f"{at}/{path}", "user.a"))
    fact("name too long", fails(os.setxattr, f"{at}/file", "user." + "n" * 251, b"x"))
    fact("no name", fails(os.setxattr, f"{at}/file", "user.", b"x"))
    fact("value too long", fails(os.setxattr, f"{at}/file", "user.big", bytes(65537)))
    fact("no namespace", fails(os.setxattr, f"{at}/file", "nowhere.a", b"x"))
    yield CLOSED
    fact("left", [len(names(f"{at}/{path}")) for path in ("file", "dir")])


def case_special_files(at, fact):
    os.symlink("nowhere", f"{at}/link")
    os.mkfifo(f"{at}/fifo")
    for path in ("link", "fifo"):
        fact(path, fails(os.setxattr, f"{at}/{path}", "user.a", b"x", follow_symlinks=False))
    need_root()
    for path in ("link", "fifo"):
        fact("trusted " + path, outcome(os.setxattr, f"{at}/{path}", "trusted.a", b"x", follow_symlinks=False))
    yield CLOSED
    fact("there", [names(f"{at}/{path}", False) for path in ("link", "fifo")])


def case_trusted_and_security(at, fact):
    need_root()
    put(f"{at}/file", b"x")
    os.chmod(f"{at}/file", 0o666)
    os.setxattr(f"{at}/file", "trusted.t", b"secret")
    os.setxattr(f"{at}/file", "security.s", b"label")
    os.setxattr(f"{at}/file", "user.u", b"open")
    yield CLOSED
    fact("root sees", names(f"{at}/file"))
    fact("others see", as_user(4444, 4444, [], lambda: names(f"{at}/file")))
    fact("others read", as_user(4444, 4444, [], lambda: fails(os.getxattr, f"{at}/file", "trusted.t")))
    fact("others write", as_user(4444, 4444, [], lambda: (fails(os.setxattr, f"{at}/file", "trusted.t", b"x"), fails(os.setxattr, f"{at}/file", "security.s", b"x"))))


def case_file_capabilities(at, fact):
    need_root()
    if not shutil.which("setcap"):
        raise SkipCase("there is no setcap")
    for name in ("write", "chown", "truncate"):
        put(f"{at}/{name}", b"x" * 10, 0o755)
        subprocess.run(["setcap", "cap_net_raw+ep", f"{at}/{name}"], check=True)
    yield CLOSED
    fact("set", [names(f"{at}/{name}") for name in ("write", "chown", "truncate")])
    with open(f"{at}/write", "r+b") as file:
        file.write(b"y")
    os.chown(f"{at}/chown", 4444, 4444)
    os.truncate(f"{at}/truncate", 5)
    fact("gone", [names(f"{at}/{name}") for name in ("write", "chown", "truncate")])


def case_times_and_copies(at, fact):
    put(f"{at}/file", b"x")
    os.setxattr(f"{at}/file", "user.a", b"1")
    before = os.stat(f"{at}/file")
    import time

    time.sleep(0.02)
    os.setxattr(f"{at}/file", "user.b", b"2")
    after = os.stat(f"{at}/file")
    fact("times", (after.st_ctime_ns > before.st_ctime_ns, after.st_mtime_ns == before.st_mtime_ns))
    shutil.copy2(f"{at}/file", f"{at}/copy")
    yield CLOSED
    fact("copied", [(name, os.getxattr(f"{at}/copy", name)) for name in names(f"{at}/copy")])
    os.rename(f"{at}/copy", f"{at}/moved")
    os.link(f"{at}/moved", f"{at}/linked")
    fact("moved", names(f"{at}/linked"))


ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
TAGS = {"u": 1, "U": 2, "g": 4, "G": 8, "m": 16, "o": 32}


def acl(*entries):
    """An ACL; entries are (tag, permissions) or (tag, permissions, id)."""
    packed = [struct.pack("<HHI", TAGS[e[0]], e[1], e[2] if len(e) > 2 else 0xFFFFFFFF) for e in entries]
    return struct.pack("<I", 2) + b"".join(packed)


def shown(path, name=ACCESS):
    value = outcome(os.getxattr, path, name)
    if isinstance(value, str):
        return value
    tags = {number: tag for tag, number in TAGS.items()}
    return [(tags[tag], bits) + ((ident,) if tag in (2, 8) else ()) for tag, bits, ident in struct.iter_unpack("<HHI", value[4:])]


NAMED = [("u", 6), ("U", 7, 4444), ("g", 4), ("G", 5, 5555), ("m", 7), ("o", 0)]


def case_acl_access(at, fact):
    need_root()
    os.chmod(at, 0o755)
    path = f"{at}/file"
    put(path, b"content", 0o600)
    os.setxattr(path, ACCESS, acl(*NAMED))
    yield CLOSED
    fact("acl", shown(path))
    fact("mode", stat(path, "mode"))
    fact("named user", as_user(4444, 1, [], lambda: (content(path), outcome(lambda: open(path, "r+b").close()))))
    fact("named group", as_user(3333, 3333, [5555], lambda: (content(path), fails(open, path, "r+b"))))
    fact("nobody", as_user(3333, 3333, [], lambda: fails(open, path)))
    fact("not the owner", as_user(4444, 1, [], lambda: fails(os.setxattr, path, ACCESS, acl(("u", 7), ("g", 7), ("o", 7)))))
    os.chmod(path, 0o640)
    yield CLOSED
    fact("after chmod", (shown(path), stat(path, "mode")))
    fact("masked", as_user(4444, 1, [], lambda: fails(open, path, "r+b")))
    os.setxattr(path, ACCESS, acl(("u", 6), ("g", 4), ("o", 4)))
    fact("minimal", (shown(path), stat(path, "mode"), ACCESS in names(path)))
    os.setxattr(path, ACCESS, acl(*NAMED))
    os.removexattr(path, ACCESS)
    fact("removed", (shown(path), stat(path, "mode")))
    fact("removed again", outcome(os.removexattr, path, ACCESS))
    yield CLOSED
    fact("no acl", fails(os.setxattr, path, ACCESS, b"nonsense"))
    fact("no mask", fails(os.setxattr, path, ACCESS, acl(("u", 6), ("U", 7, 4444), ("g", 4), ("o", 0))))
    fact("default of a file", fails(os.setxattr, path, DEFAULT, acl(("u", 6), ("g", 4), ("o", 4))))


def case_acl_default(at, fact):
    need_root()
    path = f"{at}/dir"
    os.mkdir(path)
    os.setxattr(path, DEFAULT, acl(*NAMED))
    yield CLOSED
    before = os.umask(0o077)
    os.close(os.open(f"{path}/file", os.O_CREAT | os.O_WRONLY, 0o666))
    os.close(os.open(f"{path}/tight", os.O_CREAT | os.O_WRONLY, 0o640))
    os.mkdir(f"{path}/sub")
    os.mkfifo(f"{path}/fifo")
    os.symlink("x", f"{path}/link")
    os.umask(before)
    yield CLOSED
    for name in ("file", "tight", "sub", "fifo"):
        fact(name, (stat(f"{path}/{name}", "mode"), shown(f"{path}/{name}"), shown(f"{path}/{name}", DEFAULT)))
    fact("link", names(f"{path}/link", False))
    os.mkdir(f"{path}/sub/deep")
    fact("deep", shown(f"{path}/sub/deep", DEFAULT))
    os.removexattr(path, DEFAULT)
    put(f"{path}/after")
    fact("after", (stat(f"{path}/after", "mode"), names(f"{path}/after")))


def case_acl_set_group_id(at, fact):
    need_root()
    os.chmod(at, 0o777)
    for name, groups in {"member": [7777], "stranger": []}.items():
        path = f"{at}/{name}"
        put(path, b"", 0o755)
        os.chown(path, 4444, 7777)
        os.chmod(path, 0o2755)
        yield CLOSED
        fact(name, as_user(4444, 4444, groups, lambda: (os.setxattr(path, ACCESS, acl(*NAMED)), stat(path, "mode"))))


def case_acl_copies(at, fact):
    need_root()
    put(f"{at}/file", b"x")
    os.setxattr(f"{at}/file", ACCESS, acl(*NAMED))
    os.mkdir(f"{at}/dir")
    os.setxattr(f"{at}/dir", DEFAULT, acl(*NAMED))
    yield CLOSED
    subprocess.run(["cp", "-a", f"{at}/file", f"{at}/copy"], check=True)
    subprocess.run(["cp", "-a", f"{at}/dir", f"{at}/dircopy"], check=True)
    fact("copied", (shown(f"{at}/copy"), stat(f"{at}/copy", "mode"), shown(f"{at}/dircopy", DEFAULT)))
    if shutil.which("getfacl"):
        told = subprocess.run(["getfacl", "-n", "--absolute-names", f"{at}/copy"], capture_output=True, text=True).stdout
        fact("getfacl", told.splitlines()[1:])
