# SPDX-License-Identifier: BSD-3-Clause
"""Figures of a training and of a network's spectra. They need matplotlib: the extra `plot`.

Lines differ without colour, too. Figures belong to no window and to no list of pyplot's, and no
setting of matplotlib's is changed. Elsewhere: the figures of the paper's experiments (reproduce/),
and monitoring of a running training (callbacks.py).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from svdfast._process import in_use
from svdfast._process.checks import of_layer, one_of
from svdfast._process.runtime import single_threaded_blas
from svdfast.model.counting import break_even_rank
from svdfast.model.network import Layer, Network
from svdfast.model.ranks import RankRule, ranks_by, resolve_rule
from svdfast.training.result import TrainingResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["spectrum", "training"]

# Alternating styles, so that lines differ in a grey print. The colours are Okabe and Ito's, which
# differ in lightness, too.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#000000", "linestyle": "-"},
    {"color": "#D55E00", "linestyle": "--"},
    {"color": "#0072B2", "linestyle": "-."},
    {"color": "#E69F00", "linestyle": ":", "linewidth": 2.2},
    {"color": "#009E73", "linestyle": (0, (6, 1, 1, 1, 1, 1))},
    {"color": "#CC79A7", "linestyle": (0, (1, 1)), "linewidth": 1.2},
)

_PHASES = {
    "dense": {"facecolor": "#000000", "alpha": 0.07},
    "factored": {"facecolor": "#0072B2", "alpha": 0.16},
    "recomposed": {"facecolor": "#E69F00", "alpha": 0.2},
}
_EVENTS: dict[str, dict[str, Any]] = {
    "switch": {"color": "#0072B2", "linestyle": "-", "zorder": 1.8},
    "guard": {"color": "#CC79A7", "linestyle": ":", "linewidth": 2, "zorder": 1.9},
    "recompose": {"color": "#E69F00", "linestyle": "--"},
}
# Lines of at most so many points have markers; a single point would be invisible without one.
_FEW = 30


def require_matplotlib() -> None:
    """Raises ImportError if matplotlib is missing; the message names the extra."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError('figures need matplotlib: pip install "svdfast[plot]"') from None


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches. It belongs to no window and to no list of pyplot's."""
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def training(
    result: TrainingResult,
    against: Literal["seconds", "epochs"] = "seconds",
    *,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draws the losses of a training, and the accuracy if classes are validated.

    Phases are shaded. The switch, the guard and the recomposition are marked where they happened;
    the gap between two phases is their own duration. It needs matplotlib: the extra `plot`.

    Parameters
    ----------
    result : TrainingResult
    against : {"seconds", "epochs"}
        The horizontal axis. Seconds are those of training, as `result.seconds` has them.
    figure : matplotlib.figure.Figure or SubFigure, optional
        Figure to draw in, such as `plt.figure(layout="constrained")` for a window. With that layout
        the legend lies above the panels, else within one. By default a new figure that pyplot does
        not know: notebooks show it, `savefig` writes it.

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
    figure = _to_draw_in(figure, 10 if scored else 6.5, 4.2)
    place = _Place(result, rows, against)
    marker = "o" if len(rows) <= _FEW else None

    panels = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
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
        axes.set(xlabel=f"{against} of training" if against == "seconds" else "epochs", ylabel=name)
        axes.set_xlim(0, None)
    _legend(figure, panels)
    return figure


@single_threaded_blas.held()
def spectrum(
    net: Network,
    rank_fraction: float | None = None,
    *,
    ranks: Sequence[int | None] | str | RankRule | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draws each hidden weight's singular values and their energy, and the break-even rank.

    The energy is the share that the first i values hold. Each hidden layer has a panel. A factored
    layer shows the spectrum of its product W1·W2. It computes an SVD without vectors of each hidden
    weight, O(n_in·n_out·min(n_in, n_out)), which takes seconds if both sides are some thousand. It
    needs matplotlib: the extra `plot`.

    Parameters
    ----------
    net : Network
    rank_fraction : float, optional
    ranks : sequence of int or None, or str, optional
        Ranks to mark, as for `Network.truncate`; by default those of factored layers. A rank above
        the break-even rank is marked, too.
    figure : matplotlib.figure.Figure or SubFigure, optional
        Figure to draw in; see `training`.

    Returns
    -------
    matplotlib.figure.Figure or SubFigure
        Its first `axes` show the layers' singular values; those of the energy follow.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    TypeError, ValueError
        An argument does not fit, there is no hidden layer, or a weight is not finite.

    Notes
    -----
    With `inputs`, as in `train` by default, `Network.truncate` minimises the change of the layers'
    outputs and does not keep the largest singular values. Its share of energy is then smaller than
    the one drawn.

    Examples
    --------
    >>> import svdfast as sf
    >>> net = sf.Network([784, 512, 256, 10], seed=0)
    >>> figure = sf.plots.spectrum(net, rank_fraction=0.25)  # doctest: +SKIP
    >>> figure.savefig("spectrum.png")  # doctest: +SKIP
    """
    if not isinstance(net, Network):
        raise TypeError(f"net: expected a Network, got {type(net).__name__}")
    hidden = net.layers[: len(net.layout.factorable)]
    if not hidden:
        raise ValueError("the network has no hidden layer: there is no spectrum to plot")
    with in_use.reading(net):
        chosen = [layer.rank for layer in hidden]
        if rank_fraction is not None or ranks is not None:
            rule = resolve_rule(net.layout, rank_fraction, ranks)
            chosen = ranks_by(rule, net.layout.factorable, [_finite(i, layer.weight()) for i, layer in enumerate(hidden)])
        spectra = [_spectrum(index, layer) for index, layer in enumerate(hidden)]

    columns = min(len(hidden), 3)
    n_rows = -(-len(hidden) // columns)
    figure = _to_draw_in(figure, 4.2 * columns + 0.6, 3.4 * n_rows + 0.5)
    from matplotlib.ticker import MaxNLocator

    panels = list(figure.subplots(n_rows, columns, squeeze=False).flat)
    for unused in panels[len(hidden) :]:
        unused.remove()
    shares = []
    for index, (axes, layer, s, rank) in enumerate(zip(panels, hidden, spectra, chosen, strict=False)):
        places = np.arange(1, len(s) + 1)
        marker = "o" if len(s) <= _FEW else None
        positive = s > 0  # a logarithmic axis has no zero
        axes.plot(places[positive], s[positive], label="singular value", marker=marker, markersize=3, **STYLES[0])
        axes.set(xlabel="i", ylabel="i-th singular value", yscale="log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        share = axes.twinx()
        shares.append(share)
        energy = _energy(s)
        share.plot(places, energy, label="energy of the first i", marker=marker, markersize=3, **STYLES[1])
        share.set(ylabel="share of the energy", ylim=(0, 1.03))
        limit = break_even_rank(layer.n_in, layer.n_out, first_layer=net.layout.placed[index].first)
        axes.axvline(limit, label="break-even rank", linewidth=1.2, **STYLES[2])
        about = f"break-even rank {limit}"
        if rank:
            axes.axvline(rank, label="rank", linewidth=1.2, **STYLES[4])
            kept = f": {100 * energy[rank - 1]:.4g} % of the energy" if rank < len(s) else ""
            about = f"rank {rank}{kept}\n{about}"
        axes.set_title(f"layers[{index}], {layer.n_in} → {layer.n_out}\n{about}", fontsize="medium")
        axes.set_xlim(0, min(layer.n_in, layer.n_out) + 0.5)
    _legend(figure, [*panels[: len(hidden)], *shares])
    return figure


class _Place:
    """The place of a step on the horizontal axis, after the events before it."""

    def __init__(self, result: TrainingResult, rows: Sequence[dict[str, Any]], against: str):
        self.events = result.events
        self.steps_per_epoch = rows[0]["step"] if against == "epochs" else None
        # Seconds of the steps alone are known at the ends of epochs and of phases. Steps between
        # these are taken as equally long.
        ends = {0: 0.0}
        for parts in ([(row["step"], row["seconds"]) for row in rows], _ends(result)):
            total = 0.0
            for step, seconds in parts:
                total += seconds
                ends[step] = total
        self.steps = sorted(ends)
        self.seconds = [ends[step] for step in self.steps]

    def __call__(self, step: int, events: Sequence[Any] | None = None) -> float:
        if self.steps_per_epoch is not None:
            return step / int(self.steps_per_epoch)
        if events is None:
            events = [event for event in self.events if event.step < step]
        between = sum(float(event.info["seconds"]) for event in events)
        return float(np.interp(step, self.steps, self.seconds)) + between


def _ends(result: TrainingResult) -> list[tuple[int, float]]:
    """The step at which each phase ends, and its seconds."""
    steps = np.cumsum([phase["steps"] for phase in result.phases], dtype=int)
    return [(int(step), phase["seconds"]) for step, phase in zip(steps, result.phases, strict=True)]


def _spans(result: TrainingResult, place: _Place) -> list[tuple[float, float, str]]:
    """Start, end and name of each phase. In seconds, an event's own time lies between phases."""
    spans = []
    start = 0
    for phase, (stop, _) in zip(result.phases, _ends(result), strict=True):
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


def _finite(index: int, W: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(W).all():
        raise ValueError(f"layer {index}: expected finite weights, got NaN or infinity")
    return W


def _spectrum(index: int, layer: Layer) -> NDArray[np.float64]:
    """Singular values, largest first: min(n_in, n_out) of a dense layer, `rank` of a factored one.

    The others of a factored layer are zero.
    """
    tensors = [_finite(index, tensor) for tensor in layer.weight_tensors]
    with of_layer(index):
        return layer.structure.singular_values(tensors)


def _energy(s: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of Σσ² in the first i values; 1 for all i if all values are zero."""
    if s[0] == 0:
        return np.ones_like(s)
    energy: NDArray[np.float64] = np.cumsum(np.square(s / s[0]))  # scaled, so that no square overflows
    energy /= energy[-1]
    return energy


def _to_draw_in(figure: Figure | SubFigure | None, width: float, height: float) -> Figure | SubFigure:
    if figure is None:
        figure = new_figure(width, height)
        # A notebook shows a Figure by itself only if pyplot is loaded. This method, which it calls
        # on any object, works without pyplot.
        vars(figure)["_repr_png_"] = partial(_png, figure)
        return figure
    require_matplotlib()
    from matplotlib.figure import Figure, SubFigure

    if not isinstance(figure, Figure | SubFigure):
        raise TypeError(f"figure: expected a matplotlib Figure or SubFigure, got {type(figure).__name__}")
    return figure


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _legend(figure: Figure | SubFigure, panels: Sequence[Any]) -> None:
    """Adds one legend for all panels, above them if the layout makes room for it."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    settings: dict[str, Any] = {"handles": list(handles.values()), "labels": list(handles), "fontsize": "small"}
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.legend(loc="outside upper center", ncols=4, **settings)
    else:
        panels[0].legend(**settings)
