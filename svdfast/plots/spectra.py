# SPDX-License-Identifier: BSD-3-Clause
"""The figure of a network's spectra: the singular values of each weight, and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process import in_use
from svdfast._process.checks import of_layer
from svdfast._process.runtime import single_threaded_blas
from svdfast.model.counting import break_even_rank
from svdfast.model.network import Layer, Network
from svdfast.model.ranks import RankRule, ranks_by, resolve_rule
from svdfast.plots.figures import FEW, STYLES, add_legend, grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["spectrum"]

_LEAST_RANGE = 4


@single_threaded_blas.held()
def spectrum(
    net: Network,
    rank_fraction: float | None = None,
    *,
    ranks: Sequence[int | None] | str | RankRule | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draws each weight's singular values and their energy, the break-even rank, and kept ranks.

    The energy is the share that the first i values hold. Each layer with a weight has a panel: a
    kernel, an embedding, and both weights of a recurrent layer have one, too. The output layer's
    panel has no ranks, as it is never truncated. A factored layer shows the spectrum of its product
    W1·W2. It computes an SVD without vectors of each weight, O(n_in·n_out·min(n_in, n_out)), which
    takes seconds if both sides are some thousand. It needs matplotlib: the extra `plot`.

    Parameters
    ----------
    net : Network
    rank_fraction : float, optional
    ranks : sequence of int or None, or str, optional
        Ranks to mark, as for `Network.truncate`; by default those of factored layers. A rank above
        the break-even rank is marked, too.
    figure : matplotlib.figure.Figure or SubFigure, optional
        Figure to draw in; see `training`. Its width decides about the columns of panels.

    Returns
    -------
    matplotlib.figure.Figure or SubFigure
        Its first `axes` show the layers' singular values; those of the energy follow.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    TypeError, ValueError
        An argument does not fit, or a weight is not finite.

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
    with in_use.reading(net):
        layers, factorable = net.layers, net.layout.factorable
        chosen = [layer.rank for layer in layers]
        if rank_fraction is not None or ranks is not None:
            rule = resolve_rule(net.layout, rank_fraction, ranks)
            weights = [_finite(i, layer.weight()) for i, layer in enumerate(layers[: len(factorable)])]
            chosen = [*ranks_by(rule, factorable, weights), None]
        spectra = [_spectrum(index, layer) for index, layer in enumerate(layers)]

    figure, columns, n_rows = grid(figure, len(layers), 4.2, 3.4)
    panels = list(figure.subplots(n_rows, columns, squeeze=False).flat)
    for unused in panels[len(layers) :]:
        unused.remove()
    panels = panels[: len(layers)]
    shares = []
    for index, (axes, layer, s, rank) in enumerate(zip(panels, layers, spectra, chosen, strict=True)):
        limit = None
        if index < len(factorable):
            limit = break_even_rank(layer.n_in, layer.n_out, first_layer=factorable[index].first)
        shares.append(_draw(axes, s, rank, limit))
        about = "output layer, never truncated" if limit is None else f"break-even rank {limit}"
        if rank:
            kept = f": {100 * _energy(s)[rank - 1]:.4g} % of the energy" if rank < len(s) else ""
            about = f"rank {rank}{kept}\n{about}"
        axes.set_title(f"layers[{index}], {layer.n_in} → {layer.n_out}\n{about}", fontsize="medium")
        axes.set_xlim(0, min(layer.n_in, layer.n_out) + 0.5)
    add_legend(figure, [*panels, *shares])
    return figure


def _draw(axes: Axes, s: NDArray[np.float64], rank: int | None, limit: int | None) -> Axes:
    """Draws a spectrum and its ranks in a panel. Returns the axes of the energy."""
    from matplotlib.ticker import MaxNLocator

    places = np.arange(1, len(s) + 1)
    marker = "o" if len(s) <= FEW else None
    positive = s > 0  # a logarithmic axis has no zero
    axes.plot(places[positive], s[positive], label="singular value", marker=marker, markersize=3, **STYLES[0])
    axes.set(xlabel="i", ylabel="i-th singular value", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    low, high = axes.get_ylim()
    if high < _LEAST_RANGE * low:  # else the ticks of equal values would have equal labels
        axes.set_ylim(low / _LEAST_RANGE**0.5, high * _LEAST_RANGE**0.5)
    share = axes.twinx()
    share.plot(places, _energy(s), label="energy of the first i", marker=marker, markersize=3, **STYLES[1])
    share.set(ylabel="share of the energy", ylim=(0, 1.03))
    if limit is not None:
        axes.axvline(limit, label="break-even rank", color=STYLES[2]["color"], linestyle=":", linewidth=1.8)
    if rank:
        axes.axvline(rank, label="rank", color=STYLES[4]["color"], linestyle="-", linewidth=2)
    return share


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
