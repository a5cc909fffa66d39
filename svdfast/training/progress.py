# SPDX-License-Identifier: BSD-3-Clause
"""Counts epochs in a row without progress, and reduces a learning rate after some of them.

Elsewhere: the end of a training after some of them (stopping.py), and schedules that depend on
steps alone (schedules.py).
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
    """Counts epochs in a row without progress, again for each form of the network."""

    def __init__(self, patience: float, min_delta: float):
        self.patience, self.min_delta = patience, min_delta
        self.to_beat, self.epochs = math.inf, 0
        self.form: dict[str, Any] = {}

    def over(self, value: float, net: Network) -> bool:
        """Counts an epoch that gave this value (smaller is better). True if patience is over."""
        form = net.layout.header()
        if form != self.form:
            self.form, self.to_beat, self.epochs = form, math.inf, 0
        self.epochs = 0 if self.is_progress(value) else self.epochs + 1
        return self.epochs >= self.patience

    def is_progress(self, value: float) -> bool:
        """True if a value beats the last one that did. It then replaces that one."""
        progress = value < self.to_beat - self.min_delta
        if progress:
            self.to_beat = value
        return progress

    def state(self) -> WaitState:
        """Returns the record that a checkpoint stores."""
        return WaitState(self.to_beat, self.epochs, self.form)

    def restore(self, state: WaitState) -> None:
        """Takes a record that `state` returned."""
        self.to_beat, self.epochs, self.form = state.to_beat, state.epochs, dict(state.form)


class Plateau:
    """The rate of a `ReduceOnPlateau` in a training.

    Attributes
    ----------
    rate : float
        The rate of each step until the next epoch ends.
    """

    def __init__(self, schedule: ReduceOnPlateau):
        self.schedule, self.reductions = schedule, 0
        self.wait = Wait(schedule.patience, schedule.min_delta)

    @property
    def rate(self) -> float:
        return self.schedule.reduced(self.reductions)

    def epoch(self, row: Mapping[str, Any], net: Network) -> None:
        """Reduces the rate if patience is over with this row of the history."""
        if self.wait.over(row.get("val_loss", row["loss"]), net):
            self.reductions += 1
            self.wait.epochs = 0

    def state(self) -> PlateauState:
        """Returns the record that a checkpoint stores."""
        return PlateauState(self.reductions, self.wait.state())

    def restore(self, state: PlateauState) -> None:
        """Takes a record that `state` returned."""
        self.reductions = state.reductions
        self.wait.restore(state.wait)
