"""Reads what fsx says of its operations, and runs a command after every so many.

    snapshots_between.py OPERATIONS COMMAND...
"""

import subprocess
import sys

every, command = int(sys.argv[1]), sys.argv[2:]
taken = 0
last = []
for number, line in enumerate(sys.stdin, 1):
    last = (last + [line])[-20:]
    if number % every == 0:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken += 1
print("".join(last), end="")
print(f"{taken} snapshots were taken meanwhile")
sys.exit(0 if taken else 1)
