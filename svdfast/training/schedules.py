# SPDX-License-Identifier: BSD-3-Clause
"""Learning-rate schedules: the rate η at each step of a training.

A schedule is called with (step, n_steps), steps counted from 0, and returns the rate. An optimizer's
`learning_rate` can be any such callable; a number means a constant rate. Elsewhere: the update
(optimizers.py).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from svdfast._process.checks import count, fraction, positive_number

__all__ = ["Constant", "Cooldown", "Cosine", "ReduceOnPlateau", "Schedule", "StepDecay", "Warmup"]

Schedule = Callable[[int, int], float]


@dataclass(frozen=True)
class Constant:
    """The same rate at every step.

    Examples
    --------
    >>> import svdfast as sf
    >>> sf.schedules.Constant(0.1)(7, 100)
    0.1
    """

    learning_rate: float

    def __post_init__(self) -> None:
        _set(self, learning_rate=positive_number("learning_rate", self.learning_rate, or_zero=True))

    def __call__(self, step: int, n_steps: int) -> float:
        return self.learning_rate


@dataclass(frozen=True)
class Cooldown:
    """The same rate at first, then linearly down to 0 over the last share of the steps.

    The noise of large steps leaves the weights by the end. A constant rate would keep it in the
    result.

    References
    ----------
    A. Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", NeurIPS 2024.

    Examples
    --------
    >>> import svdfast as sf
    >>> rate = sf.schedules.Cooldown(1.0, cooldown_fraction=0.5)
    >>> rate(0, 100), rate(50, 100), rate(75, 100)
    (1.0, 1.0, 0.5)
    """

    learning_rate: float
    cooldown_fraction: float = 0.3

    def __post_init__(self) -> None:
        rate = positive_number("learning_rate", self.learning_rate, or_zero=True)
        _set(self, learning_rate=rate, cooldown_fraction=fraction("cooldown_fraction", self.cooldown_fraction))

    def __call__(self, step: int, n_steps: int) -> float:
        step, n_steps = operator.index(step), operator.index(n_steps)
        left, length = max(0, n_steps - step), n_steps - self.falls_after(n_steps)
        return self.learning_rate if left >= length else self.learning_rate * left / length

    def falls_after(self, n_steps: int) -> float:
        """The step up to which the rate is constant."""
        return (1 - self.cooldown_fraction) * n_steps


@dataclass(frozen=True)
class StepDecay:
    """The rate, multiplied by `factor` at each of the `at` shares of the steps.

    Examples
    --------
    >>> import svdfast as sf
    >>> rate = sf.schedules.StepDecay(1.0, factor=0.5, at=(0.5, 0.75))
    >>> rate(0, 100), rate(50, 100), rate(99, 100)
    (1.0, 0.5, 0.25)
    """

    learning_rate: float
    factor: float = 0.1
    at: tuple[float, ...] = (0.5, 0.75)

    def __post_init__(self) -> None:
        rate = positive_number("learning_rate", self.learning_rate, or_zero=True)
        at = tuple(fraction("at", share) for share in self.at)
        _set(self, learning_rate=rate, factor=positive_number("factor", self.factor), at=at)

    def __call__(self, step: int, n_steps: int) -> float:
        step, n_steps = operator.index(step), operator.index(n_steps)
        passed = sum(step >= share * n_steps for share in self.at)
        return float(self.learning_rate * self.factor**passed)


@dataclass(frozen=True)
class Cosine:
    """From `learning_rate` down to `final` along half a cosine: final + (η − final)(1 + cos πs/S)/2.

    Examples
    --------
    >>> import svdfast as sf
    >>> rate = sf.schedules.Cosine(1.0)
    >>> rate(0, 100), round(rate(50, 100), 12)
    (1.0, 0.5)
    """

    learning_rate: float
    final: float = 0.0

    def __post_init__(self) -> None:
        rate = positive_number("learning_rate", self.learning_rate, or_zero=True)
        _set(self, learning_rate=rate, final=positive_number("final", self.final, or_zero=True))

    def __call__(self, step: int, n_steps: int) -> float:
        step, n_steps = operator.index(step), operator.index(n_steps)
        share = 0.5 * (1 + math.cos(math.pi * step / max(n_steps, 1)))
        return self.final + (self.learning_rate - self.final) * share


@dataclass(frozen=True)
class ReduceOnPlateau:
    """A rate that is multiplied by `factor` each time the loss has not fallen for some epochs.

    The loss is that of the validation data, or else the training loss. `train` counts the epochs; a
    new training starts with the full rate. Whenever layers change their form, the count starts
    again.

    Parameters
    ----------
    learning_rate : float
        The first rate, ≥ 0.
    factor : float
        Above 0 and below 1.
    patience : int
        Epochs in a row without progress, ≥ 1.
    min_delta : float
        Progress is a loss that is lower by more than this, ≥ 0.
    minimum : float
        The smallest rate, ≥ 0.

    Examples
    --------
    >>> import svdfast as sf
    >>> data = sf.datasets.load("xor")
    >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
    >>> rate = sf.schedules.ReduceOnPlateau(0.05, factor=0.5, patience=3)
    >>> descent = sf.GradientDescent(rate, momentum=0.9)
    >>> result = sf.train(net, *data.train, epochs=200, optimizer=descent, factoring=None)
    >>> result.history[0]["learning_rate"]
    0.05
    """

    learning_rate: float
    factor: float = 0.1
    patience: int = 10
    min_delta: float = 0.0
    minimum: float = 0.0

    def __post_init__(self) -> None:
        factor = fraction("factor", self.factor, below_one=True)
        if factor == 0:
            raise ValueError("factor: expected a number above 0 and below 1, got 0")
        numbers = {
            name: positive_number(name, getattr(self, name), or_zero=True) for name in ("learning_rate", "min_delta", "minimum")
        }
        _set(self, factor=factor, patience=count("patience", self.patience), **numbers)

    def __call__(self, step: int, n_steps: int) -> float:
        """The first rate; later ones depend on the losses."""
        return self.learning_rate

    def reduced(self, times: int) -> float:
        """The rate after this many reductions."""
        return max(self.learning_rate * self.factor ** count("times", times, minimum=0), min(self.minimum, self.learning_rate))


@dataclass(frozen=True)
class Warmup:
    """Rises linearly to another schedule over the first `warmup_fraction` of the steps.

    Examples
    --------
    >>> import svdfast as sf
    >>> rate = sf.schedules.Warmup(1.0, warmup_fraction=0.1)
    >>> rate(0, 100), rate(4, 100), rate(50, 100)
    (0.1, 0.5, 1.0)
    """

    schedule: float | Schedule
    warmup_fraction: float = 0.05

    def __post_init__(self) -> None:
        schedule = resolve(self.schedule)
        if isinstance(schedule, ReduceOnPlateau):
            raise TypeError("schedule: expected a schedule of steps alone, got ReduceOnPlateau, which follows the loss")
        _set(self, schedule=schedule, warmup_fraction=fraction("warmup_fraction", self.warmup_fraction))

    def __call__(self, step: int, n_steps: int) -> float:
        step, n_steps = operator.index(step), operator.index(n_steps)
        length = max(1, round(self.warmup_fraction * n_steps))  # one step has the full rate
        rate = resolve(self.schedule)(step, n_steps)
        return rate * (step + 1) / length if step < length else rate


def _set(of: object, /, **values: Any) -> None:
    """Replaces a frozen schedule's arguments by their checked values: numbers of any type become floats."""
    for name, value in values.items():
        object.__setattr__(of, name, value)


def resolve(learning_rate: float | Schedule) -> Schedule:
    """A number as a `Constant`; a callable as it is.

    Raises
    ------
    TypeError, ValueError
        Neither a callable nor a finite number that is not negative.
    """
    if callable(learning_rate):
        return learning_rate
    return Constant(positive_number("learning_rate", learning_rate, or_zero=True))


def is_known(schedule: float | Schedule) -> bool:
    """True for a number or a schedule of this module; inside a `Warmup`, too."""
    if type(schedule) is Warmup:
        return is_known(schedule.schedule)
    return type(schedule) in (Constant, Cooldown, Cosine, ReduceOnPlateau, StepDecay) or not callable(schedule)
