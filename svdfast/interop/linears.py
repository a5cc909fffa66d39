# SPDX-License-Identifier: BSD-3-Clause
"""Linear layers found in another library's model, and the network that they make.

Not here: how they are found (torch_networks.py, sklearn_networks.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from svdfast._engine import aligned_zeros
from svdfast._process.checks import MAX_SIZE, count
from svdfast.model import activations
from svdfast.model.activations import Activation
from svdfast.model.layout import Layout
from svdfast.model.network import Network


@dataclass
class Linear:
    """X·Wᵀ + b; `place` says where it was found."""

    place: str
    factors: tuple[NDArray[Any], ...]  # W, or W1 and W2 of W = W1·W2
    b: NDArray[Any] | None
    activation: Activation | None = None

    @property
    def n_in(self) -> int:
        return int(self.factors[-1].shape[1])

    @property
    def n_out(self) -> int:
        return len(self.factors[0])


def network_of(layers: list[Linear], uint8_scale: float) -> Network:
    """A network of these layers; an activation that is None is the identity, a bias that is None is zero."""
    dtype = layers[0].factors[0].dtype
    sizes = [count(f"{layers[0].place}: inputs", layers[0].n_in, maximum=MAX_SIZE)]
    for layer in layers:
        if layer.n_in != sizes[-1]:
            raise ValueError(
                f"{layer.place}: expected {sizes[-1]} inputs, as many as come from before it, got {layer.n_in}"
            )
        sizes.append(count(f"{layer.place}: outputs", layer.n_out, maximum=MAX_SIZE))
        for array in (*layer.factors, layer.b):
            if array is not None and array.dtype != dtype:
                raise ValueError(
                    f"{layer.place}: expected {dtype}, as in the first layer, got {array.dtype}"
                )
    layout = Layout.dense(sizes, [layer.activation or activations.identity() for layer in layers])
    layout = layout.with_ranks(next((len(W2) for W2 in layer.factors[1:]), None) for layer in layers)
    if layout.size > MAX_SIZE:
        raise ValueError(f"expected at most {MAX_SIZE} parameters, got {layout.size}")
    net = Network.of(layout, aligned_zeros(layout.size, dtype), uint8_scale)
    for layer, to in zip(layers, net.layers, strict=True):
        for tensor, numbers in zip(to.weight_tensors, layer.factors, strict=True):
            tensor[...] = numbers
        if layer.b is not None:
            to.b[...] = layer.b
    return net
