# SPDX-License-Identifier: BSD-3-Clause
"""`Schedule` as a callback of Lightning's Trainer. Needs the package lightning.

Elsewhere: what the callbacks of all Trainers do (callback.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

try:
    from lightning.pytorch import Callback, __version__
except ImportError:
    why = 'svdfast.torch.lightning needs Lightning: pip install "svdfast[lightning]"'
    raise ImportError(why, name="lightning") from None

from svdfast.torch.callback import ScheduleCallback, check_version
from svdfast.torch.form import follow

__all__ = ["SVDCallback"]

check_version("lightning", "2.5", __version__)


class SVDCallback(ScheduleCallback, Callback):
    """Trains a LightningModule by the four steps of the method.

    Its state is saved with Lightning's checkpoints. To resume from one, build module and Trainer as
    at first; the module takes the checkpoint's form when its weights are loaded. If the factoring
    recomposes at the end, a training that ends early does so, too. Each ``fit`` is a training of
    its own, whose steps are counted from 0.

    Parameters
    ----------
    factoring, skip, sample, loss
        As in `svdfast.torch.Schedule`.

    Attributes
    ----------
    schedule : Schedule or None
        None before the training begins.

    Raises
    ------
    ValueError
        When the training begins: there is no optimizer, or more than one; or the Trainer does not
        know the number of steps.

    Examples
    --------
    >>> from svdfast.torch.lightning import SVDCallback
    >>> callbacks = [SVDCallback(factoring=1 / 4, skip=["head"])]
    """

    def __init__(
        self, factoring: Any = "auto", *, skip: Any = (), sample: Any = None, loss: Any = None
    ):
        super().__init__(factoring, skip=skip, sample=sample, loss=loss)
        self._saved: dict[str, Any] | None = None
        self._followed: Any = None
        self._n_before = 0  # the Trainer's steps before this training

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._followed is not pl_module:
            self._followed = pl_module
            follow(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if len(trainer.optimizers) != 1:
            raise ValueError(f"SVDCallback: expected one optimizer, got {len(trainer.optimizers)}")
        n_steps = trainer.estimated_stepping_batches
        if not math.isfinite(n_steps):
            raise ValueError(
                "SVDCallback: expected a number of steps, got none: give the Trainer max_steps, "
                "or max_epochs and batches that have a length"
            )
        saved, self._saved = self._saved, None
        if saved is None:
            saved = {"n_before": trainer.global_step}
        self._n_before = saved.get("n_before", 0)
        n_steps = max(0, int(n_steps) - self._n_before)
        self._begin(trainer.model, trainer.optimizers[0], n_steps, saved.get("schedule"))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.schedule is not None
        # If gradients of several batches are accumulated, only the last batch has a step.
        if trainer.global_step - self._n_before > self.schedule.n_done:
            self.schedule.step(outputs.get("loss") if isinstance(outputs, Mapping) else outputs)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._end(pl_module)

    def state_dict(self) -> dict[str, Any]:
        if self.schedule is None:
            return {}
        return {"schedule": self.schedule.state_dict(), "n_before": self._n_before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict if "schedule" in state_dict else None
