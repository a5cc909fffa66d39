# SPDX-License-Identifier: BSD-3-Clause
"""Truncation: converts a network's weights to structures of lower rank, and back.

The functions take a layout and its parameters and do not change them. Ranks are chosen in ranks.py,
matrices decomposed in svd.py, and structures fitted to weights in structures/.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast._engine import Engine, aligned_zeros
from svdfast._process.checks import of_layer, room
from svdfast._process.runtime import single_threaded_blas
from svdfast.cython_kernels import run_dense_forward
from svdfast.data.sparse import SparseInputs
from svdfast.model.activations import identity
from svdfast.model.counting import break_even_rank, weight_multiplications
from svdfast.model.inputs import layer_inputs
from svdfast.model.layout import Layout
from svdfast.model.products import each, largest, product, sum_of_squares
from svdfast.model.ranks import Fraction, RankRule, ranks_by, why_bottleneck, without_bottlenecks
from svdfast.model.structures import Dense, Fit, LowRank, Structure
from svdfast.model.svd import RIDGE, Outputs, exponent

__all__ = ["State", "Truncation", "factorable_weights", "output_directions", "rebuilt", "truncate", "usable_ranks"]

logger = logging.getLogger("svdfast")

Array: TypeAlias = NDArray[Any]
State: TypeAlias = tuple[Layout, Array]

_SAMPLES_TOGETHER = 4096  # samples whose activations are kept at a time
_ROWS = 256  # samples, out of these, that one thread computes at a time


@dataclass(frozen=True)
class Truncation:
    """The result of `Network.truncate` for a hidden layer.

    Attributes
    ----------
    layer : int
    rank : int or None
        The present l; None if the layer is dense.
    requested_rank : int
    break_even_rank : int
        The largest rank at which a training step of the factored layer needs fewer multiplications
        than a step of the dense layer.
    singular_values : ndarray
        The values kept; empty if the layer was left unchanged.
    dropped_norm : float
        ‖W − W1·W2‖_F: the root of the sum of squares of the singular values that were dropped.
    reason : str or None
        The reason for leaving the layer unchanged.
    """

    layer: int
    rank: int | None
    requested_rank: int
    break_even_rank: int
    singular_values: NDArray[Any]
    dropped_norm: float
    reason: str | None = None

    @property
    def skipped(self) -> bool:
        """True if factoring was requested but not done."""
        return self.reason is not None


def matrices(state: State) -> list[Array]:
    """The weights that may be factored, (n_out, n_in). They must not be written to."""
    layout, parameters = state
    return [
        _matrix(layer.structure, [tensor.of(parameters) for tensor in layout.weights(i)])
        for i, layer in enumerate(layout.factorable)
    ]


def _matrix(structure: Structure, tensors: Sequence[Array]) -> Array:
    """The weight, checked: a user's own structure may give something else."""
    W = structure.matrix(tensors)
    shape, dtype = (structure.n_out, structure.n_in), tensors[0].dtype
    if not isinstance(W, np.ndarray) or W.shape != shape or W.dtype != dtype:
        name = type(structure).__name__
        raise TypeError(f"{name}.matrix: expected an ndarray of shape {shape} and dtype {dtype}, got {W!r:.100}")
    return W


