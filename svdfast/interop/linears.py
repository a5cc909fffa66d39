# SPDX-License-Identifier: BSD-3-Clause
"""Layers with the weights of another library's model, and the network that they make.

Elsewhere: how they are found (torch_reading.py, sklearn_networks.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._engine import aligned_zeros
from svdfast._process.checks import MAX_SIZE, count
from svdfast.model import activations
from svdfast.model.activations import Activation
from svdfast.model.layers import Linear as LinearLayer
from svdfast.model.layers import Scan, Step, WeightLayer
from svdfast.model.layout import Layout
from svdfast.model.network import Network
from svdfast.model.structures import of_rank


@dataclass(frozen=True)
class Affine:
    """x·scale + shift; scale and shift are float64, one number for each input or one for all.

    A network has no such layer: it is folded into the Linear before it or after it.
    """

    place: str
    scale: NDArray[np.float64] | float = 1.0
    shift: NDArray[np.float64] | float = 0.0
    dtype: str | None = None  # the dtype in the model; None: that of the Linear

    @property
    def n(self) -> int | None:
        """The number of inputs; None if it takes any number."""
        return next((np.size(x) for x in (self.scale, self.shift) if np.ndim(x)), None)

    def then(self, after: Affine) -> Affine:
        """This one and then `after`."""
        after.check(self.place, self.n, self.dtype)
        scale, shift = self.scale * after.scale, self.shift * after.scale + after.shift
        return Affine(after.place, scale, shift, self.dtype or after.dtype)

    def check(self, place: str, n: int | None, dtype: str | None) -> None:
        """Raises ValueError if it does not fit its neighbour at `place`."""
        for expected, got, what in ((n, self.n, " features"), (dtype, self.dtype, "")):
            if None not in (expected, got) and expected != got:
                raise ValueError(
                    f"{self.place}: expected {expected}{what}, as in {place}, got {got}"
                )


@dataclass
class Linear:
    """X·Wᵀ + b. `place` is its place in the model."""

    place: str
    factors: tuple[NDArray[Any], ...]  # W, or W1 and W2 of W = W1·W2
    b: NDArray[Any] | None
    activation: Activation | None = None
    steps: tuple[Step, ...] = ()
    scan: Scan | None = None  # if it is the recurrent part of a recurrent layer

    def then(self, affine: Affine) -> Linear:
        """The Linear that computes this one and then `affine`."""
        affine.check(self.place, self.n_out, str(self.dtype))
        left, *others = self.factors
        with np.errstate(over="ignore", invalid="ignore"):
            b = np.broadcast_to(affine.shift, self.n_out)
            if self.b is not None:
                b = b + self.b.astype(np.float64) * affine.scale
            left = (left.T.astype(np.float64) * affine.scale).T
            return self._with(affine, (left, *others), b)

    def after(self, affine: Affine) -> Linear:
        """The Linear that computes `affine` and then this one."""
        affine.check(self.place, self.n_in, str(self.dtype))
        *others, right = self.factors
        with np.errstate(over="ignore", invalid="ignore"):
            b = np.broadcast_to(affine.shift, self.n_in)
            for W in reversed(self.factors):
                b = W.astype(np.float64) @ b
            if self.b is not None:
                b = b + self.b
            right = right.astype(np.float64) * affine.scale
            return self._with(affine, (*others, right), b)

    def _with(
        self, affine: Affine, factors: tuple[NDArray[Any], ...], b: NDArray[np.float64]
    ) -> Linear:
        """The Linear with these numbers, in its dtype.

        A bias of zeros stays None, so that a pair of factors stays a pair.
        """
        rounded = tuple(W.astype(self.dtype) for W in factors)
        bias = b.astype(self.dtype) if self.b is not None or b.any() else None
        if not all(np.isfinite(x).all() for x in (*rounded, bias) if x is not None):
            raise ValueError(
                f"{affine.place}: expected numbers that are finite in {self.dtype} when folded into {self.place}"
            )
        return replace(self, factors=rounded, b=bias)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.factors[0].dtype

    @property
    def n_in(self) -> int:
        return int(self.factors[-1].shape[1])

    @property
    def n_out(self) -> int:
        return len(self.factors[0])


def network_of(layers: list[Linear], uint8_scale: float, shape: tuple[int | None, ...] = ()) -> Network:
    """A network of these layers. An activation of None is the identity, a bias of None is zero.

    `shape` is that of a sample. Without it, each layer's inputs are the outputs of the one before.
    """
    dtype = layers[0].dtype
    sizes = [count(f"{layers[0].place}: inputs", layers[0].n_in, maximum=MAX_SIZE)]
    for layer in layers:
        if not shape and layer.n_in != sizes[-1]:
            raise ValueError(
                f"{layer.place}: expected {sizes[-1]} inputs, as many as come from before it, got {layer.n_in}"
            )
        sizes.append(count(f"{layer.place}: outputs", layer.n_out, maximum=MAX_SIZE))
        for array in (*layer.factors, layer.b):
            if array is not None and array.dtype != dtype:
                raise ValueError(
                    f"{layer.place}: expected {dtype}, as in the first layer, got {array.dtype}"
                )
    layout = Layout(tuple(_described(layer) for layer in layers), shape)
    if layout.size > MAX_SIZE:
        raise ValueError(f"expected at most {MAX_SIZE} parameters, got {layout.size}")
    net = Network.of(layout.checked(), aligned_zeros(layout.size, dtype), uint8_scale)
    for layer, to in zip(layers, net.layers, strict=True):
        for tensor, numbers in zip(to.weight_tensors, layer.factors, strict=True):
            tensor[...] = numbers
        if layer.b is not None:
            to.b[...] = layer.b
    return net


def _described(layer: Linear) -> WeightLayer:
    structure = of_rank(layer.n_out, layer.n_in, next((len(W2) for W2 in layer.factors[1:]), None))
    if layer.scan is not None:
        return replace(layer.scan, structure=structure)
    return LinearLayer(structure, layer.activation or activations.identity(), layer.steps)
