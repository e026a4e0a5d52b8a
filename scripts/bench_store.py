"""What harnesses share: the space of a store, and the command line."""
import os, subprocess


def held(path):
    """Bytes that the host holds for what lies below a directory, when all is written out."""
    os.sync()
    return space(path)


def space(path):
    """Bytes that the host says it holds for what lies below a directory."""
    blocks = 0
    for root, dirs, files in os.walk(path):
        for name in files + dirs:
            try:
                blocks += os.lstat(f"{root}/{name}").st_blocks
            except FileNotFoundError:
                pass
    return blocks * 512


def control(cli, mount, *args):
    """What a command answers; ends the run when it fails."""
    done = subprocess.run([cli, "--mount", mount, *args], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{args}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
