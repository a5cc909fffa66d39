# SPDX-License-Identifier: BSD-3-Clause
"""Layer: a user's view of one layer of a network. The library's own layers are in layers/."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from svdfast._process import in_use
from svdfast._process.runtime import single_threaded_blas
from svdfast.model.activations import Activation
from svdfast.model.layers import WeightLayer
from svdfast.model.layout import Layout
from svdfast.model.structures import Structure

__all__ = ["Layer"]


class Stateful(Protocol):
    """A network: a layout, and the parameters laid out by it."""

    @property
    def layout(self) -> Layout: ...
    @property
    def parameters(self) -> NDArray[Any]: ...
    @property
    def state(self) -> tuple[Layout, NDArray[Any]]: ...


class Layer:
    """A layer of a network, as views into its parameters: writing to them changes the network.

    Its tensors are attributes. A dense layer has `W` and `b`; a factored layer has `W1`, `W2` and
    `b`, with W ≈ W1·W2. A view taken before `truncate` or `recompose` shows the former parameters;
    take it again from the layer.

    Attributes
    ----------
    n_in, n_out : int
    structure : Structure
        Form of the weight.
    rank : int or None
        l, or None if the layer is dense.
    activation : Activation
    W : ndarray (n_out, n_in)
    W1 : ndarray (n_out, rank)
    W2 : ndarray (rank, n_in)
    b : ndarray (n_out,)
    """

    def __init__(self, network: Stateful, index: int):
        self._network = network
        self._index = index

    @property
    def _spec(self) -> WeightLayer:
        return self._network.layout.layers[self._index]

    @property
    def n_in(self) -> int:
        return self._spec.n_in

    @property
    def n_out(self) -> int:
        return self._spec.n_out

    @property
    def structure(self) -> Structure:
        return self._spec.structure

    @property
    def rank(self) -> int | None:
        return self._spec.rank

    @property
    def activation(self) -> Activation:
        return self._spec.activation

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """Its tensors by name, those of the weight first."""
        layout, parameters = self._network.state
        return {t.name.rpartition(".")[2]: t.of(parameters) for t in layout.of(self._index)}

    @property
    def weight_tensors(self) -> list[NDArray[Any]]:
        """The tensors of its weight."""
        layout, parameters = self._network.state
        return [tensor.of(parameters) for tensor in layout.weights(self._index)]

    @property
    def products(self) -> dict[str, NDArray[Any]]:
        """The tensors that multiply its inputs, by name, in order: W2, then W1 of two factors."""
        layout, parameters = self._network.state
        made = [operation.tensor for operation in layout.program.operations]
        own = [t for t in made if t is not None and t.decays and t.layer == self._index]
        return {t.name.rpartition(".")[2]: t.of(parameters) for t in own}

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name.startswith("_"):  # as of a layer that is being unpickled
            raise AttributeError(name)
        tensors = self.tensors
        if name not in tensors:
            raise AttributeError(f"layer {self._index} ({self.structure}) has {', '.join(tensors)}, not {name}")
        return tensors[name]

    def weight(self) -> NDArray[Any]:
        """A copy of W (n_out, n_in); for a factored layer the product W1·W2."""
        with in_use.reading(self._network), single_threaded_blas.held():
            W = self.structure.matrix(self.weight_tensors)
            return W.copy() if np.may_share_memory(W, self._network.parameters) else W

    def __repr__(self) -> str:
        return f"<Layer {self.n_in} -> {self.n_out}, {self._spec.name}, {self.structure}>"
