# SPDX-License-Identifier: BSD-3-Clause
"""Early stopping: when a training ends before its last epoch, and which epoch's network it keeps.

Elsewhere: the count of epochs without progress (progress.py), and how an early end changes the
remaining steps (loop.py, switch.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from svdfast._process.checks import count, one_of, positive_number
from svdfast.model.layout import Layout
from svdfast.training.factoring import Settings
from svdfast.training.progress import Wait
from svdfast.training.run import Run
from svdfast.training.state import BestState, StopperState

__all__ = ["EarlyStopping", "Stopper", "early_stopping_of"]


@dataclass(frozen=True, repr=False)
class EarlyStopping(Settings):
    """Ends a training when its loss no longer falls.

    The count of epochs without progress starts again whenever layers change their form, as the loss
    may rise then. A training whose learning rate is a `schedules.Cooldown`, as by default, ends
    with its cooldown: the rate starts to fall when the patience is over, and the cooldown has the
    same share of the shorter training. Under any other schedule the training ends at once.

    Parameters
    ----------
    patience : int
        Epochs in a row without progress that end the training, ≥ 1.
    min_delta : float
        Progress is a loss that is lower, or an accuracy that is higher, by more than this, ≥ 0.
    restore_best : bool
        Give the network the parameters, and the form, of its best epoch at the end. This takes one
        more vector of the parameters' size. If that epoch was not the last, the optimizer starts
        again.
    monitor : {"val_loss", "val_accuracy", "loss"}
        Column of the history. The first two need validation data.

    Raises
    ------
    TypeError, ValueError
        A setting is of the wrong kind or out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> import svdfast as sf
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((60, 5)), rng.integers(0, 2, 60)  # nothing to learn
    >>> net = sf.Network([5, 20, 2], seed=0)
    >>> stopping = sf.EarlyStopping(patience=2)
    >>> later = X[40:], y[40:]
    >>> result = sf.train(
    ...     net, X[:40], y[:40], epochs=100, validation=later, early_stopping=stopping)
    >>> len(result.history) < 100
    True
    >>> best = min(row["val_loss"] for row in result.history)
    >>> abs(net.evaluate(X[40:], y[40:]).loss - best) < 1e-6
    True
    """

    patience: int = 10
    _: KW_ONLY
    min_delta: float = 0.0
    restore_best: bool = True
    monitor: Literal["val_loss", "val_accuracy", "loss"] = "val_loss"

    def __post_init__(self) -> None:
        one_of("monitor", self.monitor, ("val_loss", "val_accuracy", "loss"))
        if not isinstance(self.restore_best, bool):
            raise TypeError(f"restore_best: expected True or False, got {type(self.restore_best).__name__}")
        self._set(
            patience=count("patience", self.patience),
            min_delta=positive_number("min_delta", self.min_delta, or_zero=True),
        )

    def check(self, *, validated: bool, decides: bool) -> None:
        """Refuses, with ValueError, settings that need what a training does not record."""
        if self.monitor != "loss" and not validated:
            raise ValueError(f'early_stopping: expected validation data, or monitor="loss", got neither ({self.monitor} is watched)')
        if self.monitor == "val_accuracy" and not decides:
            raise ValueError('early_stopping: expected monitor="val_loss" for a network without an accuracy, got "val_accuracy"')


def early_stopping_of(given: EarlyStopping | bool | None) -> EarlyStopping | None:
    """Converts the argument of `train` to an object or None."""
    if given is None or isinstance(given, EarlyStopping):
        return given
    if isinstance(given, bool):
        return EarlyStopping() if given else None
    raise TypeError(f"early_stopping: expected an EarlyStopping, True, False or None, got {type(given).__name__}")


@dataclass
class _Best:
    """The network of the best epoch: its state and its epoch."""

    value: float
    epoch: int
    step: int
    layout: Layout
    parameters: Any

    def state(self) -> BestState:
        return BestState(self.value, self.epoch, self.step, self.layout.header(), self.parameters)


class Stopper:
    """The early stopping of a training.

    Attributes
    ----------
    best : _Best or None
        The best epoch, with `restore_best`, once an epoch gave a number.
    ended : bool
        True if the end has been decided on.
    """

    def __init__(self, settings: EarlyStopping, run: Run):
        self.settings, self.run = settings, run
        self.wait = Wait(settings.patience, settings.min_delta)
        self.best: _Best | None = None
        self.ended = False

    def epoch(self, row: Mapping[str, Any]) -> bool:
        """Records a row of the history. Returns True if the training ends."""
        net = self.run.net
        value = float(row[self.settings.monitor])
        value = -value if self.settings.monitor == "val_accuracy" else value
        if self.settings.restore_best and value < (math.inf if self.best is None else self.best.value):
            layout, parameters = net.state
            self.best = _Best(value, row["epoch"], row["step"], layout, parameters.copy())
        over = self.wait.over(value, net) and not self.ended
        self.ended = self.ended or over
        return over

    def told(self) -> dict[str, Any]:
        """The details that events report."""
        of_best = {} if self.best is None else {"best": abs(self.best.value), "best_epoch": self.best.epoch}
        return {"monitor": self.settings.monitor, "patience": self.settings.patience, **of_best, "seconds": 0.0}

    def state(self) -> StopperState:
        """Returns the record that a checkpoint stores."""
        return StopperState(self.ended, self.wait.state(), None if self.best is None else self.best.state())

    def restore(self, state: StopperState) -> None:
        """Takes a record that `state` returned."""
        self.ended = state.ended
        self.wait.restore(state.wait)
        best = state.best
        self.best = None
        if best is not None and self.settings.restore_best:
            layout, parameters = self.run.checked_network(best.layout, best.parameters)
            self.best = _Best(best.value, best.epoch, best.step, layout, parameters)
