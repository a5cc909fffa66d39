# SPDX-License-Identifier: BSD-3-Clause
"""Future work in the paper's section 6: α and φ over a grid on two data sets, larger networks.

These are its sections 6.3 and 6.1. Every form has its own best learning rate, which falls along
half a cosine. It is chosen on 10,000 held-out training samples, in one training with a separate
seed, at φ = 10 %; large networks train for 2 epochs instead of 3 there. The runs in the tables
train on all samples. The test set only chooses the recommended settings.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from svdfast.plots.figures import STYLES, new_figure
from svdfast.reproduce import mnist
from svdfast.reproduce._experiment import Experiment, Job, Plan, Record, Runs, of_form
from svdfast.reproduce._tables import NONE, given, interval, median, paired, speed, spread, table
from svdfast.reproduce._training import described, load, run_training
from svdfast.training.factoring import Factoring

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRACTIONS: dict[str, float] = {"1/2": 1 / 2, "1/4": 1 / 4, "1/8": 1 / 8, "1/16": 1 / 16}
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
RATES = (1e-3, 3e-3, 9e-3)
DATA = ("mnist", "fashion-mnist")
NETWORK = "784-512-256-10"
SIZES = mnist.SIZES
LARGE: dict[str, list[int]] = {
    "784-2048-2048-2048-10": [784, 2048, 2048, 2048, 10],
    "784-1024×6-10": [784, *[1024] * 6, 10],
}
LARGE_RATES = (3e-4, 1e-3, 3e-3)
ALL_RATES = sorted({*RATES, *LARGE_RATES})
TUNING_SEED = 1000
HELD_OUT = 10_000
# Points of accuracy that a recommended setting may lose against dense training.
TOLERANCE = 0.1

Point = tuple[str, float, float, float]
DENSE: Point = ("dense", 1.0, 0.0, 1.0)


def form(data: str, network: str, alpha: str | None, share: float | None) -> str:
    name = f"{data} {network}"
    return f"{name}, dense" if alpha is None else f"{name}, α {alpha}, φ {100 * (share or 0):g} %"


def cells() -> Iterator[tuple[str, str, list[int], str | None]]:
    """The cells with a learning rate of their own: data, network, its sizes, α (None: dense)."""
    small = [(data, NETWORK, SIZES) for data in DATA]
    for cell in [*small, *(("mnist", network, sizes) for network, sizes in LARGE.items())]:
        for alpha in (None, *FRACTIONS):
            yield *cell, alpha


def settings(
    plan: Plan, data: str, network: str, sizes: list[int], alpha: str | None, share: float, rate: float, tuning: bool
) -> dict[str, Any]:
    large = network in LARGE
    epochs = 20 if not large else 2 if tuning else 3
    how = {
        "data": data, "sizes": sizes, "output": "softmax", "optimizer": "adam", "learning_rate": rate, "falling": True,
        "epochs": 1 if plan.quick else epochs, "batch_size": 512 if large else 2048,
        "factoring": None if alpha is None else described(Factoring(FRACTIONS[alpha], pretrain_fraction=share, force=True)),
    }  # fmt: skip
    if plan.quick:
        how |= {"samples": 4096, "batch_size": 512}
    if tuning:
        how["hold_out"] = 1024 if plan.quick else HELD_OUT
    return how


def run(how: dict[str, Any], seed: int) -> dict[str, Any]:
    """A training. If it diverges in the search for a rate, it gets the lowest accuracy, 0."""
    try:
        return run_training(how, seed)
    except FloatingPointError as error:
        if "hold_out" not in how:
            raise
        return {"test_accuracy": 0.0, "diverged": str(error)}


def tuning(plan: Plan, _: Runs) -> list[Job]:
    jobs = []
    for data, network, sizes, alpha in cells():
        rates = RATES if network not in LARGE else LARGE_RATES
        for rate in rates[:2] if plan.quick else rates:
            how = settings(plan, data, network, sizes, alpha, 0.1, rate, tuning=True)
            jobs.append(Job(f"tuning: {form(data, network, alpha, 0.1)}", TUNING_SEED, how))
    return jobs


def best_rate(runs: Runs, data: str, network: str, alpha: str | None) -> float:
    of = of_form(runs, f"tuning: {form(data, network, alpha, 0.1)}")
    return float(max(of, key=lambda run: float(run["test_accuracy"]))["settings"]["learning_rate"])


def grid(plan: Plan, runs: Runs) -> list[Job]:
    jobs = []
    for seed in plan.seeds:
        for data, network, sizes, alpha in cells():
            rate = best_rate(runs, data, network, alpha)
            for share in SHARES if network not in LARGE and alpha is not None else (0.1,):
                how = settings(plan, data, network, sizes, alpha, share, rate, tuning=False)
                jobs.append(Job(form(data, network, alpha, share), seed, how))
    return jobs


# ---- what came of it


def accuracy(of: list[Record]) -> float:
    return statistics.mean(float(run["test_accuracy"]) for run in of)


def of_cell(runs: Runs, data: str, alpha: str | None, share: float | None = None) -> list[Record]:
    """The runs of a cell in a data set's grid, or of its dense network."""
    return of_form(runs, form(data, NETWORK, alpha, share))


