# SPDX-License-Identifier: BSD-3-Clause
"""Draws what compare.py and to_goal.py measured beside each other: shares of the FMA peak, and seconds to an accuracy.

    python bench/chart.py COMPARE.json GOAL.json [GOAL.json ...] OUT.png [--threads N]

The files are those of the benches' --json. Needs matplotlib. Elsewhere: whatever is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, THEIRS = "#1f4e79", "#b0b0b0"
FORMS = {None: "dense", 0.25: "α = 1/4", 0.125: "α = 1/8"}
# Variants of compare.py, of float32.
PEERS = ("svdfast", "torch", "jax")


def bars(axes: Axes, title: str, rows: list[tuple[str, float, str, str]], label: str) -> None:
    """A bar for each name, value, text behind it and colour, the first one on top."""
    names, values, texts, colours = zip(*reversed(rows), strict=True)
    axes.bar_label(axes.barh(range(len(rows)), values, color=colours), texts, padding=3, fontsize="x-small")
    axes.set_yticks(range(len(rows)), names, fontsize="x-small")
    axes.set_title(title, fontsize="small")
    axes.set_xlabel(label, fontsize="small")
    axes.tick_params(axis="x", labelsize="x-small")
    axes.spines[["top", "right"]].set_visible(False)


def shares(axes: Axes, compared: dict[str, Any], case: str, threads: int) -> None:
    records = [r for r in compared["records"] if (r["case"], r["threads"]) == (case, threads)]
    found = {(r["variant"], r["rank_fraction"]): r["share_of_peak"] for r in records}
    rows = [
        (f"{system}, {form}", 100 * found[system, fraction], f"{found[system, fraction]:.0%}", OURS if system == "svdfast" else THEIRS)
        for fraction, form in FORMS.items()
        for system in PEERS
        if (system, fraction) in found
    ]
    bars(axes, f"{case}: a step", rows, "% of the FMA peak")
    axes.set_xlim(0, 110)


def times(axes: Axes, case: str, goal: float, best: dict[str, dict[str, Any]]) -> None:
    rows = [
        (name, way["seconds"], f"{way['seconds']:.2f} s, {way['epochs']} × {way['batch']}", OURS if name.startswith("svdfast") else THEIRS)
        for name, way in sorted(best.items(), key=lambda item: item[1]["seconds"])
    ]
    bars(axes, f"{case}: to {goal} %", rows, "seconds (epochs × batch size)")
    axes.set_xlim(0, 1.5 * max(seconds for _, seconds, _, _ in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("compared", type=Path, metavar="COMPARE.json")
    parser.add_argument("goals", type=Path, nargs="+", metavar="GOAL.json")
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if not importlib.util.find_spec("matplotlib"):
        parser.error('matplotlib is needed, which is in the extra "bench": pip install "svdfast[bench]"')
    from matplotlib.figure import Figure

    compared = json.loads(arguments.compared.read_text())
    goals = [goal for path in arguments.goals for goal in json.loads(path.read_text())["goals"].items() if goal[1]["best"]]
    if not goals:
        parser.error("GOAL.json: expected a goal that was reached")
    cases = list(dict.fromkeys(r["case"] for r in compared["records"] if r["threads"] == arguments.threads))
    figure = Figure(figsize=(3.6 * max(len(cases), len(goals)), 6), layout="constrained")
    above, below = figure.subfigures(2, 1)
    for axes, case in zip(above.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        shares(axes, compared, case, arguments.threads)
    for axes, (case, goal) in zip(below.subplots(1, len(goals), squeeze=False)[0], goals, strict=True):
        times(axes, case, goal["accuracy"], goal["best"])
    figure.savefig(arguments.out, dpi=120)


if __name__ == "__main__":
    main()
