# SPDX-License-Identifier: BSD-3-Clause
"""The parts that all figures share: a new figure, styles of lines, one legend, and shown names."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from svdfast._process.text import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["FEW", "MARKERS", "STYLES", "add_legend", "grid", "new_figure", "require_matplotlib", "shown", "size_of", "to_draw_in"]

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
# Their number and that of the styles have no common divisor, so pairs of them repeat late.
MARKERS = "osD^vPX"
# Lines of at most so many points have markers; a single point would be invisible without one.
FEW = 30

_LONGEST = 28  # characters of a shown name
_COLUMNS = 3  # of panels, at most
_NARROWEST = 0.75  # share of the usual width of a panel that is enough for it
_LABEL = 2.2  # inches of a column of the legend


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


def to_draw_in(figure: Figure | SubFigure | None, width: float, height: float) -> Figure | SubFigure:
    """The given figure, or a new one of this size that notebooks show."""
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


def grid(figure: Figure | SubFigure | None, n: int, width: float, height: float) -> tuple[Figure | SubFigure, int, int]:
    """A figure for n panels of this size in inches, and how many columns and rows they take."""
    columns = min(n, _COLUMNS)
    if figure is None:
        figure = to_draw_in(None, width * columns + 0.6, height * -(-n // columns) + 0.5)
    else:
        figure = to_draw_in(figure, width, height)
        columns = max(1, min(columns, int(size_of(figure)[0] / (_NARROWEST * width))))
    return figure, columns, -(-n // columns)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def size_of(figure: Figure | SubFigure) -> tuple[float, float]:
    """Width and height in inches."""
    box, dpi = figure.bbox, figure.dpi
    return float(box.width) / dpi, float(box.height) / dpi


def add_legend(figure: Figure | SubFigure, panels: Sequence[Any]) -> None:
    """Adds one legend for all panels, below them if the layout makes room for it.

    Labels are shown as they are: no mathematics, and no underscore hides one.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    handles: dict[str, Any] = {}
    for axes in panels:
        for artist in (*axes.patches, *axes.lines, *axes.collections):
            label = str(artist.get_label())
            if not label.startswith("_child"):  # matplotlib's label of an artist without one
                handles.setdefault(label, artist)
    settings: dict[str, Any] = {"handles": list(handles.values()), "labels": ["-"] * len(handles), "fontsize": "small"}
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        legend = figure.legend(loc="outside lower center", ncols=max(1, min(4, int(size_of(figure)[0] / _LABEL))), **settings)
    else:
        legend = panels[0].legend(**settings)
    for text, label in zip(legend.get_texts(), handles, strict=True):
        text.set(text=label, parse_math=False)


def shown(name: object, longest: int = _LONGEST) -> str:
    """A name for a figure: on one line, without characters that can't be printed, and not long."""
    text = one_line(str(name))
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
