# SPDX-License-Identifier: BSD-3-Clause
"""Tables of runs beside the report's, in Markdown that reads well as plain text.

Not here: figures (_figures.py).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from svdfast.reproduce._experiment import Record, Runs, forms, of_form

NONE = "–"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first to the left, the others to the right."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1])] + [cell.rjust(width) for cell, width in others]) + " |"

    rule = "| " + " | ".join(["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]) + " |"
    return "\n".join([line(header), rule, *map(line, rows)])


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def given(value: float | None, digits: int, unit: str = "") -> str:
    return NONE if value is None else f"{value:.{digits}f}{unit}"


def results_table(runs: Runs, report: Mapping[str, Mapping[str, float]], cost_digits: int) -> str:
    """Costs and accuracies of each form, beside the report's (cost, train, test), by form."""
    rows = []
    for form in forms(runs):
        of = of_form(runs, form)
        theirs = report.get(form, {})
        rows.append(
            [
                form,
                given(theirs.get("cost"), 5),
                spread([run["cost"] for run in of], cost_digits),
                given(theirs.get("train"), 2),
                spread([run["train_accuracy"] for run in of], 2),
                given(theirs.get("test"), 2),
                spread([run["test_accuracy"] for run in of], 2),
                str(len(of)),
            ]
        )
    header = [
        "", "report: cost", "ours: cost", "report: train, %", "ours: train, %", "report: test, %", "ours: test, %", "seeds",
    ]  # fmt: skip
    return table(header, rows)


def speed_table(runs: Runs, report: Mapping[str, Mapping[str, float]], dense: Callable[[str], str]) -> str:
    """How many times faster each form is than its dense one of the same seeds, by the clock and by count; medians over the seeds.

    An epoch of factored steps against one of dense steps; the whole training with dense steps first and the SVD; multiplications of
    the forward products and of a whole step.
    """
    rows = []
    for form in forms(runs):
        of, other = of_form(runs, form), of_form(runs, dense(form))
        first = of[0]
        epoch = [
            b["dense_step"] / a["factored_step"]
            for a, b in zip(of, other, strict=False)
            if a["factored_step"] and b["dense_step"]
        ]
        whole = [b["seconds"] / a["seconds"] for a, b in zip(of, other, strict=False)]
        step = first["factored_step"] or first["dense_step"]
        rows.append(
            [
                form,
                ", ".join("dense" if rank is None else str(rank) for rank in first["ranks"]),
                given(report.get(form, {}).get("speed"), 3),
                given(statistics.median(epoch) if epoch else None, 3),
                given(statistics.median(whole) if form != dense(form) else None, 3),
                f"{first['forward_dense'] / first['forward']:.2f}",
                f"{first['step_dense'] / first['step']:.2f}",
                "" if step is None else f"{1e3 * step:.3g}",
                f"{1e3 * statistics.median(run['switch_seconds'] for run in of):.2g}",
            ]
        )
    header = [
        "", "ranks", "report: an epoch ×", "ours: an epoch ×", "ours: whole run ×", "counted: forward ×", "counted: step ×",
        "ms a step", "SVD, ms",
    ]  # fmt: skip
    return table(header, rows)




def paired(runs: Runs, form: str, other: str, key: str) -> list[float]:
    """Differences of a figure between two forms of the same seeds."""
    pairs: list[tuple[Record, Record]] = list(zip(of_form(runs, form), of_form(runs, other), strict=True))
    return [a[key] - b[key] for a, b in pairs]
