# SPDX-License-Identifier: BSD-3-Clause
"""What all looks of a training may take: a small share of its dense steps.

By the clock; where torch is to be deterministic, by what is multiplied, counted. Amounts are dense
steps. Not here: what a look does for it (looks.py).
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
    """Multiplications of a randomized decomposition, and of what changes it to one of outputs."""
    k = min(rank + 10, n_in, n_out)
    work = float(WORK * n_in * n_out * k + 10 * k * k * (n_in + n_out))
    return work + (n_in**3 / 3 + n_out * n_in**2 if aware else 0)


class Budget:
    """What looks have taken, and what is left.

    Parameters
    ----------
    n_steps : int
        Of the whole training.
    seconds : callable
        Of a dense step, as far as is known.

    Attributes
    ----------
    size : float
        Of a step's batch, by which passes over a sample are compared with it.
    calls : int
        How often a step calls the model.
    work : float
        A step's multiplications in layers that can be factored.
    slow : float
        How much longer a decomposition takes than was counted; 1 until one was timed.
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
        """Takes what `state` gave."""
        for name in self._STATE:
            setattr(self, name, state[name.lstrip("_")])

    @property
    def counts(self) -> bool:
        """Whether the clock may not decide."""
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
        """The time in it counts."""
        self._began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - self._began
            self._began = None

    def count(self, steps: float) -> None:
        """Takes so many steps, where the clock may not decide."""
        self._counted += steps

    def steps(self, seconds: float) -> float:
        return seconds / max(self._of_step(), 1e-9)

    def seconds(self, steps: float) -> float:
        return max(0.0, steps) * self._of_step()

    def passes(self, size: float) -> float:
        """A forward pass over so much, as a share of a step: the backward pass takes twice that."""
        return size / (3 * self.size) if self.size else 0.0

    def products(self, work: float) -> float:
        """Multiplications, as steps."""
        return work / self.work if self.work else 0.0