def _fit(structure: Structure, W: Array, **how: Any) -> Fit:
    """The tensors for a weight, checked: a user's own structure may give something else."""
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
    """The ranks that `truncate` uses.

    A rank is None if none was requested, or if the requested one would save no multiplications.

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
        weight = layout.placed[i]
        cost = weight_multiplications(kind(weight.n_out, weight.n_in, rank), first_layer=weight.first)
        return cost < weight_multiplications(Dense(weight.n_out, weight.n_in), first_layer=weight.first)

    return [rank if rank and (force or saves(i, rank)) else None for i, rank in enumerate(ranks)]


def truncate(
    state: State,
    rule: RankRule,
    kind: type[Structure] = LowRank,
    *,
    svd: Literal["exact", "randomized"] = "exact",
    split: str = "balanced",
    force: bool = False,
    directions: Mapping[int, Array] | None = None,
    look: Callable[[Sequence[int | None]], Mapping[int, Array]] | None = None,
) -> tuple[State, tuple[Truncation, ...]]:
    """See `Network.truncate`.

    `look` gives the result of `output_directions` for ranks. It is called for the layers without
    `directions`.
    """
    layout, parameters = state
    weights = factorable_weights(state)
    wanted = ranks_by(rule, layout.factorable, weights)
    through = without_bottlenecks(wanted, layout.factorable) if isinstance(rule, Fraction) and not force else wanted
    usable = usable_ranks(layout, through, kind, force=force)
    given = {} if directions is None else directions
    if look is not None:
        given = {**look([None if i in given else rank for i, rank in enumerate(usable)]), **given}
    fitted: dict[int, tuple[Structure, Sequence[Array]]] = {}
    done = []
    for i, rank in enumerate(wanted):
        if not rank:  # none was requested
            continue
        layer, W = layout.placed[i], weights[i]
        limit = break_even_rank(layer.n_in, layer.n_out, first_layer=layer.first)
        if usable[i] is None:
            if through[i] is None:
                reason = why_bottleneck(rank, layer)
            else:
                reason = f"rank {rank} would save no multiplications, the break-even rank is {limit} (force=True truncates it)"
            logger.info("layer %d stays as it is: %s", i, reason)
            done.append(Truncation(i, layer.rank, rank, limit, np.empty(0, parameters.dtype), 0.0, reason))
            continue
        structure = kind(layer.n_out, layer.n_in, rank)
        known = _leading(given[i], i, W, rank) if i in given else None
        with of_layer(i):
            fit = _fit(structure, W, directions=known, svd=svd, split=split)
        fitted[i] = structure, fit.tensors
        done.append(Truncation(i, rank, rank, limit, fit.singular_values, fit.dropped_norm))
    structures = [fitted[i][0] if i in fitted else s for i, s in enumerate(layout.structures)]
    new = rebuilt(state, structures, {i: tensors for i, (_, tensors) in fitted.items()})
    return new, tuple(done)


def rebuilt(
    state: State, structures: Sequence[Structure], fitted: Mapping[int, Sequence[Array]]
) -> State:
    """The layout and parameters for these structures.

    Layers in `fitted` take those tensors. Other layers keep their own, or, if their structure
    changes, convert their weight to the new one.
    """
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
        del weights  # before the next layer's are made
    return new, vector


def output_directions(
    state: State,
    samples: Array | SparseInputs,
    scale: float,
    weight: Array | None,
    ranks: Sequence[int | None],
    method: Literal["exact", "randomized"] = "exact",
) -> dict[int, Array]:
    """The leading directions of hidden layers' outputs over some samples.

    They are computed for each hidden layer with a rank. The samples pass forward once through the
    unchanged network.

    Parameters
    ----------
    state : (Layout, ndarray)
    samples : ndarray (n_samples, n_inputs) or SparseInputs
        At least one sample, of any real type. Sparse samples are never made dense.
    scale : float
        Factor that samples are multiplied with.
    weight : ndarray (n_samples,), optional
        Weight w of each sample: its outputs are multiplied with √w.
    ranks : sequence of int or None
        Number of directions for each hidden layer; None for no directions.
    method : {"exact", "randomized"}
        See `svdfast.model.svd.leading_directions`.

    Returns
    -------
    dict of int to ndarray (n_out, rank)

    Raises
    ------
    FloatingPointError
        The inputs of a later layer are not finite.
    numpy.linalg.LinAlgError
        A layer's outputs are not finite, or no method to decompose them converged.
    """
    layout, parameters = state
    dtype, weights = parameters.dtype, matrices(state)
    wanted = [i for i, rank in enumerate(ranks) if rank]
    n_samples = samples.n_samples if isinstance(samples, SparseInputs) else len(samples)
    if not layout.by_rows:
        return _directions_of_rows(state, samples, scale, weight, ranks, wanted, method)
    # Between 0 and 1, so that no sum overflows because of them.
    roots = None if weight is None else np.sqrt(weight / weight.max()).astype(dtype)[:, np.newaxis]
    dense = not isinstance(samples, SparseInputs)
    outputs = {i: Outputs(weights[i], ranks[i] or 1, n_samples, method, by_inputs=dense or i > 0) for i in wanted}
    squares = dict.fromkeys(wanted, 0.0)
    shifts: dict[int, int] = {}
    for start in range(0, n_samples, _SAMPLES_TOGETHER):
        rows = slice(start, start + _SAMPLES_TOGETHER)
        part = None
        if isinstance(samples, SparseInputs):
            part = samples.take(rows)
            A = part.values.astype(dtype)[:, np.newaxis]  # only the stored numbers
        else:
            A = np.asarray(samples[rows], dtype, order="C")
        if scale != 1:
            A = A * dtype.type(scale)
        added: list[tuple[int, Array]] = []
        for i in range(max(wanted, default=-1) + 1):
            peak = largest(A) if A.size else 0.0
            if not np.isfinite(peak):
                raise FloatingPointError(f"the inputs of layer {i} are too large for {dtype}")
            X, W = A, weights[i]
            Z: Array | None = None
            by_sample = roots
            if i == 0 and part is not None:
                Z, A = _first_layer(part, layout, parameters)
                by_sample = None if roots is None else np.repeat(roots[rows], np.diff(part.begins), axis=0)
            elif i < wanted[-1]:
                Z, A = _forward(X, W, layout, i, parameters)
            if i in outputs:
                # Scaled so that squares do not overflow, and by the samples' weights.
                shift = shifts.setdefault(i, exponent(peak))
                X = _counted(X, shift, by_sample, rows if by_sample is roots else slice(None))
                squares[i] += sum_of_squares(X)
                if not np.isfinite(squares[i]):
                    raise FloatingPointError(f"the inputs of layer {i} are too large for {dtype}, next to those of the first samples")
                if not outputs[i].by_inputs:
                    if Z is None:
                        X = product(X, W.T)
                    else:
                        Z -= layout.of(i)[-1].of(parameters)
                        X = _counted(Z, shift, roots, rows)
                added.append((i, X))
        # Inputs that are not finite have been reported before outputs that are not.
        for i, X in added:
            with of_layer(i):
                outputs[i].add(X)
    found = {}
    for i in wanted:
        ridge = RIDGE * squares[i] / weights[i].shape[1]
        with of_layer(i):
            found[i] = outputs.pop(i).directions(ridge if ridge > 0 else 1.0)
    return found


def _directions_of_rows(
    state: State, samples: Array | SparseInputs, scale: float, weight: Array | None, ranks: Sequence[int | None], wanted: Sequence[int],
    method: Literal["exact", "randomized"],
) -> dict[int, Array]:  # fmt: skip
    """The same for a network with layers of other kinds, each by some of its input rows."""
    weights, found = matrices(state), {}
    for i, (X, of_rows) in layer_inputs(state, samples, scale, weight, wanted).items():
        peak = largest(X)
        if not np.isfinite(peak):
            raise FloatingPointError(f"the inputs of layer {i} are too large for {X.dtype}")
        roots = None if of_rows is None else np.sqrt(of_rows / of_rows.max()).astype(X.dtype)[:, np.newaxis]
        X = _counted(X, exponent(peak), roots, slice(None))
        outputs = Outputs(weights[i], ranks[i] or 1, len(X), method)
        ridge = RIDGE * sum_of_squares(X) / weights[i].shape[1]
        with of_layer(i):
            outputs.add(X if outputs.by_inputs else product(X, weights[i].T))
            found[i] = outputs.directions(ridge if ridge > 0 else 1.0)
    return found


def _counted(A: Array, shift: int, roots: Array | None, rows: slice) -> Array:
    """Rows multiplied with 2⁻ˢ and the roots of their weights."""
    if shift:
        A = np.ldexp(A, -shift)
    return A if roots is None else A * roots[rows]


def _forward(A: Array, W: Array, layout: Layout, layer: int, parameters: Array) -> tuple[Array, Array]:
    """Z + b and f(Z + b)."""
    f = layout.layers[layer].activation
    b = layout.of(layer)[-1].of(parameters)[np.newaxis]
    Z, out = (np.empty((len(A), len(W)), A.dtype) for _ in range(2))

    def rows(start: int) -> None:
        part = slice(start, start + _ROWS)
        run_dense_forward(A[part], W, b, Z[part], out[part], f.code, f.parameter, False)

    each(rows, range(0, len(A), _ROWS))
    return Z, out


def _first_layer(part: SparseInputs, layout: Layout, parameters: Array) -> tuple[Array, Array]:
    """Z + b and f(Z + b) of the first layer for sparse samples, by an engine."""
    found = []
    for activation in (identity(), layout.layers[0].activation):
        first = replace(layout, layers=(replace(layout.layers[0], activation=activation),))  # type: ignore[arg-type]
        biases = parameters[layout.n_weights :][: first.size - first.n_weights]
        own = np.concatenate([parameters[: first.n_weights], biases])
        engine = Engine(first, own, batch_size=part.n_samples, n_threads=1, gradients=False, by_entries=True)
        engine.bind(part)
        found.append(np.empty((part.n_samples, *first.output_shape), parameters.dtype))
        with single_threaded_blas.held():
            engine.predict(found[-1])
    return found[0], found[1]


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
