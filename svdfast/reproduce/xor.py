# SPDX-License-Identifier: BSD-3-Clause
"""The report's section 4.1: XOR. Table 1 and figure 3.

The report does not say which optimizer it used: gradient descent, which its section 3.1.5 describes, or Adam. Both are tried.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from svdfast.reproduce._experiment import Experiment, Job, Plan, Runs, forms, of_form
from svdfast.reproduce._figures import line, new_figure
from svdfast.reproduce._tables import results_table, speed_table, spread, table
from svdfast.reproduce._training import AS_REPORTED, load, run_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = [2, 20, 20, 1]
OPTIMIZERS = {"Adam": "adam", "gradient descent": "sgd"}
REPORT = {
    f"{optimizer}, {form}": values
    for optimizer in OPTIMIZERS
    for form, values in (("DNN", {"cost": 0.03845, "speed": 1.0}), ("SVD-DNN", {"cost": 0.00897, "speed": 2.7}))
}
METHODS: dict[str, dict[str, Any]] = {
    "DNN": {"rank_fraction": None},
    "SVD-DNN": {"rank_fraction": 1 / 2, "pretrain_fraction": 0.1} | AS_REPORTED,
}


def jobs(plan: Plan, _: Runs) -> list[Job]:
    return [
        Job(
            f"{optimizer}, {form}",
            seed,
            {
                "data": "xor", "sizes": SIZES, "output": "sigmoid", "optimizer": code, "learning_rate": 0.01,
                "epochs": 100 if plan.quick else 800, "batch_size": 4, "method": method, "curve": False,
            },
        )
        for seed in plan.seeds
        for optimizer, code in OPTIMIZERS.items()
        for form, method in METHODS.items()
    ]  # fmt: skip


def dense(form: str) -> str:
    return form.replace("SVD-DNN", "DNN")


def tables(runs: Runs) -> list[tuple[str, str]]:
    bump = []
    for form in forms(runs):
        of = [run for run in of_form(runs, form) if run["switch_step"] is not None]
        if not of:
            continue
        # One step an epoch: the cost of epoch t is that before step t, so the first after the switch is `costs[switch_step]`.
        before = [run["costs"][run["switch_step"] - 1] for run in of]
        after = [run["costs"][run["switch_step"]] for run in of]
        final = [run["cost"] for run in of_form(runs, form)]
        lower = [a["cost"] < b["cost"] for a, b in zip(of, of_form(runs, dense(form)), strict=True)]
        bump.append(
            [
                form.replace(", SVD-DNN", ""),
                spread(before, 4),
                spread(after, 4),
                f"{statistics.median(final):.5f}",
                f"{statistics.median(run['cost'] for run in of_form(runs, dense(form))):.5f}",
                f"{sum(lower)} of {len(lower)}",
            ]
        )
    return [
        ("Table 1: cost after the last epoch, mean ± standard deviation over seeds", results_table(runs, REPORT, dense, 5)),
        ("Speed against DNN, medians over seeds; an epoch is one step, timed by itself", speed_table(runs, REPORT, dense)),
        (
            "The switch",
            table(
                ["", "cost before it", "the next", "median final cost, SVD-DNN", "DNN", "SVD-DNN's is lower in"],
                bump,
            ),
        ),
    ]


def figures(runs: Runs) -> dict[str, Figure]:
    figure = new_figure(9, 3.8)
    for axes, optimizer in zip(figure.subplots(1, 2, sharey=True), OPTIMIZERS, strict=True):
        for index, form in enumerate(METHODS):
            of = of_form(runs, f"{optimizer}, {form}")
            line(axes, index, [run["costs"] for run in of], form)
        switch = of[0]["switch_step"]
        axes.axvline(switch, color="grey", linewidth=0.8)
        axes.annotate("SVD", (switch, 1), xycoords=("data", "axes fraction"), xytext=(3, -12), textcoords="offset points")
        axes.set(title=optimizer, xlabel="epoch", yscale="log")
        axes.legend(title="median; band: all seeds")
    figure.axes[0].set_ylabel("cost (binary cross-entropy)")
    return {"figure3-xor": figure}


EXPERIMENT = Experiment("xor", "XOR (section 4.1)", 20, 2, lambda: load("xor"), (jobs,), run_training, tables, figures)
