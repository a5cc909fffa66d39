# SPDX-License-Identifier: BSD-3-Clause
"""The method as one object: how the hidden weights of a training are factored, and its guard.

All checks that need no network are here. Elsewhere: the checks that need one (prepare.py), and the
method's steps (switch.py).
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, Literal, TypeAlias

from svdfast._process.checks import fraction, listed, one_of, positive_number
from svdfast.model.ranks import Fraction, Given, RankRule, rule_of
from svdfast.model.structures import LowRank, Structure, check_kind

__all__ = ["Factoring", "Guard"]

Ranks: TypeAlias = float | Sequence[int | None] | str | RankRule

# φ by default: docs/reproduction.md, "The study".
PRETRAIN_FRACTION = 0.05
# With ranks="auto": the first look comes at the latest after this share of the steps.
LATEST_LOOK = 0.1


class Settings:
    """Base of frozen dataclasses that check themselves; they print non-default settings only."""

    def _set(self, **values: Any) -> None:
        """Replaces the given values by the checked ones: plain numbers, tuples."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        shown = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if type(value) is not type(field.default) or value != field.default:
                shown.append(f"{field.name}={value!r}" if field.kw_only else repr(value))
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class Guard(Settings):
    """Watches the loss after the switch, and acts if it does not recover.

    The loss is that of the validation data, or else of a sample of the training data.

    Parameters
    ----------
    tolerance : float
        Some steps after the switch (2 % of all) the loss may be at most 1 + this times its value
        before the switch. If it is larger, network and optimizer are restored to their state at the
        switch, and the guard acts.
    action : {"raise", "delay", "undo"}
        The guard's action: truncate to twice the ranks at once; train dense for another share φ of
        the steps, then truncate again; or train dense to the end. It also trains dense to the end
        if twice the ranks would save nothing or no steps would be left for factors.

    Raises
    ------
    TypeError, ValueError
        A setting is of the wrong kind or out of its range.

    Examples
    --------
    >>> import svdfast as sf
    >>> sf.Guard(0.1)
    Guard(0.1)
    """

    tolerance: float
    action: Literal["raise", "delay", "undo"] = "raise"

    def __post_init__(self) -> None:
        one_of("action", self.action, ("raise", "delay", "undo"))
        self._set(tolerance=positive_number("tolerance", self.tolerance, or_zero=True))


