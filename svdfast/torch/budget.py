# SPDX-License-Identifier: BSD-3-Clause
"""The budget of all looks of a training: a small share of its dense steps.

The clock measures it. If torch has to be deterministic, multiplications are counted instead.
Amounts are in dense steps. Elsewhere: how a look spends it (looks.py).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from svdfast.training.auto import LOOKING, WORK

__all__ = ["TOO_LONG", "Budget", "svd_work"]

TOO_LONG = "a look would take longer than its share of the training"


def svd_work(n_in: int, n_out: int, rank: int, *, aware: bool) -> float:
    """Multiplications of a randomized SVD; with `aware`, of one that preserves the outputs."""
    k = min(rank + 10, n_in, n_out)
    work = float(WORK * n_in * n_out * k + 10 * k * k * (n_in + n_out))
    return work + (n_in**3 / 3 + n_out * n_in**2 if aware else 0)


class Budget:
    """The amount that looks have taken, and the amount that is left.

    Parameters
    ----------
    n_steps : int
        Steps of the whole training.
    seconds : callable
        Returns the seconds of a dense step, as far as known.

    Attributes
    ----------
    size : float
        Size of a step's batch; passes over a sample are compared with it.
    calls : int
        Calls of the model in a step.
    work : float
        A step's multiplications in layers that can be factored.
    slow : float
        Measured time of a decomposition over its counted time; 1 until one was timed.
    """

    def __init__(self, n_steps: int, seconds: Callable[[], float]):
        self.whole = LOOKING * n_steps
        self._of_step = seconds
        self._seconds = 0.0
        self._counted = 0.0
        self._began: float | None = None
        self.size, self.calls = 0.0, 1
        self.work = 0.0
        self.slow = 1.0

    _STATE = ("_seconds", "_counted", "size", "calls", "work", "slow")

    def state(self) -> dict[str, float]:
        """Plain numbers."""
        return {name.lstrip("_"): getattr(self, name) for name in self._STATE}

    def restore(self, state: Any) -> None:
        """Restores what `state` returned."""
        for name in self._STATE:
            setattr(self, name, state[name.lstrip("_")])

    @property
    def counts(self) -> bool:
        """True if multiplications are counted, as the clock may not decide."""
        return torch.are_deterministic_algorithms_enabled()

    @property
    def taken(self) -> float:
        if self.counts:
            return self._counted
        now = 0.0 if self._began is None else time.perf_counter() - self._began
        return self.steps(self._seconds + now)

    @property
    def left(self) -> float:
        return self.whole - self.taken

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """A context whose time is charged to the budget."""
        self._began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - self._began
            self._began = None

    def count(self, steps: float) -> None:
        """Charges this many steps, for when the clock may not decide."""
        self._counted += steps

    def steps(self, seconds: float) -> float:
        return seconds / max(self._of_step(), 1e-9)

    def seconds(self, steps: float) -> float:
        return max(0.0, steps) * self._of_step()

    def passes(self, size: float) -> float:
        """A forward pass over this size, in steps. A backward pass takes twice as long."""
        return size / (3 * self.size) if self.size else 0.0

    def products(self, work: float) -> float:
        """Multiplications, in steps."""
        return work / self.work if self.work else 0.0