def points(runs: Runs, data: str) -> list[Point]:
    """α, φ, accuracy minus dense accuracy in points, and speed-up, for each cell of the grid."""
    dense = of_cell(runs, data, None)
    found = []
    for alpha in FRACTIONS:
        for share in SHARES:
            of = of_cell(runs, data, alpha, share)
            found.append((alpha, share, accuracy(of) - accuracy(dense), speed(of, dense)))
    return found


def pareto(found: list[Point]) -> list[Point]:
    """The Pareto line of the points and dense training, the fastest last.

    No other point is both more accurate and faster than one of these.
    """
    ordered = sorted([DENSE, *found], key=lambda point: (-point[3], -point[2]))
    kept: list[Point] = []
    for point in ordered:
        if not kept or point[2] > kept[-1][2]:
            kept.append(point)
    return kept[::-1]


def tables(runs: Runs) -> list[tuple[str, str]]:
    result = [("Learning rates: accuracy in % on samples held out, one training each; * the best", rates_table(runs))]
    for data in DATA:
        dense = of_cell(runs, data, None)
        header = ["α", *(f"φ {100 * share:g} %" for share in SHARES)]
        accuracies, speeds = [], []
        for alpha in FRACTIONS:
            row = [of_cell(runs, data, alpha, share) for share in SHARES]
            accuracies.append([alpha, *(spread([run["test_accuracy"] for run in of], 2) for of in row)])
            speeds.append([alpha, *(f"{speed(of, dense):.2f}" for of in row)])
        title = (
            f"{data}, {NETWORK}, {epochs(dense)}: test accuracy in %, mean ± standard deviation; "
            f"dense {spread([run['test_accuracy'] for run in dense], 2)}"
        )
        result.append((title, table(header, accuracies)))
        result.append((f"{data}, how many times faster than dense the whole training is, medians", table(header, speeds)))
        best = [[a, f"{100 * share:g}", f"{delta:+.2f}", f"{times:.2f}"] for a, share, delta, times in pareto(points(runs, data))]
        header = ["α", "φ, %", "points against dense", "times faster"]
        result.append((f"{data}, the Pareto line: what no other setting beats both ways", table(header, best)))
    title = "Settings faster than dense and at most 0.1 points below it on both data sets, the fastest first; chosen by the test sets"
    result.append((title, recommended_table(runs)))
    rows = []
    for network in LARGE:
        dense = of_form(runs, form("mnist", network, None, None))
        for name, of in [("dense", dense)] + [(f"α {a}", of_form(runs, form("mnist", network, a, 0.1))) for a in FRACTIONS]:
            first = of[0]
            steps = (
                b["dense_step"] / (a["factored_step"] or a["dense_step"])
                for a, b in zip(of, dense, strict=True)
                if a["factored_step"] or a["dense_step"]
            )
            rows.append([
                f"{network}, {name}", f"{first['settings']['learning_rate']:g}",
                spread([run["test_accuracy"] for run in of], 2),
                f"{first['step_dense'] / first['step']:.2f}", given(median(steps), 2),
                f"{speed(of, dense):.2f}",
                f"{statistics.median(run['switch_seconds'] for run in of):.2f}",
                f"{statistics.median(run['seconds'] for run in of):.1f}",
            ])  # fmt: skip
    header = ["", "rate", "test accuracy, %", "counted: step ×", "a step ×", "whole run ×", "SVD, s", "whole run, s"]
    result.append((f"Larger networks on MNIST, φ = 10 %, {epochs(dense)}", table(header, rows)))
    return result


def epochs(of: list[Record]) -> str:
    how = of[0]["settings"]
    return f"{how['epochs']} epochs, batch {how['batch_size']}, {len(of)} seed{'s' if len(of) > 1 else ''}"


def rates_table(runs: Runs) -> str:
    """Accuracies of each form by rate. They show if the best rate lies at an end of those tried."""
    rows = []
    for data, network, _, alpha in cells():
        name = form(data, network, alpha, 0.1)
        of = {run["settings"]["learning_rate"]: run["test_accuracy"] for run in of_form(runs, f"tuning: {name}")}
        best = best_rate(runs, data, network, alpha)
        rows.append(
            [name, *(f"{of[rate]:.2f}{'*' if rate == best else ''}" if rate in of else NONE for rate in ALL_RATES)]
        )
    return table(["", *(f"{rate:g}" for rate in ALL_RATES)], rows)


