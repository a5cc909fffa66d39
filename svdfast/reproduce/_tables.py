# SPDX-License-Identifier: BSD-3-Clause
"""Tables of runs beside the paper's, in Markdown that reads well as plain text.

Figures are in _figures.py.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from scipy import stats

from svdfast.reproduce._experiment import Runs, forms, of_form

NONE = "–"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table. Columns are as wide as their widest cell; all but the first align right."""
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


def given(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def median(values: Iterable[float | None]) -> float | None:
    """The median of the values that are not None."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def speed(of: Runs, other: Runs) -> float:
    """Seconds of whole trainings of `other` over those of `of`; the median over seeds."""
    return statistics.median(float(b["seconds"] / a["seconds"]) for a, b in zip(of, other, strict=True))


def interval(differences: Sequence[float], digits: int) -> str:
    """Student's 95 % interval for the mean."""
    n = len(differences)
    if n < 2:
        return NONE
    half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    mean = statistics.mean(differences)
    return f"{mean - half:+.{digits}f} to {mean + half:+.{digits}f}"


Report = Mapping[str, Mapping[str, float]]


def results_table(runs: Runs, report: Report, dense: Callable[[str], str], cost_digits: int) -> str:
    """Costs and accuracies of each form beside the paper's, and differences from its dense form.

    `report` has the paper's cost, train and test values by form.
    """
    columns: dict[str, list[str]] = {"": [], "cost": [], "train, %": [], "test, %": [], "test − DNN, 95 %": [], "seeds": []}
    theirs: dict[str, list[str]] = {"paper: cost": [], "paper: train, %": [], "paper: test, %": []}
    for form in forms(runs):
        of = of_form(runs, form)
        columns[""].append(form)
        for key, ours, figure, digits in (
            ("cost", "cost", "cost", cost_digits),
            ("train", "train, %", "train_accuracy", 2),
            ("test", "test, %", "test_accuracy", 2),
        ):
            columns[ours].append(spread([run[figure] for run in of], digits))
            theirs[f"paper: {ours}"].append(given(report.get(form, {}).get(key), 5 if key == "cost" else 2))
        same = form == dense(form)
        columns["test − DNN, 95 %"].append(NONE if same else interval(paired(runs, form, dense(form), "test_accuracy"), 2))
        columns["seeds"].append(str(len(of)))
    # The paper's columns, if it has them, come before ours.
    header = []
    for name in columns:
        if any(cell != NONE for cell in theirs.get(f"paper: {name}", [])):
            header.append(f"paper: {name}")
        header.append(name)
    return table(header, list(zip(*((columns | theirs)[name] for name in header), strict=True)))


def beside_dense(
    title: str, runs: Runs, report: Report, dense: Callable[[str], str], digits: int, how: str = ""
) -> list[tuple[str, str]]:
    """The two tables of an experiment of dense and factored trainings, with their titles."""
    speed_title = f"Speed against DNN, medians over seeds{how}"
    results = results_table(runs, report, dense, digits)
    return [(title, results), (speed_title, speed_table(runs, report, dense))]


def speed_table(runs: Runs, report: Report, dense: Callable[[str], str]) -> str:
    """Speed-ups of each form over its dense form for the same seeds, as medians over the seeds.

    Times are compared for an epoch of factored and of dense steps, and for the whole training with
    its first dense steps, the SVD and recomposition. Multiplications are compared for the forward
    products and for a whole step.
    """
    rows = []
    for form in forms(runs):
        of, other = of_form(runs, form), of_form(runs, dense(form))
        first, same = of[0], form == dense(form)
        pairs = list(zip(of, other, strict=True))
        epoch = median(b["dense_step"] / a["factored_step"] for a, b in pairs if a["factored_step"] and b["dense_step"])
        step = median(run["factored_step"] or run["dense_step"] for run in of)
        rows.append([
            form, ", ".join(str(rank or "dense") for rank in first["ranks"]),
            given(report.get(form, {}).get("speed"), 3), given(epoch, 3),
            given(None if same else speed(of, other), 3),
            f"{first['forward_dense'] / first['forward']:.2f}",
            f"{first['step_dense'] / first['step']:.2f}",
            NONE if step is None else f"{1e3 * step:.3g}",
            given(None if same else median(1e3 * run["switch_seconds"] for run in of), 1),
        ])  # fmt: skip
    header = [
        "", "ranks", "paper: ×", "an epoch ×", "whole run ×", "counted: forward ×", "counted: step ×", "ms a step", "SVD, ms",
    ]  # fmt: skip
    if not report:
        rows, header = [[*row[:2], *row[3:]] for row in rows], [*header[:2], *header[3:]]
    return table(header, rows)


def paired(runs: Runs, form: str, other: str, key: str) -> list[float]:
    """Differences of a figure between two forms, for the seeds that both have."""
    others = {run["seed"]: run for run in of_form(runs, other)}
    return [run[key] - others[run["seed"]][key] for run in of_form(runs, form) if run["seed"] in others]
