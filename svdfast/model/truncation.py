# SPDX-License-Identifier: BSD-3-Clause
"""Truncation: a network's weights brought into structures of lower rank, and back.

Functions of a layout and its parameters, which they do not change. Not here: which rank (ranks.py), the decomposition (svd.py),
how a structure is fitted to a weight (structures/).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast._engine import aligned_zeros
from svdfast._process.checks import of_layer, room
from svdfast.cython_kernels import run_dense_forward
from svdfast.model.counting import break_even_rank, weight_multiplications
from svdfast.model.layout import Layout
from svdfast.model.ranks import RankRule, ranks_by
from svdfast.model.structures import Fit, LowRank, Structure

__all__ = ["State", "Truncation", "factorable_weights", "input_grams", "rebuilt", "truncate", "usable_ranks"]

logger = logging.getLogger("svdfast")

Array: TypeAlias = NDArray[Any]
State: TypeAlias = tuple[Layout, Array]

_SAMPLES_TOGETHER = 256  # whose activations are kept at a time for a Gram matrix


@dataclass(frozen=True)
class Truncation:
    """What `Network.truncate` did with a hidden layer.

    Attributes
    ----------
    layer : int
    rank : int or None
        l as it is now; None where the layer is dense.
    requested_rank : int
    break_even_rank : int
        The largest rank at which a training step of the factored layer needs fewer multiplications than a dense one.
    singular_values : ndarray
        Those kept; empty where the layer was left as it was.
    dropped_norm : float
        ‖W − W1·W2‖_F: the root of the sum of squares of the singular values that were dropped.
    """

    layer: int
    rank: int | None
    requested_rank: int
    break_even_rank: int
    singular_values: NDArray[Any]
    dropped_norm: float

    @property
    def skipped(self) -> bool:
        """Whether factoring was asked for and not done, as it would not save multiplications."""
        return len(self.singular_values) == 0


def matrices(state: State) -> list[Array]:
    """The weights that may be factored, (n_out, n_in); not to be written to."""
    layout, parameters = state
    return [
        _matrix(layer.structure, [tensor.of(parameters) for tensor in layout.weights(i)])
        for i, layer in enumerate(layout.factorable)
    ]


def _matrix(structure: Structure, tensors: Sequence[Array]) -> Array:
    """The weight, as a structure of a user's own may give something else."""
    W = structure.matrix(tensors)
    shape, dtype = (structure.n_out, structure.n_in), tensors[0].dtype
    if not isinstance(W, np.ndarray) or W.shape != shape or W.dtype != dtype:
        name = type(structure).__name__
        raise TypeError(f"{name}.matrix: expected an ndarray of shape {shape} and dtype {dtype}, got {W!r:.100}")
    return W


def _fit(structure: Structure, W: Array, **how: Any) -> Fit:
    """The tensors for a weight, as a structure of a user's own may give something else."""
    fit = structure.fit(W, **how)
    expected = [(tuple(shape), W.dtype) for _, shape in structure.tensors()]
    if not isinstance(fit, Fit) or [(np.shape(t), getattr(t, "dtype", None)) for t in fit.tensors] != expected:
        name, shapes = type(structure).__name__, [shape for shape, _ in expected]
        raise TypeError(f"{name}.fit: expected a Fit of tensors of shapes {shapes} and dtype {W.dtype}, got {fit!r:.100}")
    return fit


