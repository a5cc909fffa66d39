# SPDX-License-Identifier: BSD-3-Clause
"""Outputs, loss, accuracy or R², and gradient of a network on data. The network does not change.

These are the bodies of `Network`'s methods of the same names, whose docstrings describe them.
Outputs are interpreted and scored in heads.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from svdfast._engine import Engine
from svdfast._process import in_use
from svdfast._process.checks import check_out, positive_number, room
from svdfast._process.runtime import resolve_precision, resolve_threads, single_threaded_blas
from svdfast.data.checks import Samples, with_steps
from svdfast.data.open import in_memory, open_data
from svdfast.data.rows import Reader
from svdfast.data.sparse import SparseInputs
from svdfast.data.spec import Spec
from svdfast.model import losses, truncation
from svdfast.model.heads import BITS, head_of, share_explained
from svdfast.model.layout import Layout
from svdfast.model.origin import Origin
from svdfast.model.products import threads

__all__ = ["Evaluation", "Evaluator", "decides", "spec_of", "whole"]

# Weight, mean loss and accuracy of a part of some data.
Part = tuple[float, float, float]


class _Network(Protocol):
    """The parts of a network that are used here."""

    uint8_scale: float

    @property
    def layout(self) -> Layout: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def state(self) -> tuple[Layout, NDArray[Any]]: ...
    @property
    def origin(self) -> Origin: ...


@dataclass(frozen=True)
class Evaluation:
    """Loss and accuracy of a network on data; accuracy is None where outputs are neither classes nor bits."""

    loss: float
    accuracy: float | None


def spec_of(net: _Network, loss: str | None = None) -> Spec:
    """The specification of data for a network, with targets for this loss.

    The default loss is the one that belongs to the network's output.

    Raises
    ------
    TypeError, ValueError
        There is no such loss, or it does not fit the output.
    """
    layout, dtype, origin = net.layout, net.dtype, net.origin
    *steps, n_out = layout.output_shape
    output = layout.layers[-1].activation
    targets = losses.resolve(loss, output)
    head = head_of(output)
    # A softmax network takes class numbers only with its own loss; a bit is a number for any loss.
    takes_labels = targets.classes or (head is BITS and n_out == 1)
    return Spec(
        layout.sizes[0], n_out, dtype, 1.0 if layout.n_tokens else net.uint8_scale, targets, dtype, shape=layout.input,
        steps=tuple(steps), n_tokens=layout.n_tokens,
        n_classes=head.n_values(n_out) if takes_labels else 0,
        classes=origin.classes if takes_labels else None, feature_names=origin.feature_names,
    )  # fmt: skip


class _Pass:
    """The forward pass through a network as it is, for blocks of any number of samples.

    Parameters
    ----------
    net : Network
    n_threads : int
    bfloat16, reproducible : bool
        See the engine.
    """

    def __init__(self, net: _Network, n_threads: int, bfloat16: bool, reproducible: bool = False):
        self.layout, self.parameters = net.state
        self.engine: Engine | None = None
        self.rows, self.by_entries = 0, False
        self.make = partial(Engine, gradients=False, n_threads=n_threads, bfloat16=bfloat16, reproducible=reproducible)

    def output_shape(self, data: Samples) -> tuple[int, ...]:
        """Shape of these samples' outputs. The layout is rewritten for their number of steps."""
        layout = self.layout.of_columns(data.inputs.n_columns)
        if layout is not self.layout:
            self.layout, self.engine = layout, None
        return data.n_samples, *layout.output_shape

    def bound(self, data: Samples) -> Engine:
        """An engine with these samples bound to it."""
        self.output_shape(data)
        by_entries = data.inputs.by_entries
        if self.engine is None or data.n_samples > self.rows or by_entries is not self.by_entries:
            self.rows, self.by_entries = data.n_samples, by_entries
            self.engine = self.make(self.layout, self.parameters, batch_size=max(self.rows, 1), by_entries=by_entries)
        data.bind(self.engine)
        return self.engine

    def outputs(self, data: Samples, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Outputs of these samples."""
        if out is None:
            out = np.empty(self.output_shape(data), self.parameters.dtype)
        self.bound(data).predict(out)
        return out


def predict(
    net: _Network, X: Any, out: NDArray[Any] | None, precision: str | None, n_threads: int | None, reproducible: bool
) -> NDArray[Any]:
    """See `Network.predict`."""
    bfloat16, threads = resolve_precision(precision, net.dtype), resolve_threads(n_threads)
    spec = with_steps(spec_of(net)._replace(targets=None, finite=False), X)
    data = open_data(X, None, None, spec)
    way = _Pass(net, threads, bfloat16, reproducible)
    shape, dtype = (data.n_samples, *spec.steps, spec.n_outputs), way.parameters.dtype
    if out is None:
        room("X", math.prod(shape) * dtype.itemsize)
        result = out = np.empty(shape, dtype)
    else:
        check_out("out", out, shape, dtype, direct=True)
        # Arrays that are still to be read must not be written to.
        read = [way.parameters, *([X] if isinstance(data, Reader) else data.arrays)]
        overlaps = any(isinstance(a, np.ndarray) and np.may_share_memory(a, out) for a in read)
        result = np.empty_like(out, subok=False) if overlaps else out
    start = 0
    with single_threaded_blas.held():
        for part in data.blocks():
            way.outputs(part, result[start : start + part.n_samples])
            start += part.n_samples
    if result is not out:
        out[...] = result
    return out


def _by_step(outputs: NDArray[Any], data: Samples) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Outputs, targets and weights, one row for each step of sequences."""
    targets, weights = data.targets, data.weights
    if outputs.ndim > 2:
        outputs, targets = outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1, *targets.shape[2:])
    return outputs, targets, None if weights is None else weights.ravel()


