"""performance_picture.py FIGURES PICTURE NAME=BASE…: bars, a volume, its variants and fuse-overlayfs as parts of the host."""

import json
import sys

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot


def main(figures, picture, *names):
    with open(figures) as file:
        rows = json.load(file)
    shown, works = [name.split("=") for name in names], list(rows)[::-1]
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.16 * len(works) * (len(shown) + 1)))
    height = 0.8 / len(shown)
    for at, (name, base) in enumerate(shown):
        parts = [rows[work].get(name, {}).get(f"to {base}", {"median": 0})["median"] for work in works]
        axes.barh([n + 0.4 - height * (at + 0.5) for n in range(len(works))], parts, height, label=name)
    for n, work in enumerate(works):
        floor = rows[work].get("volume", {}).get("floor")
        if floor:
            axes.plot([floor, floor], [n - 0.42, n + 0.42], color="black", linewidth=1)
    axes.axvline(1, color="grey", linestyle=":")
    axes.set_yticks(range(len(works)))
    axes.set_yticklabels(works)
    axes.set_xlim(0, 2)
    axes.set_xlabel("of the host directory's speed (more is better; black: the floor)")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(picture)


main(*sys.argv[1:])
