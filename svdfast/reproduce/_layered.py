# SPDX-License-Identifier: BSD-3-Clause
"""Common code of recurrent.py and convolution.py: networks of such layers, dense and factored.

Each task is trained dense, with factoring="auto" and at forced α, all with the same learning rate
and clipping. Seconds of whole trainings depend on the machine's other load, so steps of all forms
are also timed alternating. The samples are in _samples.py.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from svdfast.model.network import Network
from svdfast.plots.figures import STYLES, new_figure
from svdfast.reproduce._experiment import Job, Plan, Record, Runs, of_form
from svdfast.reproduce._samples import load
from svdfast.reproduce._tables import NONE, interval, paired, spread, table
from svdfast.reproduce._training import described, machine, rounded, trained
from svdfast.training.factoring import Factoring
from svdfast.training.train import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS: dict[str, Factoring | None] = {
    "dense": None,
    "auto": Factoring(),
    "α 1/2": Factoring(1 / 2, force=True),
    "α 1/4": Factoring(1 / 4, force=True),
    "α 1/8": Factoring(1 / 8, force=True),
}
TURNS = "steps by turns"


@dataclass(frozen=True)
class Measure:
    """The measure of a task: its name, its value for a run, and the number of digits shown."""

    name: str
    of: Callable[[Record], float]
    digits: int


ACCURACY = Measure("test accuracy, %", lambda run: float(run["test_accuracy"]), 2)
BITS = Measure("bits a character", lambda run: float(run["test_loss"]) / math.log(2), 3)
SQUARED_ERROR = Measure("squared error", lambda run: float(run["test_loss"]), 5)


@dataclass(frozen=True)
class Task:
    """A network on samples.

    Attributes
    ----------
    name : str
        The network and its task, in words.
    data : str
        See `_samples.load`.
    network : callable
        Takes a seed, gives the network.
    measure : Measure
    settings : dict
        `learning_rate`, `epochs`, `batch_size`, and `clip_norm` if there is one.
    """

    name: str
    data: str
    network: Callable[[int], Network]
    measure: Measure
    settings: Mapping[str, Any] = field(default_factory=dict)


class Tasks:
    """The stages, tables and figures of an experiment with these tasks."""

    def __init__(self, *tasks: Task):
        self.tasks = {task.name: task for task in tasks}
        self._absent: dict[str, str] = {}

    def require(self) -> None:
        """Finds the tasks that can run. Raises OSError if none can."""
        self._absent = {}
        for task in self.tasks.values():
            try:
                load(task.data)
            except (ImportError, OSError, ValueError) as error:
                self._absent[task.name] = str(error)
        if len(self._absent) == len(self.tasks):
            raise OSError("; ".join(self.missing()))

    def missing(self) -> list[str]:
        """The tasks whose data or package `require` did not find, with the reason."""
        return [f"{name}: {why}" for name, why in self._absent.items()]

    def _available(self) -> list[Task]:
        return [task for task in self.tasks.values() if task.name not in self._absent]

    def trainings(self, plan: Plan, _: Runs) -> list[Job]:
        jobs = []
        for seed in plan.seeds:
            for task in self._available():
                how = {"task": task.name, "optimizer": "adam", "falling": "cooldown", **task.settings}
                if plan.quick:
                    how |= {"samples": 64, "batch_size": 32, "epochs": 1}
                jobs += [Job(f"{task.name}, {name}", seed, how | {"factoring": described(of)}) for name, of in METHODS.items()]
        return jobs

    def turns(self, plan: Plan, runs: Runs) -> list[Job]:
        """Steps at the ranks of the trainings with the first seed."""
        jobs = []
        for task in self._available():
            first = {name: of_form(runs, f"{task.name}, {name}")[0] for name in METHODS}
            how = {
                "task": task.name, "batch_size": first["dense"]["settings"]["batch_size"], "rounds": 1 if plan.quick else 15,
                "ranks": {name: run["ranks"] for name, run in first.items()},
            }  # fmt: skip
            jobs.append(Job(f"{task.name}, {TURNS}", 0, how))
        return jobs

    def run(self, settings: dict[str, Any], seed: int) -> dict[str, Any]:
        """A training, or alternating steps.

        A training gives `test_loss`, `test_accuracy` (in %, for classes), `phases` (see
        `TrainingResult`), and the results of `trained`. Alternating steps give `times` for each
        form: the dense step's time over the form's in the same round, as a median over rounds.
        """
        task = self.tasks[settings["task"]]
        data, net = load(task.data), task.network(seed)
        if "rounds" in settings:
            return {"times": _by_turns(net, *data.train, settings), "machine": machine()}
        X, y, X_test, y_test = (_some(values, settings.get("samples")) for values in (*data.train, *data.test))
        result, figures = trained(net, X, y, settings, seed)
        test = net.evaluate(X_test, y_test)
        return figures | {
            "test_loss": rounded(test.loss),
            "test_accuracy": None if test.accuracy is None else rounded(100 * test.accuracy),
            "phases": [phase | {"seconds": rounded(phase["seconds"])} for phase in result.phases],
        }

    # ---- what came of it

    def tables(self, runs: Runs) -> list[tuple[str, str]]:
        return [_table(task, runs) for task in self.tasks.values() if of_form(runs, f"{task.name}, dense")]

    def figure(self, runs: Runs) -> Figure:
        """For each task, its measure over the multiplications of a training.

        Multiplications are a share of those of dense training.
        """
        shown = [task for task in self.tasks.values() if of_form(runs, f"{task.name}, dense")]
        figure = new_figure(4 * len(shown), 3.6)
        for axes, task in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
            for index, name in enumerate(METHODS):
                of = of_form(runs, f"{task.name}, {name}")
                axes.plot(
                    [100 * _counted(run) for run in of], [task.measure.of(run) for run in of], linestyle="", marker="os^Dv"[index],
                    color=STYLES[index]["color"], label=name,
                )  # fmt: skip
            axes.set(title=task.name, xlabel="multiplications, % of dense", ylabel=task.measure.name)
            axes.title.set_fontsize(9)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS), fontsize=9)
        return figure


def _some(values: Any, n: int | None) -> Any:
    """At most n rows, spread over all: photos are sorted by class."""
    return values if n is None else values[:: max(1, len(values) // n)][:n]


def _by_turns(net: Network, X: Any, y: Any, settings: dict[str, Any]) -> dict[str, float]:
    batch, count = settings["batch_size"], 3
    X, y = X[: count * batch], y[: count * batch]
    nets = {}
    for name, ranks in settings["ranks"].items():
        nets[name] = net.copy()
        if any(ranks):
            nets[name].truncate(ranks=ranks, force=True)
    seconds: dict[str, list[float]] = {name: [] for name in nets}
    for _ in range(settings["rounds"]):
        for name, one in nets.items():
            method = Factoring(recompose=False) if one.is_factored else None
            result = train(one, X, y, epochs=1, batch_size=batch, shuffle=False, factoring=method)
            seconds[name].append(result.history[0]["seconds"])
    return {
        name: rounded(statistics.median(a / b for a, b in zip(seconds["dense"], of, strict=True)), 4) for name, of in seconds.items()
    }


def _counted(run: Record) -> float:
    """The multiplications of a training's steps, as a share of those of dense steps throughout."""
    steps = sum(phase["steps"] for phase in run["phases"])
    return float(sum(phase["steps"] * phase["multiplications"] for phase in run["phases"]) / (steps * run["step_dense"]))


