# SPDX-License-Identifier: BSD-3-Clause
"""Heads: the meaning of a network's outputs, by the activation of the last layer.

Softmax gives a class, sigmoid bits, exp rates of counts, and every other activation numbers. A head
knows the loss that belongs to its outputs, how they are interpreted, and how they are scored.
Losses and their targets are in losses.py. The labels of classes are kept in origin.py.
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
    """The meaning of outputs.

    Attributes
    ----------
    output : str
        The output activation of a network with this head.
    loss : str
        The loss that belongs to it.
    decides : bool
        True if outputs are probabilities of classes or bits. Such a network has an accuracy; others
        have R².
    """

    output: str
    loss: str
    decides: bool = True

    def n_targets(self, n_outputs: int) -> int:
        """Number of values in a sample's target; a class is one value."""
        return 1 if self is CLASSES else n_outputs

    def n_values(self, n_outputs: int) -> int:
        """Number of different values that each may have; 0 if it may be any number."""
        return (n_outputs if self is CLASSES else 2) if self.decides else 0

    def decide(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The decisions that outputs, or targets, stand for.

        These are class numbers (p,), or (p, steps) for sequences; bits (p, n_outputs); or the
        numbers as they are.
        """
        if self is CLASSES:
            return outputs if outputs.ndim == 1 else outputs.argmax(axis=-1)
        return outputs > 0.5 if self.decides else outputs

    def right(self, outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.bool_]:
        """True for each sample whose class, or all of whose bits, equal its targets."""
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
    """The head for so many classes; one bit distinguishes two classes. None stands for numbers."""
    return {None: NUMBERS, 2: BITS}.get(n_classes, CLASSES)


def agree(decided: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """True for each sample whose row, or number, is the expected one."""
    n = len(decided)
    right: NDArray[np.bool_] = (decided.reshape(n, -1) == expected.reshape(n, -1)).all(axis=1)
    return right


@np.errstate(over="ignore", invalid="ignore")  # squares of targets that large are infinite, and R² is then NaN or -inf
def share_explained(
    blocks: Iterable[tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]],
) -> float:
    """R² over blocks of outputs, float64 targets, and weights: the mean over outputs of 1 − Σ(y − ŷ)²/Σ(y − ȳ)².

    An output whose targets are all equal counts 1 if they are met exactly and 0 otherwise.
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
        # Combines the sums of squares around the means of two sets.
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
