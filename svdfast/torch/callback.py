# SPDX-License-Identifier: BSD-3-Clause
"""The common part of the callbacks for all Trainers.

Elsewhere: what each Trainer passes to its callbacks (trainer.py, lightning.py), and what a schedule
does (schedule.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from svdfast.torch.factorize import recomposed
from svdfast.torch.places import replace
from svdfast.torch.schedule import Schedule

__all__ = ["ScheduleCallback", "check_version"]


def check_version(package: str, lowest: str, got: str) -> None:
    """Refuses a version of a Trainer's package older than the oldest tested one.

    A version without numbers, as a package has that is only mocked for its documentation, passes.
    """
    first, other = (tuple(map(int, re.findall(r"\d+", str(v))[:2])) for v in (got, lowest))
    if first and first < other:
        raise ImportError(
            f"svdfast.torch needs {package} {lowest} or newer, got {got}: "
            f'pip install --upgrade "svdfast[{package}]"',
            name=package,
        )


class ScheduleCallback:
    """A callback with a `Schedule` of its own for each training."""

    def __init__(
        self, factoring: Any = "auto", *, skip: Any = (), sample: Any = None, loss: Any = None
    ):
        self._settings = {"factoring": factoring, "skip": skip, "sample": sample, "loss": loss}
        self.schedule: Schedule | None = None

    def _begin(
        self, model: Any, optimizer: Any, n_steps: int, saved: Mapping[str, Any] | None
    ) -> None:
        """Makes the schedule, and loads its saved state if there is one."""
        self.schedule = Schedule(model, optimizer, n_steps=n_steps, **self._settings)
        if saved is not None:
            self.schedule.load_state_dict(saved)

    def _end(self, model: nn.Module) -> None:
        """Recomposes layers if the factoring says so, also those loaded from a checkpoint."""
        schedule = self.schedule
        if schedule is None:
            return
        schedule.finish()
        if schedule.factoring.recompose:
            replace(model, recomposed(model)[0])
