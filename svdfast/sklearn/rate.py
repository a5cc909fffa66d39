# SPDX-License-Identifier: BSD-3-Clause
"""The learning rate of an estimator: scikit-learn's three kinds, and a cooldown at the end of a training of factors.

Elsewhere: when a training makes no progress (descent.py), and the schedules of `svdfast.train`
(training/schedules.py).
"""

from __future__ import annotations

__all__ = ["Rate"]

_SMALLEST = 1e-6  # an adaptive rate at or below it ends the training


class Rate:
    """A learning rate that changes after epochs. Optimizers call it as a schedule.

    Before a training of factors ends, the rate cools down: it falls to 0 over some more epochs, so
    that the noise of large steps leaves the weights.

    Parameters
    ----------
    rate : float
        The first rate.
    kind : {"constant", "invscaling", "adaptive"}
    power : float
        Exponent of "invscaling".
    scale : float
        Factor from scikit-learn's loss to the library's.
    """

    def __init__(self, rate: float, kind: str, power: float, scale: float):
        self.first = self.rate = float(rate)
        self.kind, self.power, self.scale = kind, power, scale
        self.cool(0)

    def __call__(self, step: int, n_steps: int) -> float:
        return self.rate * self.scale * (self.left / (self.cooling + 1) if self.cooling else 1)

    def epoch_ends(self, n_seen: int) -> None:
        if self.kind == "invscaling":
            self.rate = self.first / (n_seen + 1) ** self.power
        self.left -= bool(self.cooling)

    def cool(self, n_epochs: int) -> None:
        """Starts a cooldown of so many epochs; 0 ends it."""
        self.cooling = self.left = n_epochs

    def fall(self) -> bool:
        """Divides an adaptive rate by 5. Returns False for another kind and for a small rate."""
        if self.kind != "adaptive" or self.rate <= _SMALLEST:
            return False
        self.rate /= 5
        return True
