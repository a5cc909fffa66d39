# SPDX-License-Identifier: BSD-3-Clause
"""Figures of experiments: curves over epochs, and saving to files.

This needs matplotlib, the extra `plot`. The experiments draw the figures; styles of lines are in
plots/.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svdfast._process.files import written_whole
from svdfast.plots.figures import STYLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

def line(axes: Any, index: int, curves: Sequence[Sequence[float]], label: str, marks: int = 0) -> None:
    """The median of curves over epochs, with a band from the lowest to the highest.

    There is a marker every `marks` epochs.
    """
    values = np.array(curves, dtype=float)
    x = np.arange(1, values.shape[1] + 1)
    style = STYLES[index % len(STYLES)]
    marker = {"marker": "os^Dv*"[index % 6], "markevery": marks, "markersize": 4} if marks else {}
    axes.plot(x, np.median(values, axis=0), label=label, **({"linewidth": 1.5} | style | marker))
    if len(values) > 1:
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.12, linewidth=0)


def mark_switch(axes: Any, x: float) -> None:
    """A line at the switch from weights to factors."""
    axes.axvline(x, color="grey", linewidth=0.8)
    axes.annotate("SVD", (x, 1), xycoords=("data", "axes fraction"), xytext=(3, -12), textcoords="offset points")


def save(figure: Figure, folder: Path, name: str) -> None:
    """Saves a figure as PNG and as SVG. The same figure gives the same bytes."""
    from matplotlib import rc_context

    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        content = io.BytesIO()
        with rc_context({"svg.hashsalt": "svdfast", "svg.fonttype": "none"}):
            figure.savefig(content, format=kind, dpi=120, metadata=metadata)
        with written_whole(folder / f"{name}.{kind}") as file:
            file.write(content.getvalue())
