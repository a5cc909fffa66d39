# SPDX-License-Identifier: BSD-3-Clause
"""The paper's section 4.2, photos with and without a cat: table 2 and figure 4.

A further table tests if 72 → 78 % of 50 images is more than chance. The paper gives neither its
optimizer nor its batch size. Three readings are tried: gradient descent sample by sample, gradient
descent on all samples at once, and Adam on all samples at once.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from scipy import stats

from svdfast.plots.figures import new_figure
from svdfast.reproduce._experiment import Experiment, Job, Plan, Runs, of_form
from svdfast.reproduce._figures import line, mark_switch
from svdfast.reproduce._readings import METHODS, dense, jobs_of, report_of
from svdfast.reproduce._tables import NONE, beside_dense, interval, paired, table
from svdfast.reproduce._training import load, run_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = [12288, 100, 1]
TEST_IMAGES = 50
READINGS: dict[str, dict[str, Any]] = {
    "gradient descent, 1 sample": {"optimizer": "sgd", "batch_size": 1},
    "gradient descent, all samples": {"optimizer": "sgd", "batch_size": 209},
    "Adam, all samples": {"optimizer": "adam", "batch_size": 209},
}
REPORT = report_of(
    READINGS,
    {
        "DNN": {"cost": 0.01854, "train": 100.0, "test": 72.0, "speed": 1.0},
        "SVD-DNN": {"cost": 0.00578, "train": 100.0, "test": 78.0, "speed": 1.46},
    },
)


def jobs(plan: Plan, _: Runs) -> list[Job]:
    epochs = 10 if plan.quick else 100
    settings = {"data": "cat", "sizes": SIZES, "output": "sigmoid", "learning_rate": 0.001, "epochs": epochs}
    return jobs_of(plan, READINGS, settings)


def tables(runs: Runs) -> list[tuple[str, str]]:
    title = "Table 2: mean ± standard deviation over seeds"
    chance = "Is the difference on 50 test images more than chance?", chance_table(runs)
    return [*beside_dense(title, runs, REPORT, dense, 5), chance]


def of_images(right: int) -> str:
    """Wilson's 95 % interval for the share of right answers on many images like these, in %."""
    low, high = stats.binomtest(right, TEST_IMAGES).proportion_ci(0.95, method="wilson")
    return f"{100 * low:.0f} to {100 * high:.0f}"


def disagreement(first: str, second: str) -> tuple[int, int, float]:
    """Number of images that only the first or only the second network has right, and McNemar's p.

    The exact p is the probability of a split at least this uneven by chance.
    """
    pairs = list(zip(first, second, strict=True))
    only_first, only_second = pairs.count(("1", "0")), pairs.count(("0", "1"))
    n = only_first + only_second
    return only_first, only_second, float(stats.binomtest(only_first, n).pvalue) if n else 1.0


def chance_table(runs: Runs) -> str:
    """Two sources of chance: the images in the test set, and the networks' first weights."""
    # The images on which the paper's networks disagreed are unknown.
    rows = [["paper, one training each", "72.0", of_images(36), "78.0", of_images(39), "+6.0", NONE, NONE, NONE]]
    for reading in READINGS:
        means = []
        for form in METHODS:
            mean = statistics.mean(run["test_accuracy"] for run in of_form(runs, f"{reading}, {form}"))
            means += [f"{mean:.1f}", of_images(round(mean / 100 * TEST_IMAGES))]
        plain, factored = (of_form(runs, f"{reading}, {form}") for form in METHODS)
        differences = paired(runs, f"{reading}, SVD-DNN", f"{reading}, DNN", "test_accuracy")
        splits = [disagreement(a["test_right"], b["test_right"]) for a, b in zip(plain, factored, strict=True)]
        only = [statistics.mean(split[i] for split in splits) for i in (0, 1)]
        rows.append([
            f"{reading}, {len(differences)} seeds", *means, f"{statistics.mean(differences):+.1f}",
            interval(differences, 1), f"{only[0]:.1f}, {only[1]:.1f}",
            f"{sum(p < 0.05 for _, _, p in splits)} of {len(splits)}",
        ])  # fmt: skip
    header = [
        "", "DNN, %", "95 % by images", "SVD-DNN, %", "95 % by images", "difference, points", "95 % by seeds",
        "images only DNN, only SVD-DNN has right", "McNemar's p < 0.05 in",
    ]  # fmt: skip
    return table(header, rows)


def figures(runs: Runs) -> dict[str, Figure]:
    figure = new_figure(11, 6.4)
    grid = figure.subplots(2, len(READINGS), sharex=True, sharey="row")
    for column, reading in enumerate(READINGS):
        above, below = grid[0][column], grid[1][column]
        for index, form in enumerate(METHODS):
            of = of_form(runs, f"{reading}, {form}")
            line(above, index, [run["costs"] for run in of], form)
            line(below, index, [run["test_accuracies"] for run in of], form)
        switch = of[0]["switch_step"] / of[0]["steps_an_epoch"]
        for axes in (above, below):
            mark_switch(axes, switch)
        above.set(title=reading, yscale="log")
        above.legend(title="median; band: all seeds")
        below.set_xlabel("epoch")
    grid[0][0].set_ylabel("cost (binary cross-entropy)")
    grid[1][0].set_ylabel("test accuracy, %")
    return {"figure4-cat": figure}


EXPERIMENT = Experiment("cat", "Cat or no cat (section 4.2)", 10, 2, lambda: load("cat"), (jobs,), run_training, tables, figures)