@dataclass(frozen=True, repr=False)
class Factoring(Settings):
    """How the hidden weights of a training are factored: the settings of the four steps of the method.

    An object checks itself, prints itself, compares and pickles. Any number of trainings can use
    it.

    Parameters
    ----------
    ranks : float, sequence of int or None, str, or RankRule
        "auto" decides about each hidden layer by itself. After some dense steps it tries the
        truncation of that layer alone and computes the loss over a sample of the training data. The
        layer gets the smallest rank that loses next to nothing, if factors save time. Layers that
        are not ready are tried again later, and a truncation that proves bad is undone. These looks
        take at most 2 % of the time of a dense training. With `reproducible` nothing depends on the
        clock.

        A number is α: the rank of a layer is l = max(1, ⌊α·min(n_in, n_out)⌋). 1/4 cost no accuracy
        on MNIST and Fashion-MNIST; layers of some hundred neurons bear 1/8 (docs/reproduction.md).
        A layer of at most 100 inputs stays dense if its rank would be smaller than their number, a
        bottleneck, unless `force`. A sequence has a rank for each hidden layer; None keeps it
        dense. "energy:E" and "budget:B" are rules, and so is any `svdfast.ranks.RankRule` (see
        `Network.truncate`).
    pretrain_fraction : float, optional
        φ: the switch, or with "auto" the first look, comes after round(φ·steps) steps, also within
        an epoch. By default 0.05. With "auto" the default is 100 steps, or a tenth of all if that
        is earlier. With 1 the training is dense throughout.
    recompose_fraction : float, optional
        The last share of the steps, for which the recomposed network is trained dense. Together
        with φ at most 1. By default 0, as in the paper.
    recompose : bool
        Recompose the network at the end.
    force : bool
        Also factor layers whose factors save no multiplications.
    activation_aware : bool
        Truncate so that the layers' outputs over a sample of the data change least, instead of the
        weights (`Network.truncate`, `inputs`). False is the paper's truncation.
    svd : {"exact", "randomized"}
        Method of the decomposition; see `truncated_svd`.
    split : {"balanced", "left", "right"}
        Distribution of the singular values over the factors; see `factorize`.
    moments : {"carry", "restart"}
        Treatment of the optimizer's moments when weights are factored or recomposed. "carry" turns
        them into those of the new weights (`svdfast.training.moments`); "restart" sets them to
        zero.
    learning_rate : "auto", float or sequence of float
        Multiplier of the learning rate for factors. "auto" depends on the optimizer. With gradient
        descent it is 1. Adam's steps have the same size whatever the gradient's. So with Adam each
        layer gets the size of its factors' elements over that of their product's at the switch, but
        at most 1.5. Then both change by the same share of their size in a step
        (`svdfast.model.structures.Structure.relative_scale`). Over the last 30 % of the steps these
        numbers go to 1, so that no noise of larger steps is left in the result. A network that is
        factored from the start keeps the optimizer's rate, unless a sequence has a number for each
        layer: the `learning_rate_scales` of the switch's event, if a training continues.
    product_decay : float
        λ of a penalty (λ/2)·‖W1·W2‖_F² on the product of each factored layer. It is apart from the
        gradient, as in AdamW: every k steps the factors take a step against it with k times the
        learning rate. k is so large that this costs next to nothing
        (`svdfast.model.structures.Structure.decay`).
    guard : Guard, optional
        Undoes the switch if the loss does not recover from it. With "auto" it replaces the
        tolerance of the checks, and its validation data, if any, replace the sample. Each layer is
        recomposed by itself, for good with the action "undo".
    structure : subclass of Structure
        Representation of the factored weights, by default two factors (`svdfast.model.structures`).

    Raises
    ------
    TypeError, ValueError
        A setting is of the wrong kind or out of its range.

    References
    ----------
    The paper, sections 3.3.2 and 3.3.3.

    Examples
    --------
    >>> import svdfast as sf
    >>> sf.Factoring([None, 64], pretrain_fraction=0.1)
    Factoring((None, 64), pretrain_fraction=0.1)
    >>> method = sf.Factoring(1/4, guard=sf.Guard(0.1))
    >>> method == sf.Factoring(1/4, guard=sf.Guard(0.1, "raise"))
    True
    """

    ranks: Ranks = "auto"
    _: KW_ONLY
    pretrain_fraction: float | None = None
    recompose_fraction: float | None = None
    recompose: bool = True
    force: bool = False
    activation_aware: bool = True
    svd: Literal["exact", "randomized"] = "exact"
    split: Literal["balanced", "left", "right"] = "balanced"
    moments: Literal["carry", "restart"] = "carry"
    learning_rate: float | Sequence[float] | Literal["auto"] = "auto"
    product_decay: float = 0.0
    guard: Guard | None = None
    structure: type[Structure] = LowRank

    def __post_init__(self) -> None:
        ranks, rate = self.ranks, self.learning_rate
        if isinstance(ranks, numbers.Real):
            ranks = fraction("ranks", ranks, above_zero=True)
        elif not self.automatic:
            rule = rule_of(ranks)  # type: ignore[arg-type]
            ranks = rule.ranks if isinstance(rule, Given) and rule is not ranks else ranks
        if isinstance(ranks, str):
            ranks = str(ranks)
        if isinstance(rate, Sequence) and not isinstance(rate, str):
            rates = enumerate(listed("learning_rate", rate, "numbers"))
            rate = tuple(positive_number(f"learning_rate[{i}]", scale) for i, scale in rates)
        elif not (isinstance(rate, str) and rate == "auto"):
            rate = positive_number("learning_rate", rate)
        for name in ("pretrain_fraction", "recompose_fraction"):
            if getattr(self, name) is not None:
                self._set(**{name: fraction(name, getattr(self, name))})
        if self.phi < 1 and self.phi + self.dense_tail > 1:
            raise ValueError(
                f"pretrain_fraction, recompose_fraction: expected at most 1 together, got {self.phi} and {self.dense_tail}"
            )
        one_of("svd", self.svd, ("exact", "randomized"))
        one_of("split", self.split, ("balanced", "left", "right"))
        one_of("moments", self.moments, ("carry", "restart"))
        if not (self.guard is None or isinstance(self.guard, Guard)):
            raise TypeError(f"guard: expected a Guard, got {type(self.guard).__name__}")
        check_kind(self.structure)
        self._set(
            ranks=ranks,
            learning_rate=rate,
            product_decay=positive_number("product_decay", self.product_decay, or_zero=True),
            **{name: bool(getattr(self, name)) for name in ("recompose", "force", "activation_aware")},
        )

    @property
    def automatic(self) -> bool:
        """True if trial truncations decide about layers."""
        return isinstance(self.ranks, str) and self.ranks == "auto"

    @property
    def rule(self) -> RankRule:
        """The rule that gives the ranks, unless trial truncations decide."""
        return Fraction(self.ranks) if isinstance(self.ranks, float) else rule_of(self.ranks)

    @property
    def phi(self) -> float:
        """φ: the share of the steps before the switch, or the first look, at the latest."""
        if self.pretrain_fraction is not None:
            return self.pretrain_fraction
        return LATEST_LOOK if self.automatic else PRETRAIN_FRACTION

    @property
    def dense_tail(self) -> float:
        """The share of the steps after recomposition."""
        return 0.0 if self.recompose_fraction is None else self.recompose_fraction

    @classmethod
    def as_reported(cls, ranks: Ranks = 1 / 2, *, pretrain_fraction: float = 0.1) -> Factoring:
        """The paper's own settings.

        They differ from the defaults. All hidden weights are factored, whatever that saves, by a
        plain SVD. The optimizer starts again, with an unchanged learning rate.

        Parameters
        ----------
        ranks, pretrain_fraction
            As for `Factoring`.

        Returns
        -------
        Factoring

        Examples
        --------
        >>> import svdfast as sf
        >>> sf.Factoring.as_reported(1 / 8).ranks
        0.125
        """
        return cls(
            ranks,
            pretrain_fraction=pretrain_fraction,
            force=True,
            activation_aware=False,
            moments="restart",
            learning_rate=1.0,
        )


def factoring_of(factoring: Factoring | float | str | None) -> Factoring:
    """Converts the argument of `train` to an object; None is a training without a switch."""
    if isinstance(factoring, Factoring):
        return factoring
    if factoring is None:
        return Factoring(pretrain_fraction=1.0)
    if isinstance(factoring, str | numbers.Real):
        return Factoring(factoring)
    raise TypeError(f'factoring: expected None, a number, "auto" or a Factoring, got {type(factoring).__name__}')