def recommended(runs: Runs) -> list[tuple[str, float, list[float], list[float]]]:
    """α, φ, differences and speed-ups by data set for recommended settings, the fastest first.

    They are faster than dense training and lose no more than the tolerance on any data set.
    """
    by_data = [points(runs, data) for data in DATA]
    found = []
    for cells_of_one in zip(*by_data, strict=True):
        deltas, times = [cell[2] for cell in cells_of_one], [cell[3] for cell in cells_of_one]
        if min(deltas) >= -TOLERANCE and min(times) > 1:
            found.append((cells_of_one[0][0], cells_of_one[0][1], deltas, times))
    return sorted(found, key=lambda item: -statistics.geometric_mean(item[3]))


def recommended_table(runs: Runs) -> str:
    rows = []
    for alpha, share, deltas, times in recommended(runs):
        row = [alpha, f"{100 * share:g}"]
        for data, delta, time in zip(DATA, deltas, times, strict=True):
            differences = paired(runs, form(data, NETWORK, alpha, share), form(data, NETWORK, None, None), "test_accuracy")
            row += [f"{delta:+.2f}", interval(differences, 2), f"{time:.2f}"]
        rows.append(row)
    return table(["α", "φ, %", *(f"{data}{what}" for data in DATA for what in (", points", ", 95 %", ", times faster"))], rows)


def figures(runs: Runs) -> dict[str, Figure]:
    found = {data: points(runs, data) for data in DATA}
    heat = new_figure(11, 6)
    shown_of_points = (("test accuracy − dense, points", 2), ("whole training, times faster than dense", 3))
    for row, (what, index) in zip(heat.subplots(2, len(DATA)), shown_of_points, strict=True):
        values = {data: np.array([cell[index] for cell in found[data]]).reshape(len(FRACTIONS), len(SHARES)) for data in DATA}
        for axes, data in zip(row, DATA, strict=True):
            shown = axes.imshow(values[data], cmap="cividis", aspect="auto")
            middle = (values[data].min() + values[data].max()) / 2
            for (i, j), value in np.ndenumerate(values[data]):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value < middle else "black", fontsize=9)
            axes.set_xticks(range(len(SHARES)), [f"{100 * share:g}" for share in SHARES])
            axes.set_yticks(range(len(FRACTIONS)), list(FRACTIONS))
            axes.set(title=f"{data}: {what}", xlabel="φ, % of the steps", ylabel="α")
            axes.title.set_fontsize(10)
            heat.colorbar(shown, ax=axes)
    front = new_figure(10, 4.4)
    for axes, data in zip(front.subplots(1, len(DATA)), DATA, strict=True):
        for index, alpha in enumerate(FRACTIONS):
            of = [cell for cell in found[data] if cell[0] == alpha]
            axes.plot(
                [cell[3] for cell in of], [cell[2] for cell in of], linestyle="", marker="os^D"[index],
                color=STYLES[index]["color"], label=f"α = {alpha}",
            )  # fmt: skip
            for cell in of:
                axes.annotate(f"{100 * cell[1]:g}", (cell[3], cell[2]), xytext=(4, 3), textcoords="offset points", fontsize=7)
        best = pareto(found[data])
        axes.plot([cell[3] for cell in best], [cell[2] for cell in best], color="grey", linewidth=1, zorder=0, label="Pareto line")
        axes.axhline(0, color="black", linewidth=0.8, linestyle=":")
        axes.set(title=f"{data}; the number at a mark is φ in %", xlabel="whole training, times faster than dense",
                 ylabel="test accuracy − dense, points")  # fmt: skip
        axes.title.set_fontsize(10)
    front.legend(*front.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    large = new_figure(9, 3.8)
    for axes, network in zip(large.subplots(1, len(LARGE)), LARGE, strict=True):
        dense = of_form(runs, form("mnist", network, None, None))
        ofs = [of_form(runs, form("mnist", network, alpha, 0.1)) for alpha in FRACTIONS]
        x = np.arange(len(FRACTIONS))
        counted = [of[0]["step_dense"] / of[0]["step"] for of in ofs]
        axes.bar(x - 0.2, counted, 0.4, label="multiplications of a step", color="#BBBBBB", edgecolor="black")
        whole = [speed(of, dense) for of in ofs]
        axes.bar(x + 0.2, whole, 0.4, label="seconds of the whole run", color="#0072B2", edgecolor="black", hatch="//")
        axes.set_xticks(x, [f"{alpha}\n{accuracy(of):.2f} %" for alpha, of in zip(FRACTIONS, ofs, strict=True)])
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set(title=f"{network}, dense: {accuracy(dense):.2f} %", xlabel="α, test accuracy", ylabel="dense ÷ factored")
        axes.title.set_fontsize(10)
        axes.legend()
    return {"study-heat-maps": heat, "study-pareto": front, "study-large": large}


EXPERIMENT = Experiment(
    "study", "α, φ and larger networks (sections 6.1, 6.3)", 3, 1,
    lambda: [load(name) for name in DATA], (tuning, grid), run, tables, figures,
)  # fmt: skip
