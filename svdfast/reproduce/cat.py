# SPDX-License-Identifier: BSD-3-Clause
"""The report's section 4.2: photos with and without a cat. Table 2 and figure 4, and whether 72 → 78 % of 50 images is more than chance.

The report says neither which optimizer it used nor how many samples a batch had. Two readings: gradient descent sample by sample, and Adam
on all samples at once.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from scipy import stats

from svdfast.reproduce._experiment import Experiment, Job, Plan, Runs, of_form
from svdfast.reproduce._figures import line, new_figure
from svdfast.reproduce._tables import paired, results_table, speed_table, table
from svdfast.reproduce._training import AS_REPORTED, run_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = [12288, 100, 1]
TEST_IMAGES = 50
READINGS: dict[str, dict[str, Any]] = {
    "gradient descent, 1 sample": {"optimizer": "sgd", "batch_size": 1},
    "Adam, all samples": {"optimizer": "adam", "batch_size": 209},
}
METHODS: dict[str, dict[str, Any]] = {
    "DNN": {"rank_fraction": None},
    "SVD-DNN": {"rank_fraction": 1 / 2, "pretrain_fraction": 0.1} | AS_REPORTED,
}
REPORT = {
    f"{reading}, {form}": values
    for reading in READINGS
    for form, values in (
        ("DNN", {"cost": 0.01854, "train": 100.0, "test": 72.0, "speed": 1.0}),
        ("SVD-DNN", {"cost": 0.00578, "train": 100.0, "test": 78.0, "speed": 1.46}),
    )
}


def jobs(plan: Plan, _: Runs) -> list[Job]:
    return [
        Job(
            f"{reading}, {form}",
            seed,
            {
                "data": "cat", "sizes": SIZES, "output": "sigmoid", "learning_rate": 0.001,
                "epochs": 10 if plan.quick else 100, "method": method,
            } | how,
        )
        for seed in plan.seeds
        for reading, how in READINGS.items()
        for form, method in METHODS.items()
    ]  # fmt: skip


def tables(runs: Runs) -> list[tuple[str, str]]:
    def dense(form: str) -> str:
        return form.replace("SVD-DNN", "DNN")

    return [
        ("Table 2: mean ± standard deviation over seeds", results_table(runs, REPORT, 5)),
        ("Speed against DNN, medians over seeds", speed_table(runs, REPORT, dense)),
        ("Is the difference on 50 test images more than chance?", chance_table(runs)),
    ]


def interval(differences: list[float]) -> str:
    """Student's 95 % interval of the mean."""
    n = len(differences)
    if n < 2:
        return "–"
    half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    mean = statistics.mean(differences)
    return f"{mean - half:+.1f} to {mean + half:+.1f}"


def of_images(right: int) -> str:
    """Wilson's 95 % interval of the share that the network would have right of many images like these, in %."""
    low, high = stats.binomtest(right, TEST_IMAGES).proportion_ci(0.95, method="wilson")
    return f"{100 * low:.0f} to {100 * high:.0f}"


def chance_table(runs: Runs) -> str:
    """Chance of two kinds: which images are in the test set, and which weights the networks began with."""
    rows = [
        ["report, one training each", "72.0", of_images(36), "78.0", of_images(39), "+6.0", "–", "–"],
    ]
    for reading in READINGS:
        means = []
        for form in METHODS:
            mean = statistics.mean(run["test_accuracy"] for run in of_form(runs, f"{reading}, {form}"))
            means += [f"{mean:.1f}", of_images(round(mean / 100 * TEST_IMAGES))]
        differences = paired(runs, f"{reading}, SVD-DNN", f"{reading}, DNN", "test_accuracy")
        rows.append(
            [
                f"{reading}, {len(differences)} seeds",
                *means,
                f"{statistics.mean(differences):+.1f}",
                interval(differences),
                f"{min(differences):+.0f} to {max(differences):+.0f}",
            ]
        )
    header = [
        "", "DNN, %", "95 % by images", "SVD-DNN, %", "95 % by images", "difference, points", "95 % by seeds", "seed by seed",
    ]  # fmt: skip
    return table(header, rows)


def figures(runs: Runs) -> dict[str, Figure]:
    figure = new_figure(9, 6.4)
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, reading in enumerate(READINGS):
        above, below = grid[0][column], grid[1][column]
        for index, form in enumerate(METHODS):
            of = of_form(runs, f"{reading}, {form}")
            line(above, index, [run["costs"] for run in of], form)
            line(below, index, [run["test_accuracies"] for run in of], form)
        switch = of[0]["switch_step"] / of[0]["steps_an_epoch"]
        for axes in (above, below):
            axes.axvline(switch, color="grey", linewidth=0.8)
            axes.annotate("SVD", (switch, 1), xycoords=("data", "axes fraction"), xytext=(3, -12), textcoords="offset points")
        above.set(title=reading, yscale="log")
        above.legend(title="median; band: all seeds")
        below.set_xlabel("epoch")
    grid[0][0].set_ylabel("cost (binary cross-entropy)")
    grid[1][0].set_ylabel("test accuracy, %")
    return {"figure4-cat": figure}


EXPERIMENT = Experiment("cat", "Cat or no cat (section 4.2)", 10, 2, (jobs,), run_training, tables, figures)
