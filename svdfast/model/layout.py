# SPDX-License-Identifier: BSD-3-Clause
"""Where each parameter lies in a network's one flat vector.

All weights come first, layer by layer (W, or W1 then W2), then all biases; nothing between. So penalties are for one
stretch of the vector, and gradients and moments of the same layout need no description of their own. No numbers stand here, only
places; the vector itself is Network's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svdfast.model.activations import Activation

__all__ = ["LayerSpec", "Layout"]


@dataclass(frozen=True)
class LayerSpec:
    """One layer's shape, rank (None: dense), activation, and the places of its first elements.

    A dense W (n_out, n_in) is at `W1`; factors are W1 (n_out, rank) and W2 (rank, n_in); b is (n_out,).
    """

    n_in: int
    n_out: int
    rank: int | None
    activation: Activation
    W1: int
    W2: int
    b: int


@dataclass(frozen=True)
class Layout:
    """The layers in order, the vector's length, and how many of its elements are weights."""

    layers: tuple[LayerSpec, ...]
    size: int
    n_weights: int

    @classmethod
    def build(
        cls, sizes: Sequence[int], ranks: Sequence[int | None], activations: Sequence[Activation]
    ) -> Layout:
        """Lays out a network of sizes[0] inputs and a layer for each further size."""
        shapes = list(zip(sizes[:-1], sizes[1:], ranks, activations, strict=True))
        place = 0
        weights = []
        for n_in, n_out, rank, _ in shapes:
            W1 = place
            W2 = W1 + n_out * (n_in if rank is None else rank)
            place = W2 + (0 if rank is None else rank * n_in)
            weights.append((W1, W2))
        n_weights = place
        layers = []
        for (n_in, n_out, rank, activation), (W1, W2) in zip(shapes, weights, strict=True):
            layers.append(LayerSpec(n_in, n_out, rank, activation, W1, W2, place))
            place += n_out
        return cls(tuple(layers), place, n_weights)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Inputs of the first layer, then outputs of each."""
        return (self.layers[0].n_in, *(layer.n_out for layer in self.layers))

    @property
    def ranks(self) -> tuple[int | None, ...]:
        """Rank of each layer; None where it is dense."""
        return tuple(layer.rank for layer in self.layers)

    def with_ranks(self, ranks: Sequence[int | None]) -> Layout:
        """The same layers with other ranks."""
        return Layout.build(self.sizes, ranks, [layer.activation for layer in self.layers])