def _table(task: Task, runs: Runs) -> tuple[str, str]:
    """Measures of each form, their differences from dense training, and savings.

    Savings are those of a step, counted and measured by alternating steps, and of a training.
    """
    dense, measure = f"{task.name}, dense", task.measure
    with_measure: Sequence[Record] = [
        run | {"measure": measure.of(run)} for run in runs if run["form"].startswith(f"{task.name}, ") and "phases" in run
    ]
    times: dict[str, float] = next((run["times"] for run in runs if run["form"] == f"{task.name}, {TURNS}"), {})
    rows = []
    for name in METHODS:
        of = of_form(with_measure, f"{task.name}, {name}")
        if not of:
            continue
        differences = paired(with_measure, of[0]["form"], dense, "measure")
        first, same = of[0], name == "dense"
        rows.append([
            name, ", ".join(str(rank or NONE) for rank in first["ranks"]),
            spread([run["measure"] for run in of], measure.digits),
            NONE if same else f"{statistics.mean(differences):+.{measure.digits}f}",
            NONE if same else interval(differences, measure.digits),
            f"{first['step_dense'] / first['step']:.2f}", f"{times[name]:.2f}" if name in times else NONE,
            f"{100 * statistics.mean(_counted(run) for run in of):.0f}", str(len(of)),
        ])  # fmt: skip
    header = [
        "", "ranks", measure.name, "− dense", "95 %", "counted: step ×", "measured: step ×", "multiplications, % of dense", "seeds",
    ]  # fmt: skip
    how = of_form(with_measure, dense)[0]["settings"]
    title = f"{task.name}: {how['epochs']} epoch{'s' * (how['epochs'] != 1)}, batch {how['batch_size']}, rate {how['learning_rate']:g}"
    return title, table(header, rows)
