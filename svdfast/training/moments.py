# SPDX-License-Identifier: BSD-3-Clause
"""An optimizer's moments carried from one layout of a network to another, and the learning rate that factors need.

With W = W1·W2 a gradient G of W is G·W2ᵀ of W1 and W1ᵀ·G of W2. So the mean of gradients, which is linear in them, is carried exactly:

    M1 = M·W2ᵀ      M2 = W1ᵀ·M

and the mean of their squares as if the elements of G were uncorrelated:

    V1 = V·(W2∘W2)ᵀ      V2 = (W1∘W1)ᵀ·V

Back at recomposition M is the matrix of least norm that has the M1 and M2 that are there; of V they tell sums over rows and over
columns only, and V is the product of these, as in N. Shazeer and M. Stern, "Adafactor", ICML 2018.

A mean is at most the root of the mean of squares, but of what is carried, V may be far too small for M where gradients are correlated, or
zero where M is not, and Adam's step M/√V anything. So M is cut to ±√V: no step is larger than the learning rate.

Not here: what the moments are for (optimizers.py), and when a layout changes (switch.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast._engine import aligned_zeros
from svdfast.model.layout import LayerSpec, Layout

__all__ = ["Kind", "carry", "relative_scale"]

Array: TypeAlias = NDArray[Any]
Kind: TypeAlias = Literal["mean", "square"]
State: TypeAlias = tuple[Layout, Array]


def _dense(spec: LayerSpec, vector: Array) -> Array:
    return vector[spec.W1 : spec.W1 + spec.n_out * spec.n_in].reshape(spec.n_out, spec.n_in)


def _factors(spec: LayerSpec, vector: Array) -> tuple[Array, Array]:
    assert spec.rank is not None
    W1 = vector[spec.W1 : spec.W2].reshape(spec.n_out, spec.rank)
    return W1, vector[spec.W2 : spec.W2 + spec.rank * spec.n_in].reshape(spec.rank, spec.n_in)


def project(kind: Kind, M: Array, W1: Array, W2: Array) -> tuple[Array, Array]:
    """A moment of W (n×m) as moments of W1 (n×l) and W2 (l×m)."""
    if kind == "square":
        W1, W2 = W1 * W1, W2 * W2
    return M @ W2.T, W1.T @ M


def recompose(kind: Kind, M1: Array, M2: Array, W1: Array, W2: Array) -> Array:
    """A moment of W from those of its factors."""
    if kind == "square":
        # Means of V over each row and each column, from  Σⱼ V1 = V·(W2∘W2)ᵀ·1  with  (W2∘W2)ᵀ·1 ≈ ‖W2‖²/m.
        norm1, norm2 = float((W1 * W1).sum()), float((W2 * W2).sum())
        rows = M1.sum(axis=1) / norm2 if norm2 > 0 else np.zeros(len(M1), M1.dtype)
        columns = M2.sum(axis=0) / norm1 if norm1 > 0 else np.zeros(M2.shape[1], M2.dtype)
        whole = np.sqrt(rows.mean() * columns.mean())
        product: Array = np.outer(rows, columns / whole if whole > 0 else columns)
        return product
    # P·M = W1·(W1ᵀW1)⁻¹·M2, M·Q = M1·(W2W2ᵀ)⁻¹·W2 with projections P and Q onto the factors' ranges:
    # of least norm is P·M + (M - P·M)·Q.
    PM = W1 @ _solve(W1.T @ W1, M2)
    M: Array = PM + _solve(W2 @ W2.T, (M1 - PM @ W2.T).T).T @ W2
    return M


def _solve(gram: Array, right: Array) -> Array:
    """Solves with a Gram matrix, which may be near to singular: least squares, not far in directions that hardly count."""
    G = gram.astype(np.float64)
    G[np.diag_indices_from(G)] += 1e-6 * max(np.trace(G) / len(G), np.finfo(np.float32).tiny)
    return np.linalg.solve(G, right).astype(gram.dtype)


def carry(kinds: Sequence[Kind], moments: Sequence[Array], old: State, new: State) -> tuple[Array, ...]:
    """Moments laid out as `old` as moments laid out as `new`.

    Parameters
    ----------
    kinds : sequence of {"mean", "square"}
        Of what each moment is a mean: of gradients, or of their squares.
    moments : sequence of ndarray
    old, new : (Layout, ndarray)
        Layouts, and the parameters that lie in them.

    Returns
    -------
    tuple of ndarray
    """
    (old_layout, old_parameters), (new_layout, new_parameters) = old, new
    result = []
    for kind, moment in zip(kinds, moments, strict=True):
        carried = aligned_zeros(new_layout.size, moment.dtype)
        carried[new_layout.n_weights :] = moment[old_layout.n_weights :]
        for before, after in zip(old_layout.layers, new_layout.layers, strict=True):
            if before.rank is None:
                M = _dense(before, moment)
            else:
                M = recompose(kind, *_factors(before, moment), *_factors(before, old_parameters))
            if after.rank is None:
                _dense(after, carried)[...] = M
            else:
                M1, M2 = _factors(after, carried)
                M1[...], M2[...] = project(kind, M, *_factors(after, new_parameters))
        result.append(carried)
    if tuple(kinds) == ("mean", "square"):
        for before, after in zip(old_layout.layers, new_layout.layers, strict=True):
            if before.rank is not None or after.rank is not None:
                end = after.W2 + (0 if after.rank is None else after.rank * after.n_in)
                mean, square = (moment[after.W1 : end] for moment in result)
                largest = np.sqrt(square)
                np.clip(mean, -largest, largest, out=mean)
    return tuple(result)


def relative_scale(W1: Array, W2: Array) -> float:
    """How much larger the elements of two factors are than those of their product: by root mean squares, the geometric mean of both
    factors' over the product's.

    Adam's steps have the size of the learning rate whatever the gradient's, so a rate multiplied with this changes the factors by as
    much of their size as it changed W. Of balanced factors of a flat spectrum it is near (max(m, n)/(l·σ))^½, that is α^-½.

    Returns
    -------
    float
        1 where the product is zero.
    """
    W1, W2 = W1.astype(np.float64), W2.astype(np.float64)
    squares = float(np.sqrt((W1 * W1).mean() * (W2 * W2).mean()))
    # ‖W1·W2‖² is the sum of (W1ᵀ·W1)∘(W2·W2ᵀ).
    product = float(((W1.T @ W1) * (W2 @ W2.T)).sum()) / (W1.shape[0] * W2.shape[1])
    return float(np.sqrt(squares / product)) if product > 0 else 1.0
