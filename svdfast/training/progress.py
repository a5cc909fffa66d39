# SPDX-License-Identifier: BSD-3-Clause
"""Epochs in a row without progress, counted, and the learning rate that falls after some of them.

Not here: the end of a training after some of them (stopping.py), and schedules of steps alone (schedules.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from svdfast.model.network import Network
from svdfast.training.schedules import ReduceOnPlateau
from svdfast.training.state import PlateauState, WaitState

__all__ = ["Plateau", "Wait"]


class Wait:
    """Counts epochs in a row without progress, anew for each form of the network."""

    def __init__(self, patience: float, min_delta: float):
        self.patience, self.min_delta = patience, min_delta
        self.to_beat, self.epochs = math.inf, 0
        self.form: dict[str, Any] = {}

    def over(self, value: float, net: Network) -> bool:
        """Whether the epoch that gave this value, the smaller the better, was one too many without progress."""
        form = net.layout.header()
        if form != self.form:
            self.form, self.to_beat, self.epochs = form, math.inf, 0
        self.epochs = 0 if self.is_progress(value) else self.epochs + 1
        return self.epochs >= self.patience

    def is_progress(self, value: float) -> bool:
        """Whether a value beats the last one that did, which it then replaces."""
        progress = value < self.to_beat - self.min_delta
        if progress:
            self.to_beat = value
        return progress

    def state(self) -> WaitState:
        """What a checkpoint has of it."""
        return WaitState(self.to_beat, self.epochs, self.form)

    def restore(self, state: WaitState) -> None:
        """Takes what `state` gave."""
        self.to_beat, self.epochs, self.form = state.to_beat, state.epochs, dict(state.form)


class Plateau:
    """The rate of a `ReduceOnPlateau` in a training.

    Attributes
    ----------
    rate : float
        Of each step until the next epoch ends.
    """

    def __init__(self, schedule: ReduceOnPlateau):
        self.schedule, self.reductions = schedule, 0
        self.wait = Wait(schedule.patience, schedule.min_delta)

    @property
    def rate(self) -> float:
        return self.schedule.reduced(self.reductions)

    def epoch(self, row: Mapping[str, Any], net: Network) -> None:
        """Lets the rate fall where this row of the history was one too many without progress."""
        if self.wait.over(row.get("val_loss", row["loss"]), net):
            self.reductions += 1
            self.wait.epochs = 0

    def state(self) -> PlateauState:
        """What a checkpoint has of it."""
        return PlateauState(self.reductions, self.wait.state())

    def restore(self, state: PlateauState) -> None:
        """Takes what `state` gave."""
        self.reductions = state.reductions
        self.wait.restore(state.wait)
