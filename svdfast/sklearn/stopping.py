# SPDX-License-Identifier: BSD-3-Clause
"""The rule of progress: scikit-learn's, or an `svdfast.EarlyStopping` given as `early_stopping`.

Both count with the same `Wait`. scikit-learn's progress differs in two ways: equality is enough,
and every gain, however small, raises what the next epoch has to beat. Elsewhere: the end of a
training (descent.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from svdfast.training.progress import Wait
from svdfast.training.stopping import EarlyStopping

if TYPE_CHECKING:
    from svdfast.sklearn.estimator import SVDMLP

__all__ = ["Stopping", "stopping_of"]

_WORDS = {"loss": "Training loss", "val_loss": "Validation loss", "val_score": "Validation score"}


class _Tolerance(Wait):
    """Counts as scikit-learn does."""

    def is_progress(self, value: float) -> bool:
        progress = value <= self.to_beat - self.min_delta
        self.to_beat = min(self.to_beat, value)
        return progress


@dataclass(frozen=True)
class Stopping:
    """When a training ends for lack of progress.

    Attributes
    ----------
    watches : {"loss", "val_loss", "val_score"}
    restores : bool
        True if the weights of the best epoch are restored.
    patience : int or infinity
        Epochs in a row without progress that end the training.
    epochs : int or infinity
        The number that messages name.
    min_delta : float
        The smallest gain that is progress.
    rule : type
        The class that counts progress.
    """

    watches: str
    restores: bool
    patience: float
    epochs: float
    min_delta: float
    rule: type[Wait]

    @property
    def words(self) -> str:
        """The watched quantity, in messages."""
        return _WORDS[self.watches]

    def continued(self, wait: Wait | None) -> Wait:
        """The count of an earlier call if it followed the same rule; else a new one."""
        made = self.rule(self.patience, self.min_delta)
        if type(wait) is self.rule:
            made.to_beat, made.epochs, made.form = wait.to_beat, wait.epochs, wait.form
        return made


def stopping_of(model: SVDMLP) -> Stopping:
    """The stopping rule of a model's parameters."""
    given = model.early_stopping
    if isinstance(given, EarlyStopping):
        watches = "val_score" if given.monitor == "val_accuracy" else given.monitor
        return Stopping(watches, given.restore_best, given.patience, given.patience, given.min_delta, Wait)
    watches, n = "val_score" if given else "loss", model.n_iter_no_change
    return Stopping(watches, bool(given), n + 1, n, model.tol, _Tolerance)
