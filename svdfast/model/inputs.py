# SPDX-License-Identifier: BSD-3-Clause
"""Inputs of each layer's weight over a sample of data: patches of images, steps, states.

The engine computes them, for networks of any layers. truncation.py uses them; it also computes
the forward pass of networks that have only fully connected layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast._elementwise import ELEMENT_TYPES
from svdfast._engine import Engine
from svdfast.data.checks import Inputs
from svdfast.data.sparse import SparseInputs
from svdfast.model.layout import Layout

__all__ = ["layer_inputs"]

Array: TypeAlias = NDArray[Any]

# Rows of a weight's inputs that are used, and the least number of samples that they come from:
# rows of one sample are alike.
_ROWS = 8192
_SAMPLES = 256


def layer_inputs(
    state: tuple[Layout, Array], samples: Array | SparseInputs, scale: float, weight: Array | None, wanted: Sequence[int]
) -> dict[int, tuple[Array, Array | None]]:
    """Input rows (n_rows, n_in) of these layers' weights, and weights (n_rows,) of the rows.

    A part of the samples and of their rows is used, the same part each time.

    Parameters
    ----------
    state : (Layout, ndarray)
    samples : ndarray (n_samples, n_inputs) or SparseInputs
    scale : float
        Factor that samples are multiplied with.
    weight : ndarray (n_samples,) or (n_samples, steps), optional
    wanted : sequence of int
        Indices of the layers.
    """
    layout, parameters = state
    program, dtype = layout.program, parameters.dtype
    n_samples = samples.n_samples if isinstance(samples, SparseInputs) else len(samples)
    n = min(n_samples, max(_SAMPLES, _ROWS // max(layout.rows)))
    chosen = np.arange(n) * n_samples // n
    engine = Engine(layout, parameters, batch_size=n, n_threads=1, gradients=False)
    rng = np.random.default_rng(0)
    rows: dict[int, list[Array]] = {i: [] for i in wanted}
    weights: dict[int, list[Array]] = {i: [] for i in wanted}
    for start in range(0, n, engine.tile_rows):
        part = chosen[start : start + engine.tile_rows]
        # Scaled here: the engine keeps scaled samples in its own memory, as it keeps its results.
        chosen_rows = samples.take(part).dense() if isinstance(samples, SparseInputs) else samples[part]
        X = np.asarray(chosen_rows, dtype=dtype, order="C") * dtype.type(scale)
        _Bound(X).bind(engine)
        engine.set_order(np.arange(len(part)))
        engine.predict(np.empty((len(part), *layout.output_shape), dtype))
        for i in wanted:
            product, n_rows = layout.first_products[i], len(part) * layout.rows[i]
            values = engine.value(program, product.input, len(part))
            kept = np.sort(rng.choice(n_rows, min(n_rows, -(-_ROWS * len(part) // n)), replace=False))
            rows[i].append(_patches(values, product.sizes, kept) if product.sizes else values[kept])
            if weight is not None:
                weights[i].append(_by_row(weight[part], layout.rows[i], layout.by_steps[i])[kept])
    return {i: (np.concatenate(rows[i]), np.concatenate(weights[i]) if weight is not None else None) for i in wanted}


def _patches(values: Array, sizes: Sequence[int], kept: Array) -> Array:
    """Some of the input rows of a convolution's weight; `sizes` as in src/ops/convolution.pyx."""
    height, width, tall, wide, down, across, top, left, rows, columns, channels = sizes
    images = values.reshape(-1, height, width, channels)
    below, right = (max(0, (n - 1) * step + window - before - size) for n, step, window, before, size in (
        (rows, down, tall, top, height), (columns, across, wide, left, width),
    ))  # fmt: skip
    padded = np.pad(images, ((0, 0), (top, below), (left, right), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (tall, wide), (1, 2))[:, ::down, ::across][:, :rows, :columns]
    places = np.unravel_index(kept, windows.shape[:3])
    found: Array = windows[places].transpose(0, 2, 3, 1).reshape(len(kept), -1)
    return found


def _by_row(weight: Array, rows: int, by_steps: bool) -> Array:
    """Weights of rows, from weights of samples or of their steps."""
    if weight.ndim == 1 or weight.shape[1] != rows:
        of_sample = weight if weight.ndim == 1 else weight.mean(axis=1)
        weight = np.repeat(of_sample[:, np.newaxis], rows, axis=1)
    return (weight.T if by_steps else weight).ravel()


@dataclass
class _Bound:
    """Samples without targets."""

    X: Array

    def bind(self, engine: Engine) -> None:
        """Binds the samples to an engine."""
        engine.bind(Inputs(self.X, ELEMENT_TYPES[self.X.dtype.name], 1.0))
