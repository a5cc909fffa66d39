# SPDX-License-Identifier: BSD-3-Clause
"""Times the dense and the factored steps of a training, from within `Schedule.step`.

Elsewhere: the budget of looks (budget.py), and how long layers take (timing.py).
"""

from __future__ import annotations

import time
from collections import deque
from statistics import median

import torch
from torch import nn

__all__ = ["Clock"]

# Steps whose median is taken.
WINDOW = 20


class Clock:
    """Times the steps of a model's training.

    Attributes
    ----------
    dense, factored : deque of float
        Seconds of the last steps.
    """

    def __init__(self, module: nn.Module):
        self._module = module
        self.dense: deque[float] = deque(maxlen=WINDOW)
        self.factored: deque[float] = deque(maxlen=WINDOW)
        self._made, self._first, self._lag = time.perf_counter(), 0.0, 0.0
        self._last: float | None = None

    def stop(self, *, factored: bool) -> None:
        """A step has ended."""
        if self._last is not None:
            (self.factored if factored else self.dense).append(time.perf_counter() - self._last)
        self.pause()

    def pause(self) -> None:
        """Ignores the time until `start`."""
        self._last = None

    def start(self) -> None:
        """The next step begins."""
        self._last = time.perf_counter()

    def first(self, began: float | None) -> None:
        """The first step has ended. It began at `began`, by default when this clock was made."""
        self._first = time.perf_counter() - (self._made if began is None else began)

    def wait(self, *, factored: bool) -> None:
        """Waits for the GPU, which lags behind the clock. Dense steps share the lag equally."""
        parameter = next(self._module.parameters(), None)
        began = time.perf_counter()
        if parameter is not None and parameter.is_cuda:
            torch.cuda.synchronize(parameter.device)
        if not factored:
            self._lag = (time.perf_counter() - began) / max(1, len(self.dense))

    def seconds_of_step(self) -> float:
        """Seconds of a dense step; those of the first step until there is another."""
        return median(self.dense) + self._lag if self.dense else self._first

    def both(self) -> tuple[float, float] | None:
        """Seconds of a dense step and of a current one; None if the clock may not decide."""
        if torch.are_deterministic_algorithms_enabled():
            return None
        if min(len(self.dense), len(self.factored)) < 2:
            return None
        return median(self.dense), median(self.factored)