def factorable_weights(state: State) -> list[Array]:
    """The weights that may be factored.

    Raises
    ------
    numpy.linalg.LinAlgError
        One is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        weights = matrices(state)
    for index, W in enumerate(weights):
        if not np.isfinite(W).all():
            raise np.linalg.LinAlgError(f"layer {index}: expected a finite weight, got NaN or infinity in it")
    return weights


def usable_ranks(
    layout: Layout, ranks: Sequence[int | None], kind: type[Structure] = LowRank, *, force: bool = False
) -> list[int | None]:
    """Ranks as `truncate` takes them: None where nothing was asked for, or where that rank would save no multiplications.

    Parameters
    ----------
    layout : Layout
    ranks : sequence of int or None
        One for each hidden layer.
    kind : subclass of Structure
    force : bool
        Take ranks that save nothing, too.
    """

    def saves(i: int, rank: int) -> bool:
        layer = layout.layers[i]
        cost = weight_multiplications(kind(layer.n_out, layer.n_in, rank), first_layer=i == 0)
        return cost < weight_multiplications(layout.recomposed().structures[i], first_layer=i == 0)

    return [rank if rank and (force or saves(i, rank)) else None for i, rank in enumerate(ranks)]


def truncate(
    state: State,
    rule: RankRule,
    kind: type[Structure] = LowRank,
    *,
    svd: Literal["exact", "randomized"] = "exact",
    split: str = "balanced",
    force: bool = False,
    grams: Callable[[], Sequence[Array]] | None = None,
    directions: Mapping[int, Array] | None = None,
) -> tuple[State, tuple[Truncation, ...]]:
    """See `Network.truncate`; `grams` gives what `input_grams` does, to be overwritten."""
    layout, parameters = state
    weights = factorable_weights(state)
    wanted = ranks_by(rule, layout.factorable, weights)
    usable = usable_ranks(layout, wanted, kind, force=force)
    left = {} if grams is None else dict(enumerate(grams()))
    fitted: dict[int, tuple[Structure, Sequence[Array]]] = {}
    done = []
    for i, rank in enumerate(wanted):
        if not rank:  # nothing is asked for
            continue
        layer, W = layout.layers[i], weights[i]
        limit = break_even_rank(layer.n_in, layer.n_out, first_layer=i == 0)
        if usable[i] is None:
            logger.info("layer %d stays as it is: rank %d is above its break-even rank %d", i, rank, limit)
            done.append(Truncation(i, layer.rank, rank, limit, np.empty(0, parameters.dtype), 0.0))
            continue
        structure = kind(layer.n_out, layer.n_in, rank)
        known = None if directions is None or i not in directions else _leading(directions[i], i, W, rank)
        with of_layer(i):
            fit = _fit(structure, W, gram=left.pop(i, None), svd=svd, split=split, directions=known)
        fitted[i] = structure, fit.tensors
        done.append(Truncation(i, rank, rank, limit, fit.singular_values, fit.dropped_norm))
    structures = [fitted[i][0] if i in fitted else s for i, s in enumerate(layout.structures)]
    new = rebuilt(state, structures, {i: tensors for i, (_, tensors) in fitted.items()})
    return new, tuple(done)


def rebuilt(
    state: State, structures: Sequence[Structure], fitted: Mapping[int, Sequence[Array]]
) -> State:
    """Parameters for these structures: the given tensors of some layers, and of the others what they are or, where the
    structure changes, what their weight is as one of the new structure."""
    layout, parameters = state
    if tuple(structures) == layout.structures and not fitted:
        return state
    new = layout.with_structures(structures).checked()
    room("layout", new.size * parameters.itemsize)
    vector = aligned_zeros(new.size, parameters.dtype)
    for i, (before, after) in enumerate(zip(layout.structures, structures, strict=True)):
        old = [tensor.of(parameters) for tensor in layout.of(i)]
        if i in fitted:
            weights = list(fitted[i])
        elif before == after:
            weights = old[:-1]
        else:
            weights = list(_fit(after, _matrix(before, old[:-1])).tensors)
        for tensor, numbers in zip(new.of(i), [*weights, old[-1]], strict=True):
            tensor.of(vector)[...] = numbers
        del weights  # before the next layer's are there
    return new, vector


def input_grams(state: State, samples: Array, scale: float, weight: Array | None) -> list[Array]:
    """For each hidden layer, of its inputs A over some samples (in rows here), the Gram matrix AᵀA to a positive factor.

    Parameters
    ----------
    state : (Layout, ndarray)
    samples : ndarray (n_samples, n_inputs)
        Of any real type; at least one.
    scale : float
        What they are multiplied with.
    weight : ndarray (n_samples,), optional
        w of each sample: Aᵀ·diag(w)·A.

    Returns
    -------
    list of ndarray (n_in, n_in)

    Raises
    ------
    FloatingPointError
        The inputs of a later layer are not finite.
    """
    layout, parameters = state
    dtype, hidden = parameters.dtype, layout.factorable
    # Between 0 and 1, so that it keeps no sum from being finite.
    roots = None if weight is None else np.sqrt(weight / weight.max())[:, np.newaxis]
    weights = matrices(state)
    grams = [np.zeros((layer.n_in, layer.n_in), dtype) for layer in hidden]
    # Brings each layer's inputs to a size at which squares do not overflow.
    scales = [dtype.type(0)] * len(hidden)
    for start in range(0, len(samples), _SAMPLES_TOGETHER):
        A = samples[start : start + _SAMPLES_TOGETHER].astype(dtype, order="C")
        A *= dtype.type(scale)
        for index, gram in enumerate(grams):
            if index > 0:
                A = _forward(A, weights[index - 1], layout, index - 1, parameters)
            scales[index] = scales[index] or np.abs(A).max()
            with np.errstate(all="ignore"):  # what is not finite is seen below
                scaled = A / scales[index] if scales[index] > 0 else A
                if roots is not None:
                    scaled = scaled * roots[start : start + _SAMPLES_TOGETHER]
                gram += scaled.T @ scaled
            del scaled  # before the next layer's are there
    for index, gram in enumerate(grams):
        if not np.isfinite(gram).all():
            raise FloatingPointError(f"the inputs of layer {index} are too large for {dtype}")
    return grams


def _forward(A: Array, W: Array, layout: Layout, layer: int, parameters: Array) -> Array:
    f = layout.layers[layer].activation
    b = layout.of(layer)[-1].of(parameters)[np.newaxis]
    Z, out = (np.empty((len(A), len(W)), A.dtype) for _ in range(2))
    run_dense_forward(A, W, b, Z, out, f.code, f.parameter, False)
    return out


def _leading(given: Any, index: int, W: Array, rank: int) -> Array:
    """The first `rank` of given directions, their shape and type checked."""
    if not isinstance(given, np.ndarray):
        raise TypeError(f"directions[{index}]: expected an ndarray, got {type(given).__name__}")
    if given.ndim != 2 or len(given) != len(W) or given.shape[1] < rank or given.dtype != W.dtype:
        raise ValueError(
            f"directions[{index}]: expected an array of shape ({len(W)}, {rank} or more) and dtype {W.dtype}, "
            f"got shape {given.shape} and dtype {given.dtype}"
        )
    return given[:, :rank]
