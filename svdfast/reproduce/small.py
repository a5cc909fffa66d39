# SPDX-License-Identifier: BSD-3-Clause
"""The end of the report's section 4.3: a network with too few neurons for its task, 784-50-10 on MNIST, which the SVD is said to hurt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svdfast.reproduce import mnist
from svdfast.reproduce._experiment import Experiment, Job, Plan, Runs, of_form
from svdfast.reproduce._figures import line, new_figure
from svdfast.reproduce._tables import results_table, speed_table
from svdfast.reproduce._training import load, run_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = [784, 50, 10]
METHODS: dict[str, dict[str, Any]] = {form: method for form, method in mnist.METHODS.items() if form != "α 1/2, φ 0 %"}


def jobs(plan: Plan, _: Runs) -> list[Job]:
    return mnist.jobs_of(plan, SIZES, METHODS)


def tables(runs: Runs) -> list[tuple[str, str]]:
    return [
        ("784-50-10: mean ± standard deviation over seeds", results_table(runs, {}, mnist.dense, 4)),
        ("Speed against DNN, medians over seeds", speed_table(runs, {}, mnist.dense)),
    ]


def figures(runs: Runs) -> dict[str, Figure]:
    figure = new_figure(9, 4)
    for axes, suffix in zip(figure.subplots(1, 2, sharey=True), ("", ", as svdfast"), strict=True):
        for index, (label, form) in enumerate(
            [("DNN", mnist.DENSE)] + [(f"α = {name}", f"α {name}, φ 10 %{suffix}") for name in mnist.FRACTIONS]
        ):
            of = of_form(runs, form)
            line(axes, index, [run["test_accuracies"] for run in of], label, 4)
        axes.set(title="as svdfast" if suffix else "as in the report", xlabel="epoch")
        axes.set_xticks(range(0, len(of[0]["costs"]) + 1, 5))
        axes.legend(title="median; band: all seeds", loc="lower right")
    figure.axes[0].set_ylabel("test accuracy, %")
    return {"small": figure}


EXPERIMENT = Experiment(
    "small",
    "A network with too few neurons (section 4.3)",
    5,
    2,
    lambda: load("mnist"),
    (jobs,),
    run_training,
    tables,
    figures,
)
