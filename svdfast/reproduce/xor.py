# SPDX-License-Identifier: BSD-3-Clause
"""The paper's section 4.1, XOR: table 1 and figure 3.

The paper does not name its optimizer. Gradient descent, which its section 3.1.5 describes, and Adam
are both tried.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from svdfast.plots.figures import new_figure
from svdfast.reproduce._experiment import Experiment, Job, Plan, Runs, forms, of_form
from svdfast.reproduce._figures import line, mark_switch
from svdfast.reproduce._readings import METHODS, dense, jobs_of, report_of
from svdfast.reproduce._tables import beside_dense, spread, table
from svdfast.reproduce._training import load, run_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = [2, 20, 20, 1]
READINGS = {"Adam": {"optimizer": "adam"}, "gradient descent": {"optimizer": "sgd"}}
REPORT = report_of(READINGS, {"DNN": {"cost": 0.03845, "speed": 1.0}, "SVD-DNN": {"cost": 0.00897, "speed": 2.7}})


def jobs(plan: Plan, _: Runs) -> list[Job]:
    epochs = 100 if plan.quick else 800
    settings = {
        "data": "xor", "sizes": SIZES, "output": "sigmoid", "learning_rate": 0.01, "epochs": epochs, "batch_size": 4, "curve": False
    }  # fmt: skip
    return jobs_of(plan, READINGS, settings)


def tables(runs: Runs) -> list[tuple[str, str]]:
    bump = []
    for form in forms(runs):
        of = [run for run in of_form(runs, form) if run["switch_step"] is not None]
        if not of:
            continue
        # An epoch is one step. The cost of epoch t is the cost before step t, so the first cost
        # after the switch is `costs[switch_step]`.
        before = [run["costs"][run["switch_step"] - 1] for run in of]
        after = [run["costs"][run["switch_step"]] for run in of]
        final = [run["cost"] for run in of_form(runs, form)]
        lower = [a["cost"] < b["cost"] for a, b in zip(of, of_form(runs, dense(form)), strict=True)]
        final_dense = [run["cost"] for run in of_form(runs, dense(form))]
        bump.append([
            form.replace(", SVD-DNN", ""), spread(before, 4), spread(after, 4),
            f"{statistics.median(final):.5f}", f"{statistics.median(final_dense):.5f}",
            f"{sum(lower)} of {len(lower)}",
        ])  # fmt: skip
    title = "Table 1: cost after the last epoch, mean ± standard deviation over seeds"
    how = "; an epoch is one step, timed by itself"
    final_costs = "median final cost, SVD-DNN", "DNN", "SVD-DNN's is lower in"
    switch = table(["", "cost before it", "the next", *final_costs], bump)
    return [*beside_dense(title, runs, REPORT, dense, 5, how), ("The switch", switch)]


def figures(runs: Runs) -> dict[str, Figure]:
    figure = new_figure(9, 3.8)
    for axes, optimizer in zip(figure.subplots(1, 2, sharey=True), READINGS, strict=True):
        for index, form in enumerate(METHODS):
            of = of_form(runs, f"{optimizer}, {form}")
            line(axes, index, [run["costs"] for run in of], form)
        mark_switch(axes, of[0]["switch_step"])
        axes.set(title=optimizer, xlabel="epoch", yscale="log")
        axes.legend(title="median; band: all seeds")
    figure.axes[0].set_ylabel("cost (binary cross-entropy)")
    return {"figure3-xor": figure}


EXPERIMENT = Experiment("xor", "XOR (section 4.1)", 20, 2, lambda: load("xor"), (jobs,), run_training, tables, figures)
