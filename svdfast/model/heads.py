# SPDX-License-Identifier: BSD-3-Clause
"""What a network's outputs mean: a class by softmax, bits by sigmoid, rates of counts by exp, numbers by every other activation.

A head knows the loss that goes with its outputs, how they are read, and how they are scored. Not here: the losses and
what they take as targets (losses.py), and the labels that classes have in somebody's data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast.model.activations import Activation

__all__ = [
    "BITS",
    "CLASSES",
    "COUNTS",
    "NUMBERS",
    "Head",
    "agree",
    "head_for",
    "head_of",
    "share_explained",
]


@dataclass(frozen=True)
class Head:
    """What outputs mean.

    Attributes
    ----------
    output : str
        The activation that a network of this head has.
    loss : str
        The loss that goes with it.
    decides : bool
        Whether outputs are probabilities of classes or bits: a network then has an accuracy, else R².
    """

    output: str
    loss: str
    decides: bool = True

    def n_targets(self, n_outputs: int) -> int:
        """Numbers that the target of a sample has: a class is one."""
        return 1 if self is CLASSES else n_outputs

    def n_values(self, n_outputs: int) -> int:
        """Values that each of these numbers may have; 0 where it may be any."""
        return (n_outputs if self is CLASSES else 2) if self.decides else 0

    def decide(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Class numbers (p,), of sequences (p, steps), bits (p, n_outputs), or the numbers as they are; of targets, too."""
        if self is CLASSES:
            return outputs if outputs.ndim == 1 else outputs.argmax(axis=-1)
        return outputs > 0.5 if self.decides else outputs

    def right(self, outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether the class, or all bits, of each sample are those of its targets."""
        return agree(self.decide(outputs), self.decide(targets))


CLASSES = Head("softmax", "cross_entropy")
BITS = Head("sigmoid", "binary_cross_entropy")
NUMBERS = Head("identity", "mean_squared_error", decides=False)
COUNTS = Head("exp", "poisson", decides=False)
_HEADS = {head.output: head for head in (CLASSES, BITS, COUNTS)}


def head_of(output: Activation) -> Head:
    """The head of a network whose last layer has this activation."""
    return _HEADS.get(output.name, NUMBERS)


def head_for(n_classes: int | None) -> Head:
    """The head for data of so many classes, two of them told apart by one bit; of numbers where it is None."""
    return {None: NUMBERS, 2: BITS}.get(n_classes, CLASSES)


def agree(decided: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each sample's row, or number, is the one expected."""
    n = len(decided)
    right: NDArray[np.bool_] = (decided.reshape(n, -1) == expected.reshape(n, -1)).all(axis=1)
    return right


@np.errstate(over="ignore", invalid="ignore")  # squares of targets that large are infinite, and R² is then NaN or -inf
def share_explained(
    blocks: Iterable[tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]],
) -> float:
    """R² over blocks of outputs, float64 targets, and weights: the mean over outputs of 1 − Σ(y − ŷ)²/Σ(y − ȳ)².

    An output whose targets are all equal counts 1 where it is met exactly and 0 otherwise.
    """
    total = 0.0
    mean: Any = 0.0
    residual: Any = 0.0
    spread: Any = 0.0
    first, constant = None, np.True_
    for outputs, target, weight in blocks:
        w = np.ones(len(target)) if weight is None else weight
        here = float(w.sum())
        if here == 0:
            continue
        center = np.average(target, axis=0, weights=w)
        # Sums of squares around the means of two sets, brought together.
        away = center - mean if total > 0 else np.zeros_like(center)
        residual = residual + w @ (target - outputs.astype(np.float64)) ** 2
        spread = spread + w @ (target - center) ** 2 + away**2 * (total * here / (total + here))
        mean = center if total == 0 else mean + away * (here / (total + here))
        total += here
        counted = target[w > 0]
        first = counted[:1] if first is None else first
        constant = constant & (counted == first).all(axis=0)
    if total == 0:
        raise ValueError("sample_weight: expected weights ≥ 0, not all 0")
    r2 = 1 - residual / np.where(constant, 1, spread)
    r2[constant] = (residual[constant] == 0).astype(np.float64)
    return float(r2.mean())
