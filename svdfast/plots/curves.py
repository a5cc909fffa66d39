# SPDX-License-Identifier: BSD-3-Clause
"""The figure of one training: losses and accuracy, its phases, and the gap at the SVD.

Elsewhere: several trainings in one figure (comparison.py), and places on the axis (places.py).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from svdfast._process.checks import one_of
from svdfast.plots.figures import FEW, STYLES, add_legend, size_of, to_draw_in
from svdfast.plots.places import Place, phase_ends
from svdfast.training.result import TrainingResult, saved_in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["training"]

# Hatches tell the phases apart in a grey print. The colours are opaque, as an SVG would give hatches
# the opacity of their patch.
_PHASES: dict[str, dict[str, Any]] = {
    "dense": {"facecolor": "#ededed"},
    "factored": {"facecolor": "#d7e8f3", "edgecolor": "#b3d1e6", "hatch": "//"},
    "recomposed": {"facecolor": "#f9e8c4", "edgecolor": "#dcb968", "hatch": ".."},
}
_EVENTS: dict[str, dict[str, Any]] = {
    "switch": {"color": "#0072B2", "linestyle": "-", "zorder": 1.8},
    "guard": {"color": "#CC79A7", "linestyle": ":", "linewidth": 2, "zorder": 1.9},
    "recompose": {"color": "#E69F00", "linestyle": "--"},
}
_GAP: dict[str, Any] = {"color": "#0072B2", "marker": "_", "markersize": 11, "markeredgewidth": 2.2, "linewidth": 3, "zorder": 2.6}
_MOST_GAPS = 2  # named above a panel; all are marked
_LETTERS = 10.8  # of the title that an inch has room for


def training(
    result: TrainingResult,
    against: Literal["seconds", "epochs"] = "seconds",
    *,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draws the losses of a training, and the accuracy if classes are validated.

    Phases are shaded. The switch, the guard and the recomposition are marked where they happened;
    the time between two phases is their own duration. The title counts what factoring saved. It
    needs matplotlib: the extra `plot`.

    A bar at each switch is the gap that the SVD has caused, and a line above the panel names it. A
    guard has computed the loss right before and after the truncation. Without one the gap is that
    between the last epoch before the switch and the first one after it.

    Parameters
    ----------
    result : TrainingResult
    against : {"seconds", "epochs"}
        The horizontal axis. Seconds are those of training, as `result.seconds` has them.
    figure : matplotlib.figure.Figure or SubFigure, optional
        Figure to draw in, such as `plt.figure(layout="constrained")` for a window. With that layout
        the legend lies below the panels, else within one. The panels of a figure that is higher
        than wide lie one below the other. By default a new figure that pyplot does not know:
        notebooks show it, `savefig` writes it.

    Returns
    -------
    matplotlib.figure.Figure or SubFigure
        Its `axes` are those of the loss and of the accuracy.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    TypeError, ValueError
        An argument is of the wrong kind, or no epoch was finished.

    Examples
    --------
    >>> import svdfast as sf
    >>> data = sf.datasets.load("xor")
    >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
    >>> result = sf.train(net, *data.train, epochs=50)
    >>> figure = sf.plots.training(result, "epochs")  # doctest: +SKIP
    >>> figure.savefig("training.png")  # doctest: +SKIP
    """
    if not isinstance(result, TrainingResult):
        raise TypeError(f"result: expected a TrainingResult, got {type(result).__name__}")
    one_of("against", against, ("seconds", "epochs"))
    rows = result.history
    if not rows:
        raise ValueError("history: expected at least one finished epoch, got none: there is nothing to plot")
    scored = any(row.get("val_accuracy") is not None for row in rows)
    figure = to_draw_in(figure, 10 if scored else 6.5, 4.8)
    place = Place(result, rows, against)
    marker = "o" if len(rows) <= FEW else None

    width, height = size_of(figure)
    n_panels = 2 if scored else 1
    panels = figure.subplots(*((n_panels, 1) if height > width else (1, n_panels)), squeeze=False).ravel().tolist()
    for axes, name in zip(panels, ("loss", "accuracy"), strict=False):
        for start, stop, phase in _spans(result, place):
            axes.axvspan(start, stop, label=phase, linewidth=0, **_PHASES[phase])
        for index, event in enumerate(result.events):
            if event.kind in _EVENTS:
                moment = place(event.step, result.events[:index])
                axes.axvline(moment, label=_told(event), **({"linewidth": 1.2} | _EVENTS[event.kind]))
        if name == "loss":
            x = [place(row["step"]) for row in rows]
            axes.plot(x, [row["loss"] for row in rows], label="training", marker=marker, markersize=4, **STYLES[0])
        told = [(place(row["step"]), row.get(f"val_{name}")) for row in rows]
        told += [(place(e.step, result.events), e.info.get(f"val_{name}")) for e in result.events if e.kind == "recompose"]
        validated = [(x, value) for x, value in told if value is not None]
        if validated:
            x, y = ([pair[i] for pair in validated] for i in (0, 1))
            axes.plot(x, y, label="validation", marker=marker, markersize=4, **STYLES[1])
        gaps = list(_gaps(result, name))
        for gap in gaps:
            moment = place(result.events[gap.index].step, result.events[: gap.index])
            axes.plot([moment, moment], [gap.before, gap.after], label="gap at the SVD", **_GAP)
        lines = [str(gap) for gap in gaps[:_MOST_GAPS]] + [f"and {len(gaps) - _MOST_GAPS} more"] * (len(gaps) > _MOST_GAPS)
        if not lines and any(map(_cuts, result.events)):
            lines = [f"gap of the {name} at the SVD: not measured"]
        axes.set_title("\n".join(lines), fontsize="small")
        axes.set(xlabel=f"{against} of training" if against == "seconds" else "epochs", ylabel=name)
        axes.set_xlim(0, None)
    figure.suptitle(textwrap.fill(saved_in_words(result), max(20, int(_LETTERS * width))), fontsize="medium")
    add_legend(figure, panels)
    return figure


