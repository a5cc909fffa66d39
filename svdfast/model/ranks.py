# SPDX-License-Identifier: BSD-3-Clause
"""Which rank each hidden weight is cut to: a rule made from what a caller asked for, applied to the weights as they are. ::

    α                      l = max(1, ⌊α·min(m, n)⌋), the report's section 3.3.5
    a rank for each layer  as given
    "energy:E"             the least l whose singular values hold a share E of the weight's energy, Σᵢ σᵢ² over i ≤ l
    "budget:B"             the singular directions that are worth most, σᵢ² for the multiplications that they cost, over all layers
                           together, until a share B of the dense hidden layers' multiplications is spent

Not here: the choice by measuring ("auto", in auto.py), and the cut itself (svd.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import count, listed, of_layer
from svdfast.model.counting import weight_multiplications
from svdfast.model.layers import Linear
from svdfast.model.layout import Layout
from svdfast.model.structures import Dense, LowRank
from svdfast.model.svd import resolve_rank, singular_values

__all__ = ["Budget", "NARROW", "Energy", "Fraction", "Given", "RankRule", "resolve_rule"]

Ranks: TypeAlias = list[int | None]

# A layer of so few inputs is best left dense: a share of them as its rank costs accuracy and saves little.
NARROW = 100


class RankRule(Protocol):
    """What gives a rank for each hidden weight; None leaves it as it is."""

    def __call__(self, layers: Sequence[Linear], weights: Sequence[NDArray[Any]]) -> Ranks: ...


@dataclass(frozen=True)
class Fraction:
    """α of the smaller side."""

    rank_fraction: float

    def __call__(self, layers: Sequence[Linear], weights: Sequence[NDArray[Any]]) -> Ranks:
        return [resolve_rank(self.rank_fraction, layer.n_in, layer.n_out) for layer in layers]


@dataclass(frozen=True)
class Given:
    """As given, whatever the weights."""

    ranks: tuple[int | None, ...]

    def __call__(self, layers: Sequence[Linear], weights: Sequence[NDArray[Any]]) -> Ranks:
        return list(self.ranks)


@dataclass(frozen=True)
class Energy:
    """A share of each weight's ‖W‖_F²."""

    share: float

    def __call__(self, layers: Sequence[Linear], weights: Sequence[NDArray[Any]]) -> Ranks:
        return [least_rank(s, self.share) for s in _squares(weights)]


def least_rank(squares: NDArray[Any], share: float) -> int:
    """The least rank that keeps a share of the sum of squared singular values, which come largest first."""
    energy = np.cumsum(squares)
    # Rounding must not ask for one more than there are.
    rank = int(np.searchsorted(energy, share * energy[-1] * (1 - 1e-9))) + 1
    return min(rank, len(energy))


@dataclass(frozen=True)
class Budget:
    """A share of the dense hidden layers' multiplications in a training step, spent where σ² for a multiplication is largest."""

    share: float

    def __call__(self, layers: Sequence[Linear], weights: Sequence[NDArray[Any]]) -> Ranks:
        ones = [LowRank(layer.n_out, layer.n_in, 1) for layer in layers]
        costs = [weight_multiplications(s, first_layer=i == 0) for i, s in enumerate(ones)]
        full = [Dense(layer.n_out, layer.n_in) for layer in layers]
        whole = sum(weight_multiplications(s, first_layer=i == 0) for i, s in enumerate(full))
        return list(bought_ranks(_squares(weights), costs, self.share * whole))


def bought_ranks(squares: Sequence[NDArray[Any]], costs: Sequence[int], budget: float) -> list[int]:
    """For each layer the rank that a budget buys, spent on the directions whose squared singular value for their cost is largest."""
    gains = np.concatenate([s / cost for s, cost in zip(squares, costs, strict=True)])
    owners = np.concatenate([np.full(len(s), i) for i, s in enumerate(squares)])
    # Each layer keeps one, so that something passes through it.
    ranks = [1] * len(costs)
    spent = sum(costs)
    taken = set()
    for place in np.argsort(-gains, kind="stable"):
        owner = int(owners[place])
        if owner not in taken:
            taken.add(owner)  # its largest, which it has
            continue
        if spent + costs[owner] > budget:
            break
        spent += costs[owner]
        ranks[owner] += 1
    return ranks


def _squares(weights: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Of each weight the squared singular values, largest first, in float64."""
    squares = []
    for index, W in enumerate(weights):
        with of_layer(index):
            squares.append(np.square(singular_values(W), dtype=np.float64))
    return squares


def _share(text: str, word: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ValueError(f"ranks: expected a number above 0 and at most 1 after {word!r}, got {text!r}")
    return share


def named_rule(ranks: str) -> Energy | Budget:
    """The rule "energy:E" or "budget:B".

    Raises
    ------
    ValueError
        A share is out of range; the rule is unknown.
    """
    word, _, text = ranks.partition(":")
    if word == "energy":
        return Energy(_share(text, "energy:"))
    if word == "budget":
        return Budget(_share(text, "budget:"))
    raise ValueError(f"ranks: expected \"energy:E\" or \"budget:B\" or a rank for each hidden layer, got {ranks!r}")


def resolve_rule(
    layout: Layout, rank_fraction: float | None, ranks: Sequence[int | None] | str | None
) -> RankRule:
    """The rule for what was asked for, checked against the layout as far as that can be.

    Raises
    ------
    TypeError, ValueError
        Both or neither are given; a rank or a share is out of range; a rule is unknown.
    """
    hidden = layout.layers[:-1]
    if (rank_fraction is None) == (ranks is None):
        raise ValueError("rank_fraction, ranks: expected one of the two")
    if ranks is None:
        assert rank_fraction is not None
        for layer in hidden:
            resolve_rank(rank_fraction, layer.n_in, layer.n_out)
        if not hidden:
            resolve_rank(rank_fraction, 1, 1)
        return Fraction(float(rank_fraction))
    if isinstance(ranks, str):
        return named_rule(ranks)
    given = listed("ranks", ranks, "integers")
    if len(given) != len(hidden):
        raise ValueError(
            f"ranks: expected {len(hidden)} ranks, one for each hidden layer, got {len(given)}"
        )
    return Given(
        tuple(
            None if rank is None
            else count(f"ranks[{i}]", rank, maximum=min(layer.n_in, layer.n_out))
            for i, (rank, layer) in enumerate(zip(given, hidden, strict=True))
        )
    )  # fmt: skip
