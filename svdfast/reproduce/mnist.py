# SPDX-License-Identifier: BSD-3-Clause
"""The paper's section 4.3, MNIST: table 3 and figure 5, and the same ranks in svdfast's own way.

The network with too few neurons is in small.py, other φ are in study.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svdfast.plots.figures import new_figure
from svdfast.reproduce._experiment import Experiment, Job, Plan, Runs, of_form
from svdfast.reproduce._figures import line
from svdfast.reproduce._tables import beside_dense
from svdfast.reproduce._training import described, load, run_training
from svdfast.training.factoring import Factoring

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = [784, 512, 256, 10]
DENSE = "DNN, φ 100 %"
FRACTIONS = {"1/2": 1 / 2, "1/4": 1 / 4, "1/8": 1 / 8}
METHODS: dict[str, Factoring | None] = {
    DENSE: None,
    "α 1/2, φ 0 %": Factoring.as_reported(1 / 2, pretrain_fraction=0.0),
    **{f"α {name}, φ 10 %": Factoring.as_reported(fraction) for name, fraction in FRACTIONS.items()},
    **{
        f"α {name}, φ 10 %, as svdfast": Factoring(fraction, pretrain_fraction=0.1, force=True)
        for name, fraction in FRACTIONS.items()
    },
}
REPORT = {
    DENSE: {"cost": 0.04781, "train": 98.749, "test": 97.636, "speed": 1.0},
    "α 1/2, φ 10 %": {"cost": 0.03989, "train": 98.878, "test": 97.734, "speed": 1.195},
    "α 1/2, φ 0 %": {"cost": 0.05691, "train": 98.363, "test": 97.254, "speed": 1.253},
}


def jobs_of(plan: Plan, sizes: list[int], methods: dict[str, Factoring | None]) -> list[Job]:
    size = {"epochs": 2, "samples": 6144} if plan.quick else {"epochs": 20}
    settings = size | {
        "data": "mnist", "sizes": sizes, "output": "softmax", "optimizer": "adam",
        "learning_rate": 3e-4, "batch_size": 2048,
    }  # fmt: skip
    return [
        Job(form, seed, settings | {"factoring": described(method)})
        for seed in plan.seeds
        for form, method in methods.items()
    ]


def jobs(plan: Plan, _: Runs) -> list[Job]:
    return jobs_of(plan, SIZES, METHODS)


def dense(form: str) -> str:
    return DENSE


def tables(runs: Runs) -> list[tuple[str, str]]:
    title = "Table 3, and other α: mean ± standard deviation over seeds"
    return beside_dense(title, runs, REPORT, dense, 5)


def curves(runs: Runs, key: str, what: str, **axis: Any) -> Figure:
    """Values of runs by epoch, in the paper's way on the left and in svdfast's on the right."""
    figure = new_figure(9, 4)
    for axes, suffix in zip(figure.subplots(1, 2, sharey=True), ("", ", as svdfast"), strict=True):
        ofs = {"DNN": of_form(runs, DENSE)} | {f"α = {name}": of_form(runs, f"α {name}, φ 10 %{suffix}") for name in FRACTIONS}
        for index, (label, of) in enumerate(ofs.items()):
            line(axes, index, [run[key] for run in of], label, 4)
        axes.set(title="as svdfast" if suffix else "as in the paper", xlabel="epoch", **axis)
        axes.set_xticks(range(0, len(of[0][key]) + 1, 5))
        axes.legend(title="median; band: all seeds")
    figure.axes[0].set_ylabel(what)
    return figure


def figures(runs: Runs) -> dict[str, Figure]:
    return {"figure5-mnist": curves(runs, "costs", "training cost (cross-entropy)", yscale="log")}


EXPERIMENT = Experiment("mnist", "MNIST (section 4.3)", 5, 2, lambda: load("mnist"), (jobs,), run_training, tables, figures)
