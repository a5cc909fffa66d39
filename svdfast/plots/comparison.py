# SPDX-License-Identifier: BSD-3-Clause
"""The figure of several trainings: one measure of each over the seconds, or over the epochs.

Elsewhere: one training with its phases and gaps (curves.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from svdfast._process.checks import one_of
from svdfast.model.heads import head_of
from svdfast.plots.figures import FEW, MARKERS, STYLES, add_legend, shown, to_draw_in
from svdfast.plots.places import Place
from svdfast.training.result import TrainingResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["compare"]

_MARKED = 8  # markers of a line with many points


def compare(
    results: Mapping[Any, TrainingResult] | Sequence[TrainingResult],
    against: Literal["seconds", "epochs"] = "seconds",
    *,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draws the accuracy of several trainings over their seconds, in one panel.

    Trainings without an accuracy are compared by their validation loss, and those without
    validation by their training loss. A star marks the switch to factors. It needs matplotlib: the
    extra `plot`.

    Parameters
    ----------
    results : dict of TrainingResult, or sequence of TrainingResult
        The keys are the names; a sequence is numbered from 1.
    against : {"seconds", "epochs"}
        The horizontal axis; see `training`.
    figure : matplotlib.figure.Figure or SubFigure, optional
        Figure to draw in; see `training`.

    Returns
    -------
    matplotlib.figure.Figure or SubFigure

    Raises
    ------
    ImportError
        matplotlib is not installed.
    TypeError, ValueError
        There is no result, one is something else or has no finished epoch, or their measures
        differ.

    Examples
    --------
    >>> import svdfast as sf
    >>> X, y = sf.datasets.load("xor").train
    >>> runs = {}
    >>> for name, method in {"dense": None, "rank 4": sf.Factoring([None, 4])}.items():
    ...     net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
    ...     runs[name] = sf.train(net, X, y, epochs=50, factoring=method, validation=(X, y))
    >>> figure = sf.plots.compare(runs)  # doctest: +SKIP
    >>> figure.savefig("runs.png")  # doctest: +SKIP
    """
    named = _named(results)
    one_of("against", against, ("seconds", "epochs"))
    measures = {name: _measure(result) for name, result in named.items()}
    if len(set(measures.values())) > 1:
        told = ", ".join(f"{shown(name)} has {measure}" for name, (_, measure) in measures.items())
        raise ValueError(f"results: expected trainings with the same measure, got different ones: {told}")
    column, measure = next(iter(measures.values()))

    figure = to_draw_in(figure, 6.5, 4.4)
    axes = figure.subplots()
    for index, (name, result) in enumerate(named.items()):
        rows = result.history
        place = Place(result, rows, against)
        known = [(place(row["step"]), row[column]) for row in rows if row.get(column) is not None]
        x, y = ([pair[i] for pair in known] for i in (0, 1))
        every = max(1, len(x) // _MARKED) if len(x) > FEW else 1
        style = STYLES[index % len(STYLES)] | {"marker": MARKERS[index % len(MARKERS)], "markersize": 4, "markevery": every}
        (line,) = axes.plot(x, y, label=shown(name), **style)
        _mark_switches(axes, result, place, line)
    axes.set(xlabel="seconds of training" if against == "seconds" else "epochs", ylabel=measure)
    axes.set_xlim(0, None)
    add_legend(figure, [axes])
    return figure


def _named(results: Any) -> dict[str, TrainingResult]:
    """The results by their names."""
    if isinstance(results, Mapping):
        named = {str(name): result for name, result in results.items()}
    elif isinstance(results, Sequence) and not isinstance(results, str | bytes):
        named = {str(i): result for i, result in enumerate(results, 1)}
    else:
        raise TypeError(f"results: expected a dict or a sequence of TrainingResult, got {type(results).__name__}")
    if not named:
        raise ValueError("results: expected at least one TrainingResult, got none")
    if len(named) < len(results):
        raise ValueError(f"results: expected {len(results)} different names, got {', '.join(map(shown, named))}")
    for name, result in named.items():
        if not isinstance(result, TrainingResult):
            raise TypeError(f"results: expected a TrainingResult for {shown(name)}, got {type(result).__name__}")
        if not result.history:
            raise ValueError(f"results: expected at least one finished epoch of {shown(name)}, got none")
    return named


def _measure(result: TrainingResult) -> tuple[str, str]:
    """The column of the history, and its meaning. Losses of different kinds do not compare."""
    columns = [name for name in ("val_accuracy", "val_loss", "loss") if any(row.get(name) is not None for row in result.history)]
    if columns[:1] == ["val_accuracy"]:
        return "val_accuracy", "validation accuracy"
    loss = head_of(result.network.layers[-1].activation).loss.replace("_", " ")
    kind = "validation loss" if columns[:1] == ["val_loss"] else "training loss"
    return columns[0] if columns else "loss", f"{kind}, {loss}"


def _mark_switches(axes: Any, result: TrainingResult, place: Place, line: Any) -> None:
    """Marks a training's switches on its line."""
    x, y = (np.asarray(values, dtype=np.float64) for values in line.get_data())
    for index, event in enumerate(result.events):
        if event.kind == "switch" and any(not t.skipped for t in event.info["truncations"]) and len(x):
            moment = place(event.step, result.events[:index])
            axes.plot(
                [moment], [np.interp(moment, x, y)], label="switch to factors", linestyle="none", marker="*", markersize=12,
                markerfacecolor="white", markeredgecolor=line.get_color(), zorder=3,
            )  # fmt: skip
