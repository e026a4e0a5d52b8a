"""control_frames.py MOUNT: frames that no client would send, on the control file. Prints what is wrong; silent if nothing.

A frame is 4,096 bytes: the length of the message as a little-endian u32, the message, zeros. What is no message is
EINVAL; a request that is refused is answered with selector 92.
"""
import errno, fcntl, os, struct, sys

CONTROL = 0xD0004146
FRAME = 4096
ERROR = 92
# The list of all snapshots: its selector, and the version "1".
LIST = b"\x011"


def ask(fd, frame, number=CONTROL):
    """The answer's message, or the errno."""
    buffer = bytearray(frame.ljust(FRAME, b"\0"))
    try:
        fcntl.ioctl(fd, number, buffer)
    except OSError as error:
        return error.errno
    (length,) = struct.unpack_from("<I", buffer)
    return bytes(buffer[4 : 4 + length])


def framed(message, length=None):
    return struct.pack("<I", len(message) if length is None else length) + message


def main(mount):
    wrong = []
    control = os.path.join(mount, ".agentfs/control")
    fd = os.open(control, os.O_RDONLY)
    for name, frame in {
        "an empty frame": framed(b""),
        "a length past the end": framed(LIST, FRAME - 3),
        "an enormous length": framed(LIST, 0xFFFFFFFF),
        "a message cut short": framed(b"\x04\x08\0\0\0\x09"),
        "a message with more behind it": framed(LIST, 40),
        "a selector nobody has": framed(b"\x7f1"),
        "nothing but noise": framed(b"\xff" * 200),
    }.items():
        answer = ask(fd, frame)
        # Bytes behind the version are another version: refused in words.
        if answer != errno.EINVAL and not (isinstance(answer, bytes) and answer[:1] == bytes([ERROR])):
            wrong.append(f"{name}: {answer}")
    if ask(fd, framed(LIST), CONTROL + 1) != errno.ENOTTY:
        wrong.append("another ioctl is known")
    directory = os.open(mount, os.O_RDONLY)
    if ask(directory, framed(LIST)) != errno.ENOTTY:
        wrong.append("the directory knows the ioctl")
    os.close(directory)
    answer = ask(fd, framed(LIST))
    if not isinstance(answer, bytes) or answer[:1] != b"\x01":
        wrong.append(f"a sound frame after all of them: {answer}")
    if os.geteuid() == 0:
        # A descriptor that was handed on counts as who uses it.
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        answer = ask(fd, framed(LIST))
        # The kernel refuses it by itself unless the volume is open to others.
        told = isinstance(answer, bytes) and answer[0] == ERROR and struct.pack("<I", errno.EPERM) in answer
        if not told and answer != errno.EACCES:
            wrong.append(f"a foreign user: {answer}")
    else:
        print("control_frames: skipped, another user on an open descriptor needs root", file=sys.stderr)
    print("\n".join(wrong), end="")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
