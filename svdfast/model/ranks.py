# SPDX-License-Identifier: BSD-3-Clause
"""Rank rules: they choose the rank that each hidden weight is truncated to.

A rule is made from a caller's argument and applied to the present weights. ::

    α                      l = max(1, ⌊α·min(m, n)⌋), section 3.3.5 of the paper
    a rank for each layer  as given
    "energy:E"             the least l whose singular values hold a share E of the weight's
                           energy, Σᵢ σᵢ² over i ≤ l
    "budget:B"             the singular directions that are worth most, σᵢ² for each
                           multiplication that they cost, over all layers together, until
                           a share B of the dense hidden layers' multiplications is spent
    a rule                 any callable of the form of `RankRule`

A new rule with a name takes only a class in `NAMED`. The choice by measuring ("auto") is in
auto.py, truncation itself in svd.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import count, fraction, listed, of_layer
from svdfast.model.counting import weight_multiplications
from svdfast.model.layout import Layout, Weight
from svdfast.model.structures import Dense, LowRank
from svdfast.model.svd import resolve_rank, singular_values

__all__ = ["Budget", "Energy", "Fraction", "Given", "RankRule"]

Ranks: TypeAlias = list[int | None]

# For a layer of at most so many inputs, a rank that is a share of them is a bottleneck: it costs
# accuracy and saves little.
NARROW = 100


class RankRule(Protocol):
    """Gives a rank for each hidden weight; None leaves the weight as it is.

    A rule is called with the hidden layers, which have `n_in` and `n_out`, and their weights
    (n_out, n_in). The weight of a factored layer is the product of its factors.

    Examples
    --------
    >>> import svdfast as sf
    >>> def a_third(layers, weights):
    ...     return [min(layer.n_in, layer.n_out) // 3 for layer in layers]
    >>> net = sf.Network([784, 300, 100, 10], seed=0)
    >>> [t.rank for t in net.truncate(ranks=a_third)]
    [100, 33]
    """

    def __call__(self, layers: Sequence[Weight], weights: Sequence[NDArray[Any]]) -> Sequence[int | None]: ...


@dataclass(frozen=True)
class Fraction:
    """A share α of the smaller side.

    Examples
    --------
    >>> import svdfast as sf
    >>> net = sf.Network([784, 300, 100, 10], seed=0)
    >>> [t.rank for t in net.truncate(ranks=sf.ranks.Fraction(1 / 4))]
    [75, 25]
    """

    rank_fraction: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank_fraction", fraction("rank_fraction", self.rank_fraction, above_zero=True))

    def __call__(self, layers: Sequence[Weight], weights: Sequence[NDArray[Any]]) -> Ranks:
        return [resolve_rank(self.rank_fraction, layer.n_in, layer.n_out) for layer in layers]


@dataclass(frozen=True)
class Given:
    """The given ranks, for any weights.

    Examples
    --------
    >>> import svdfast as sf
    >>> net = sf.Network([784, 300, 100, 10], seed=0)
    >>> [t.rank for t in net.truncate(ranks=sf.ranks.Given([32, None]))]
    [32]
    """

    ranks: tuple[int | None, ...]

    def __post_init__(self) -> None:
        ranks = listed("ranks", self.ranks, "integers")
        checked = tuple(None if rank is None else count(f"ranks[{i}]", rank) for i, rank in enumerate(ranks))
        object.__setattr__(self, "ranks", checked)

    def __call__(self, layers: Sequence[Weight], weights: Sequence[NDArray[Any]]) -> Ranks:
        return list(self.ranks)


@dataclass(frozen=True)
class OfSpectra:
    """A rule that needs only the weights' singular values, and a share above 0 and at most 1."""

    share: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", fraction("share", self.share, above_zero=True))

    def __call__(self, layers: Sequence[Weight], weights: Sequence[NDArray[Any]]) -> Ranks:
        ones = [LowRank(layer.n_out, layer.n_in, 1) for layer in layers]
        costs = [w.rows * weight_multiplications(s, first_layer=w.first) for w, s in zip(layers, ones, strict=True)]
        full = [Dense(layer.n_out, layer.n_in) for layer in layers]
        dense = sum(w.rows * weight_multiplications(s, first_layer=w.first) for w, s in zip(layers, full, strict=True))
        squares = []
        for index, W in enumerate(weights):
            with of_layer(index):
                squares.append(np.square(singular_values(W), dtype=np.float64))
        return list(self.of_squares(squares, costs, dense))

    def of_squares(self, squares: Sequence[NDArray[Any]], costs: Sequence[int], dense: int) -> list[int]:
        """The ranks, from each weight's squared singular values, largest first, in float64.

        `costs` are the multiplications that one rank of each weight takes, `dense` those of all
        dense weights together.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Energy(OfSpectra):
    """A share of each weight's ‖W‖_F².

    Examples
    --------
    >>> import svdfast as sf
    >>> net = sf.Network([784, 300, 100, 10], seed=0)
    >>> net.layers[0].W[50:] = 0
    >>> net.truncate(ranks=sf.ranks.Energy(1.0))[0].rank
    50
    """

    def of_squares(self, squares: Sequence[NDArray[Any]], costs: Sequence[int], dense: int) -> list[int]:
        """The least rank of each weight that has the share."""
        ranks = []
        for of_weight in squares:
            energy = np.cumsum(of_weight)
            # Rounding must not request one value more than there are.
            rank = int(np.searchsorted(energy, self.share * energy[-1] * (1 - 1e-9))) + 1
            ranks.append(min(rank, len(energy)))
        return ranks


@dataclass(frozen=True)
class Budget(OfSpectra):
    """A share of the dense hidden layers' multiplications in a training step.

    It is spent on the directions with the largest σ² per multiplication.

    Examples
    --------
    >>> import svdfast as sf
    >>> net = sf.Network([784, 300, 100], seed=0)
    >>> dense = sf.count_multiplications(net).layers[0].multiplications
    >>> _ = net.truncate(ranks=sf.ranks.Budget(0.5))
    >>> sf.count_multiplications(net).layers[0].multiplications <= dense / 2
    True
    """

    def of_squares(self, squares: Sequence[NDArray[Any]], costs: Sequence[int], dense: int) -> list[int]:
        """The ranks of the directions with the largest squared singular value for their cost."""
        if not squares:
            return []
        gains = np.concatenate([s / cost for s, cost in zip(squares, costs, strict=True)])
        owners = np.concatenate([np.full(len(s), i) for i, s in enumerate(squares)])
        # Each layer keeps one direction, so that something passes through it.
        ranks = [1] * len(costs)
        spent = sum(costs)
        taken = set()
        for place in np.argsort(-gains, kind="stable"):
            owner = int(owners[place])
            if owner not in taken:
                taken.add(owner)  # its largest, which it has already
                continue
            if spent + costs[owner] > self.share * dense:
                break
            spent += costs[owner]
            ranks[owner] += 1
        return ranks


# The rules of the form "word:share".
NAMED: dict[str, type[OfSpectra]] = {"energy": Energy, "budget": Budget}


def named_rule(ranks: str) -> OfSpectra:
    """The rule "energy:E" or "budget:B".

    Raises
    ------
    ValueError
        A share is out of range; the rule is unknown.
    """
    word, _, text = ranks.partition(":")
    if word not in NAMED:
        known = " or ".join(f'"{name}:{name[0].upper()}"' for name in NAMED)
        raise ValueError(f"ranks: expected {known} or a rank for each hidden layer, got {ranks!r}")
    try:
        return NAMED[word](float(text))
    except ValueError:
        raise ValueError(f"ranks: expected a number above 0 and at most 1 after {word + ':'!r}, got {text!r}") from None


def rule_of(ranks: Sequence[int | None] | str | RankRule) -> RankRule:
    """The rule for an argument `ranks`, checked as far as possible without a network.

    Raises
    ------
    TypeError, ValueError
        A rank or a share is out of range; a rule is unknown.
    """
    if callable(ranks) and not isinstance(ranks, type):
        return ranks
    return named_rule(ranks) if isinstance(ranks, str) else Given(ranks)  # type: ignore[arg-type]


def resolve_rule(
    layout: Layout, rank_fraction: float | None, ranks: Sequence[int | None] | str | RankRule | None
) -> RankRule:
    """The rule for a caller's arguments, checked against the layout as far as possible.

    Raises
    ------
    TypeError, ValueError
        Both or neither are given; a rank or a share is out of range; a rule is unknown.
    """
    if (rank_fraction is None) == (ranks is None):
        raise ValueError(f"rank_fraction, ranks: expected one of the two, got {'neither' if ranks is None else 'both'}")
    rule = Fraction(rank_fraction) if ranks is None else rule_of(ranks)  # type: ignore[arg-type]
    check_fit(rule, layout)
    return rule


def check_fit(rule: RankRule, layout: Layout) -> None:
    """Raises an error if a rule's given ranks do not fit these layers."""
    if isinstance(rule, Given):
        ranks_by(rule, layout.factorable, ())


def ranks_by(rule: RankRule, layers: Sequence[Weight], weights: Sequence[NDArray[Any]]) -> Ranks:
    """The ranks that a rule gives for these hidden layers. It may be a user's own rule.

    Raises
    ------
    TypeError, ValueError
        The rule gives something other than None or a rank from 1 to the smaller side for each.
    """
    by = "" if isinstance(rule, Given) else f" by {getattr(rule, '__name__', type(rule).__name__)}"
    return _checked(by, rule(layers, weights), layers)


def _checked(by: str, ranks: Any, layers: Sequence[Weight]) -> Ranks:
    given = listed(f"ranks{by}", ranks, "integers")
    if len(given) != len(layers):
        raise ValueError(f"ranks{by}: expected {len(layers)} ranks, one for each hidden layer, got {len(given)}")
    return [
        None if rank is None else count(f"ranks[{i}]{by}", rank, maximum=min(layer.n_in, layer.n_out))
        for i, (rank, layer) in enumerate(zip(given, layers, strict=True))
    ]


def without_bottlenecks(ranks: Ranks, layers: Sequence[Weight]) -> Ranks:
    """The ranks, with None in place of those that would be bottlenecks.

    A bottleneck is a rank below a layer's number of inputs, if that number is small.
    """
    return [None if rank and rank < a.n_in <= NARROW else rank for rank, a in zip(ranks, layers, strict=True)]


def why_bottleneck(rank: int, layer: Weight) -> str:
    """The reason for None from `without_bottlenecks`, in words."""
    return f"a rank of {rank} would be a bottleneck for its {layer.n_in} inputs (force=True truncates it)"
