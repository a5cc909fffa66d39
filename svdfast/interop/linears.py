# SPDX-License-Identifier: BSD-3-Clause
"""Linear layers found in another library's model, and the network that they make.

Not here: how they are found (torch_networks.py, sklearn_networks.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from svdfast._engine import aligned_zeros
from svdfast._process.checks import count
from svdfast.model import activations
from svdfast.model.activations import Activation
from svdfast.model.layout import Layout
from svdfast.model.network import Network

_INT_MAX = 2**31 - 1


@dataclass
class Linear:
    """X·Wᵀ + b, W = W1·W2 where there is a W2; `place` says where it was found."""

    place: str
    W1: NDArray[Any]
    W2: NDArray[Any] | None
    b: NDArray[Any] | None
    activation: Activation | None = None

    @property
    def n_in(self) -> int:
        return int((self.W1 if self.W2 is None else self.W2).shape[1])

    @property
    def n_out(self) -> int:
        return len(self.W1)

    @property
    def rank(self) -> int | None:
        return None if self.W2 is None else len(self.W2)


def network_of(layers: list[Linear], uint8_scale: float) -> Network:
    """A network of these layers; an activation that is None is the identity, a bias that is None is zero."""
    dtype = layers[0].W1.dtype
    sizes = [count(f"{layers[0].place}: inputs", layers[0].n_in, maximum=_INT_MAX)]
    for layer in layers:
        if layer.n_in != sizes[-1]:
            raise ValueError(
                f"{layer.place}: expected {sizes[-1]} inputs, as many as come from before it, got {layer.n_in}"
            )
        sizes.append(count(f"{layer.place}: outputs", layer.n_out, maximum=_INT_MAX))
        for array in (layer.W1, layer.W2, layer.b):
            if array is not None and array.dtype != dtype:
                raise ValueError(
                    f"{layer.place}: expected {dtype}, as in the first layer, got {array.dtype}"
                )
    functions = [layer.activation or activations.identity() for layer in layers]
    layout = Layout.build(sizes, [layer.rank for layer in layers], functions)
    if layout.size > _INT_MAX:
        raise ValueError(f"expected at most {_INT_MAX} parameters, got {layout.size}")
    net = Network.__new__(Network)
    net.set_state(layout, aligned_zeros(layout.size, dtype))
    net.uint8_scale = uint8_scale
    for layer, to in zip(layers, net.layers, strict=True):
        if layer.W2 is None:
            to.W[...] = layer.W1
        else:
            to.W1[...], to.W2[...] = layer.W1, layer.W2
        if layer.b is not None:
            to.b[...] = layer.b
    return net
