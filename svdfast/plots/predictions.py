# SPDX-License-Identifier: BSD-3-Clause
"""Figures of predictions beside the true values: a confusion matrix, and residuals of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdfast._process.checks import real_array
from svdfast.plots.figures import STYLES, grid, shown, size_of, to_draw_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["confusion", "residuals"]

Array = NDArray[Any]

_MOST_NUMBERS = 20  # classes with a number in each cell
_MOST_NAMES = 40  # classes that all have their names beside the matrix
_MOST_CLASSES = 2000
_MANY = 2000  # points that an SVG holds as a picture, not one by one


def confusion(
    y_true: ArrayLike,
    y_predicted: ArrayLike,
    *,
    classes: Sequence[Any] | None = None,
    shares: bool = False,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draws how often each class is predicted as each other one.

    A row is a true class, a column a predicted one. Shades are shares of the row, so that rare
    classes show as much as frequent ones. It needs matplotlib: the extra `plot`.

    Parameters
    ----------
    y_true, y_predicted : array_like (n_samples,)
        Integer or string labels, as many of each.
    classes : sequence, optional
        The classes in their order; by default all labels, sorted. If they are strings, integer
        labels count them from 0.
    shares : bool
        Show shares of the true class in per cent in place of counts.
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
        An argument does not fit, there is no sample, or a label is not among the classes.

    Examples
    --------
    >>> import svdfast as sf
    >>> X, y = sf.datasets.load("xor").train
    >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
    >>> result = sf.train(net, X, y, epochs=50)
    >>> decided = (net.predict(X) > 0.5).astype(int)
    >>> figure = sf.plots.confusion(y, decided, classes=["equal", "different"])  # doctest: +SKIP
    >>> figure.savefig("confusion.png")  # doctest: +SKIP
    """
    true, predicted = _labels("y_true", y_true), _labels("y_predicted", y_predicted)
    if len(true) != len(predicted):
        raise ValueError(f"y_true, y_predicted: expected as many labels of each, got {len(true)} and {len(predicted)}")
    if not len(true):
        raise ValueError("y_true: expected at least one label, got none")
    if not isinstance(shares, bool | np.bool_):
        raise TypeError(f"shares: expected True or False, got {type(shares).__name__}")
    names, numbers = _numbered(true, predicted, classes)
    n = len(names)
    counts = np.bincount(numbers[0] * n + numbers[1], minlength=n * n).reshape(n, n)
    totals = counts.sum(axis=1, keepdims=True)
    parts = counts / np.maximum(totals, 1)

    ticks = np.arange(0, n, -(-n // _MOST_NAMES))
    labels = [shown(names[i]) for i in ticks]
    longest, few = max(map(len, labels)), n <= _MOST_NUMBERS
    upright = longest > 3 or not few
    side = min(max(3.0, (0.45 if few else 0.22) * n), 13.0)
    room = 1.0 + 0.09 * longest  # for the names and the titles
    figure = to_draw_in(figure, side + room + 1.1, side + (room if upright else 1.0))
    from matplotlib.colors import PowerNorm

    axes = figure.subplots()
    image = axes.imshow(parts, cmap="Greys", norm=PowerNorm(0.5, 0, 1))  # so that few errors can be seen
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    style: dict[str, Any] = {"fontsize": "medium" if few else "x-small", "parse_math": False}
    axes.set_xticks(ticks, labels, rotation=90 if upright else 0, **style)
    axes.set_yticks(ticks, labels, **style)
    right = counts.trace()
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{right:,} of {counts.sum():,} right, {100 * right / counts.sum():.2f} %", fontsize="medium")
    if few:
        width, height = size_of(figure)
        _write_numbers(axes, counts, parts, shares, min(width - room - 1.1, height - room) / n)
    return figure


def _write_numbers(axes: Any, counts: Array, parts: Array, shares: bool, cell_size: float) -> None:
    """Writes counts, or shares in per cent, into the cells, which are of this size in inches."""
    cells = [[f"{100 * share:.1f}" if shares else f"{count:,}" for count, share in zip(*row, strict=True)]
             for row in zip(counts, parts, strict=True)]  # fmt: skip
    longest = max(len(cell) for row in cells for cell in row)
    size = max(4.0, min(10.0, 72 * cell_size / (0.65 * longest + 0.6)))
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            color = "white" if parts[i, j] > 0.3 else "black" if counts[i, j] else "#808080"
            axes.text(j, i, cell, ha="center", va="center", color=color, fontsize=size)


def _labels(name: str, given: Any) -> Array:
    """Labels as an array of integers or of strings, these of dtype str or object."""
    try:
        labels = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected integers or strings, got {type(given).__name__} ({error})") from None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        hint = "; the classes of probabilities are their argmax(axis=1)" if labels.ndim == 2 else ""
        raise ValueError(f"{name}: expected labels of shape (n_samples,), got shape {labels.shape}{hint}")
    if labels.dtype.kind in "biu":
        if labels.size and int(labels.max()) >= 2**63:
            raise ValueError(f"{name}: expected integers below 2**63, got {labels.max()}")
        return labels.astype(np.int64)
    if labels.dtype.kind == "f" and labels.itemsize <= 8:
        labels = labels.astype(np.float64)
        whole = np.isfinite(labels) & (labels == np.rint(labels)) & (np.abs(labels) < 2.0**53)
        if not whole.all():
            raise ValueError(f"{name}: expected integers or strings, got {labels[np.argmin(whole)]}")
        return labels.astype(np.int64)
    if labels.dtype.kind == "O":
        items = labels.tolist()
        if all(isinstance(item, str) for item in items):
            return labels
        kinds = sorted({type(item).__name__ for item in items})
        raise TypeError(f"{name}: expected integers or strings, got {', '.join(kinds[:5])}")
    if labels.dtype.kind != "U":
        raise TypeError(f"{name}: expected integers or strings, got dtype {labels.dtype}")
    return labels


def _numbered(true: Array, predicted: Array, classes: Any) -> tuple[list[Any], tuple[Array, Array]]:
    """The classes, and the number of each label's class."""
    kinds = ["integers" if labels.dtype.kind == "i" else "strings" for labels in (true, predicted)]
    if kinds[0] != kinds[1]:
        raise TypeError(f"y_true, y_predicted: expected labels of one kind, got {' and '.join(kinds)}")
    both = np.concatenate([true, predicted])
    different, numbers = np.unique(both, return_inverse=True)
    names = different.tolist()
    if classes is not None:
        names = _checked("classes", classes)
        counted = kinds[0] == "integers" and all(isinstance(name, str) for name in names)
        known = {i if counted else name: i for i, name in enumerate(names)}
        unknown = [label for label in different.tolist() if label not in known]
        if unknown:
            expected = f"labels from 0 to {len(names) - 1}" if counted else "labels that are all among them"
            raise ValueError(f"classes: expected {expected}, got {shown(repr(unknown[0]))}")
        numbers = np.array([known[label] for label in different.tolist()], dtype=np.int64)[numbers]
    if len(names) > _MOST_CLASSES:
        raise ValueError(f"y_true: expected at most {_MOST_CLASSES:,} classes, got {len(names):,}")
    return names, (numbers[: len(true)], numbers[len(true) :])


def _checked(argument: str, given: Any) -> list[Any]:
    if isinstance(given, str | bytes) or not isinstance(given, Sequence | np.ndarray):
        raise TypeError(f"{argument}: expected a sequence, got {type(given).__name__}")
    names = [name.item() if isinstance(name, np.generic) else name for name in given]
    wrong = [type(name).__name__ for name in names if not isinstance(name, str | int)]
    if wrong or not names:
        raise TypeError(f"{argument}: expected strings or integers, got {wrong[0] if wrong else 'none'}")
    if len(set(names)) < len(names):
        raise ValueError(f"{argument}: expected {len(names)} different ones, got {len(set(names))}")
    return names


def residuals(
    y_true: ArrayLike,
    y_predicted: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draws the errors of predicted numbers over the predictions.

    A point is a sample, y_true − y_predicted. A shape of the points other than a flat band around 0
    is something that the network has not learned. Each target has a panel. It needs matplotlib: the
    extra `plot`.

    Parameters
    ----------
    y_true, y_predicted : array_like (n_samples,) or (n_samples, n_targets)
        Finite numbers, as many of each.
    names : sequence of str, optional
        Names of the targets.
    figure : matplotlib.figure.Figure or SubFigure, optional
        Figure to draw in; see `training`. Its width decides about the columns of panels.

    Returns
    -------
    matplotlib.figure.Figure or SubFigure

    Raises
    ------
    ImportError
        matplotlib is not installed.
    TypeError, ValueError
        An argument does not fit, there is no sample, or a number is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> import svdfast as sf
    >>> X = np.random.default_rng(0).standard_normal((200, 3))
    >>> y = X[:, :1] * X[:, 1:2]
    >>> net = sf.Network([3, 50, 1], output="identity", seed=0)
    >>> result = sf.train(net, X, y, epochs=5)
    >>> figure = sf.plots.residuals(y, net.predict(X))  # doctest: +SKIP
    >>> figure.savefig("residuals.png")  # doctest: +SKIP
    """
    true, predicted = _columns("y_true", y_true), _columns("y_predicted", y_predicted)
    if true.shape != predicted.shape:
        raise ValueError(f"y_true, y_predicted: expected the same shape, got {true.shape} and {predicted.shape}")
    n_targets = true.shape[1]
    if names is None:
        titles = [""] if n_targets == 1 else [f"target {i}" for i in range(1, n_targets + 1)]
    else:
        titles = [shown(name) for name in _checked("names", names)]
        if len(titles) != n_targets:
            raise ValueError(f"names: expected {n_targets}, got {len(titles)}")

    with np.errstate(over="ignore"):
        error = true - predicted
    largest = np.abs(error).max(axis=0)
    if not np.isfinite(largest).all():
        raise ValueError("y_true, y_predicted: expected differences that are finite, got an infinite one")
    # Scaled, so that no square overflows or vanishes.
    roots = largest * np.sqrt(np.square(error / np.where(largest > 0, largest, 1)).mean(axis=0))
    figure, columns, n_rows = grid(figure, n_targets, 4.6, 3.4)
    panels = list(figure.subplots(n_rows, columns, squeeze=False).flat)
    for unused in panels[n_targets:]:
        unused.remove()
    for i, (axes, title) in enumerate(zip(panels, titles, strict=False)):
        axes.axhline(0, linewidth=1.2, **STYLES[1])
        axes.plot(
            predicted[:, i], error[:, i], linestyle="none", marker="o", markersize=3, alpha=0.5, color=STYLES[2]["color"],
            markeredgewidth=0, rasterized=len(true) > _MANY,
        )  # fmt: skip
        axes.set(xlabel="predicted", ylabel="true − predicted")
        about = f"root mean square {roots[i]:.4g}"
        axes.set_title(f"{title}, {about}" if title else about, fontsize="medium", parse_math=False)
    return figure


def _columns(name: str, given: Any) -> Array:
    """Finite numbers in columns, one for each target."""
    numbers = real_array(name, given).astype(np.float64)
    if numbers.ndim == 1:
        numbers = numbers[:, np.newaxis]
    if numbers.ndim != 2 or not numbers.size:
        raise ValueError(f"{name}: expected numbers of shape (n_samples,) or (n_samples, n_targets), got shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return numbers