@dataclass(frozen=True)
class _Gap:
    """The change of a loss or an accuracy at a switch.

    Attributes
    ----------
    name : {"loss", "accuracy"}
    index : int
        The switch, among the events.
    before, after : float
    where : str
        The moments of the two numbers.
    """

    name: str
    index: int
    before: float
    after: float
    where: str

    def __str__(self) -> str:
        before, after = (f"{100 * v:.2f} %" if self.name == "accuracy" else f"{v:.3g}" for v in (self.before, self.after))
        return f"gap at the SVD: {self.name} {before} → {after}, {self.where}"


def _cuts(event: Any) -> bool:
    """True for a switch that has truncated a layer."""
    return event.kind == "switch" and any(not t.skipped for t in event.info["truncations"])


def _gaps(result: TrainingResult, name: str) -> Iterator[_Gap]:
    """The gaps of a training whose numbers are known."""
    events, rows = result.events, result.history
    for index, event in enumerate(events):
        if not _cuts(event):
            continue
        info = next((later.info for later in events[index + 1 :] if later.kind in ("switch", "guard")), {})
        if name == "loss" and "loss_after" in info:
            yield _Gap(name, index, info["loss_before"], info["loss_after"], "right before and after")
            continue
        column = f"val_{name}" if any(row.get(f"val_{name}") is not None for row in rows) else name
        known = [(row["step"], row["epoch"], row[column]) for row in rows if row.get(column) is not None]
        before = [row for row in known if row[0] <= event.step][-1:]
        after = [row for row in known if row[0] > event.step][:1]
        for (_, first, value), (_, second, other) in zip(before, after, strict=False):
            if math.isfinite(value) and math.isfinite(other):
                yield _Gap(name, index, value, other, f"epochs {first} and {second}")


def _spans(result: TrainingResult, place: Place) -> list[tuple[float, float, str]]:
    """Start, end and name of each phase. In seconds, an event's own time lies between phases."""
    spans = []
    start = 0
    for phase, (stop, _) in zip(result.phases, phase_ends(result), strict=True):
        before = [event for event in result.events if event.step <= start]
        again = any(event.kind == "recompose" for event in before)
        name = "recomposed" if again and phase["phase"] == "dense" else phase["phase"]
        spans.append((place(start, before), place(stop), name))
        start = stop
    return spans


def _told(event: Any) -> str:
    if event.kind == "switch":
        ranks = [str(t.rank) for t in event.info["truncations"] if not t.skipped]
        return f"switch to rank{'s' * (len(ranks) > 1)} {', '.join(ranks)}" if ranks else "switch: nothing to factor"
    return f"guard: {event.info['action']}" if event.kind == "guard" else "recomposition"


