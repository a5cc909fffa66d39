# SPDX-License-Identifier: BSD-3-Clause
"""The place of a step of a training on a horizontal axis of seconds or of epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from svdfast.training.result import TrainingResult

__all__ = ["Place", "phase_ends"]


class Place:
    """The place of a step on the horizontal axis, after the events before it."""

    def __init__(self, result: TrainingResult, rows: Sequence[dict[str, Any]], against: str):
        self.events = result.events
        self.steps_per_epoch = rows[0]["step"] if against == "epochs" else None
        # Seconds of the steps alone are known at the ends of epochs and of phases. Steps between
        # these are taken as equally long.
        ends = {0: 0.0}
        for parts in ([(row["step"], row["seconds"]) for row in rows], phase_ends(result)):
            total = 0.0
            for step, seconds in parts:
                total += seconds
                ends[step] = total
        self.steps = sorted(ends)
        self.seconds = [ends[step] for step in self.steps]

    def __call__(self, step: int, events: Sequence[Any] | None = None) -> float:
        if self.steps_per_epoch is not None:
            return step / int(self.steps_per_epoch)
        if events is None:
            events = [event for event in self.events if event.step < step]
        between = sum(float(event.info.get("seconds", 0.0)) for event in events)
        return float(np.interp(step, self.steps, self.seconds)) + between


def phase_ends(result: TrainingResult) -> list[tuple[int, float]]:
    """The step at which each phase ends, and its seconds."""
    steps = np.cumsum([phase["steps"] for phase in result.phases], dtype=int)
    return [(int(step), phase["seconds"]) for step, phase in zip(steps, result.phases, strict=True)]