class Evaluator:
    """Loss and accuracy on the same data, repeatedly, even if the network's layout changes.

    Parameters
    ----------
    blocks : callable
        Returns the data, one Samples after the other.
    n_threads : int
    bfloat16, reproducible : bool
        See the engine.
    """

    def __init__(
        self,
        blocks: Callable[[], Iterable[Samples]],
        n_threads: int,
        bfloat16: bool = False,
        reproducible: bool = False,
    ):
        self.blocks, self.n_threads = blocks, n_threads
        self.bfloat16, self.reproducible = bfloat16, reproducible

    def __call__(self, net: _Network) -> Evaluation:
        return whole(self.parts(net, self.blocks()), decides=decides(net))

    def parts(self, net: _Network, blocks: Iterable[Samples]) -> Iterator[Part]:
        """Weight, mean loss and accuracy of each block; zeros for a block without weight."""
        way = _Pass(net, self.n_threads, self.bfloat16, self.reproducible)
        head = head_of(way.layout.layers[-1].activation)
        for data in blocks:
            shape, weights = way.output_shape(data), data.weights
            weight = math.prod(shape[:-1]) if weights is None else float(weights.sum(dtype=np.float64))
            if weight == 0:
                yield 0.0, 0.0, 0.0
                continue
            out = np.empty(shape, dtype=way.parameters.dtype)
            loss, right = way.bound(data).evaluate(data.n_samples, out), 0.0
            if head.decides:
                outputs, targets, weights = _by_step(out, data)
                right = float(np.average(head.right(outputs, targets), weights=weights))
            yield weight, loss, right


def decides(net: _Network) -> bool:
    """True if a network's outputs are decisions, which have an accuracy."""
    return head_of(net.layout.layers[-1].activation).decides


def whole(parts: Iterable[Part], *, decides: bool) -> Evaluation:
    """Combine the parts of some data, in their order.

    Raises
    ------
    ValueError
        No part has a weight.
    """
    loss = accuracy = total = 0.0
    for weight, of_part, right in parts:
        if weight == 0:
            continue
        # Running means. The mean of a single block is bit-identical to its own; infinity stays.
        total += weight
        share = weight / total
        loss = loss * (1 - share) + of_part * share
        accuracy = accuracy * (1 - share) + right * share
    if total == 0:
        raise ValueError("sample_weight: expected weights ≥ 0, not all 0")
    return Evaluation(loss, accuracy if decides else None)


@single_threaded_blas.held()
def evaluate(
    net: _Network, X: Any, y: Any, loss: str | None, sample_weight: Any,
    precision: str | None, n_threads: int | None, reproducible: bool = False,
) -> Evaluation:  # fmt: skip
    """See `Network.evaluate`."""
    bfloat16 = resolve_precision(precision, net.dtype)
    data = open_data(X, y, sample_weight, spec_of(net, loss))
    return Evaluator(data.blocks, resolve_threads(n_threads), bfloat16, reproducible)(net)


@single_threaded_blas.held()
def score(net: _Network, X: Any, y: Any, sample_weight: Any, precision: str | None) -> float:
    """See `Network.score`."""
    if head_of(net.layout.layers[-1].activation).decides:
        accuracy = evaluate(net, X, y, None, sample_weight, precision, None).accuracy
        assert accuracy is not None
        return accuracy
    bfloat16 = resolve_precision(precision, net.dtype)
    spec = spec_of(net)._replace(target_dtype=np.dtype(np.float64))
    data = open_data(X, y, sample_weight, spec)
    way = _Pass(net, resolve_threads(None), bfloat16)
    return share_explained(_by_step(way.outputs(part), part) for part in data.blocks())


@single_threaded_blas.held()
def loss_and_gradient(
    net: _Network, X: Any, y: Any, loss: str | None, sample_weight: Any, l1: float, l2: float,
    precision: str | None, n_threads: int | None, reproducible: bool,
) -> tuple[float, NDArray[Any]]:  # fmt: skip
    """See `Network.loss_and_gradient`."""
    l1 = positive_number("l1", l1, or_zero=True)
    l2 = positive_number("l2", l2, or_zero=True)
    layout, parameters = net.state
    data = in_memory(X, y, sample_weight, spec_of(net, loss))
    engine = Engine(
        layout.of_columns(data.inputs.n_columns),
        parameters,
        batch_size=data.n_samples,
        n_threads=resolve_threads(n_threads),
        bfloat16=resolve_precision(precision, net.dtype),
        reproducible=reproducible,
        by_entries=data.inputs.by_entries,
    )
    data.bind(engine)
    gradient = np.empty(layout.size, dtype=parameters.dtype)
    return engine.gradient(0, data.n_samples, gradient, l1, l2), gradient


def output_directions(
    net: _Network, X: Any, sample_weight: Any, ranks: Sequence[int | None], method: Literal["exact", "randomized"] = "exact",
    n_threads: int | None = None,
) -> dict[int, NDArray[Any]]:  # fmt: skip
    """`truncation.output_directions` of a network, for samples (n_samples, n_inputs) and weights.

    Both are checked here.
    """
    samples = in_memory(X, None, sample_weight, spec_of(net)._replace(targets=None))
    inputs = samples.inputs
    X_or_entries = inputs if isinstance(inputs, SparseInputs) and inputs.by_entries else inputs.dense()
    with in_use.reading(net), single_threaded_blas.held(), threads(n_threads):
        layout, parameters = net.state
        state = layout.of_columns(inputs.n_columns), parameters
        return truncation.output_directions(state, X_or_entries, inputs.scale, samples.weights, ranks, method)
