"""Reads what pjdfstest printed, and compares it with what is expected.

    pjdfstest.py counts LOG              passed, failed and skipped, as JSON
    pjdfstest.py compare LOG BASELINE    every difference, in either direction; exit code 1 if there is one
    pjdfstest.py baseline LOG            a baseline that expects what LOG says
"""

import json
import re
import sys

LINE = re.compile(r"^(\S+(?:::\S+)*)\s+(ok|skipped|FAILED|expected failure)\s*$")


def outcomes(path):
    """What became of each test case."""
    found = {}
    with open(path, errors="replace") as log:
        for line in log:
            if match := LINE.match(line):
                found[match[1]] = match[2]
    return found


def having(found, outcome):
    return sorted(name for name, became in found.items() if became == outcome)


def counts(path):
    found = outcomes(path)
    return {
        "passed": len(having(found, "ok")),
        "failed": len(having(found, "FAILED")),
        "skipped": len(having(found, "skipped")),
    }


def compare(path, baseline):
    found = outcomes(path)
    with open(baseline) as file:
        expected = json.load(file)
    differences = []
    if len(found) != expected["total"]:
        differences.append(f"{len(found)} test cases ran, {expected['total']} are expected")
    for kind, outcome in (("failed", "FAILED"), ("skipped", "skipped")):
        now, then = set(having(found, outcome)), set(expected[kind])
        differences += [f"{name} {kind}, and that is not expected" for name in sorted(now - then)]
        differences += [f"{name} is expected to have {kind}, and became {found.get(name, 'nothing')}" for name in sorted(then - now)]
    for difference in differences:
        print(difference)
    return not differences


def main():
    command, path = sys.argv[1], sys.argv[2]
    if command == "counts":
        print(json.dumps(counts(path)))
    elif command == "baseline":
        found = outcomes(path)
        print(json.dumps({"total": len(found), "failed": having(found, "FAILED"), "skipped": having(found, "skipped")}, indent=2))
    elif command == "compare":
        sys.exit(0 if compare(path, sys.argv[3]) else 1)
    else:
        sys.exit(f"pjdfstest.py: unknown command {command}")


if __name__ == "__main__":
    main()
