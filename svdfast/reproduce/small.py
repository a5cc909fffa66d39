# SPDX-License-Identifier: BSD-3-Clause
"""The end of the paper's section 4.3: 784-50-10 on MNIST, a network with too few neurons.

The paper says that the SVD hurts such a network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdfast.reproduce import mnist
from svdfast.reproduce._experiment import Experiment, Job, Plan, Runs
from svdfast.reproduce._tables import beside_dense
from svdfast.reproduce._training import load, run_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = [784, 50, 10]
METHODS = {form: method for form, method in mnist.METHODS.items() if form != "α 1/2, φ 0 %"}


def jobs(plan: Plan, _: Runs) -> list[Job]:
    return mnist.jobs_of(plan, SIZES, METHODS)


def tables(runs: Runs) -> list[tuple[str, str]]:
    return beside_dense("784-50-10: mean ± standard deviation over seeds", runs, {}, mnist.dense, 4)


def figures(runs: Runs) -> dict[str, Figure]:
    return {"small": mnist.curves(runs, "test_accuracies", "test accuracy, %")}


EXPERIMENT = Experiment(
    "small", "A network with too few neurons (section 4.3)", 5, 2, lambda: load("mnist"), (jobs,),
    run_training, tables, figures,
)  # fmt: skip
