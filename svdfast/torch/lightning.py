# SPDX-License-Identifier: BSD-3-Clause
"""`Schedule` as a callback of Lightning's Trainer. Needs the package lightning.

Not here: what the schedule does (schedule.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    from lightning.pytorch import Callback
except ImportError:
    why = 'svdfast.torch.lightning needs Lightning: pip install "svdfast[lightning]"'
    raise ImportError(why, name="lightning") from None

from svdfast.torch.factorize import recompose
from svdfast.torch.form import follow
from svdfast.torch.schedule import Schedule

__all__ = ["SVDCallback"]


class SVDCallback(Callback):
    """Trains a LightningModule by the four steps of the method.

    Its state is saved with Lightning's checkpoints. To resume from one, build module and Trainer as
    at first; the module takes the checkpoint's form when its weights are loaded. Where the factors
    are to be multiplied together at the end, that is also done where a training ends early.

    Parameters
    ----------
    factoring, skip, sample, loss
        As in `svdfast.torch.Schedule`.

    Attributes
    ----------
    schedule : Schedule or None
        From the beginning of the training on.

    Raises
    ------
    ValueError
        When the training begins: there is no optimizer, or more than one.

    Examples
    --------
    >>> from svdfast.torch.lightning import SVDCallback
    >>> callbacks = [SVDCallback(factoring=1 / 4, skip=["head"])]
    """

    def __init__(
        self, factoring: Any = "auto", *, skip: Any = (), sample: Any = None, loss: Any = None
    ):
        self._settings = {"factoring": factoring, "skip": skip, "sample": sample, "loss": loss}
        self._saved: dict[str, Any] | None = None
        self._followed: Any = None
        self.schedule: Schedule | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._followed is not pl_module:
            self._followed = pl_module
            follow(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if len(trainer.optimizers) != 1:
            raise ValueError(f"SVDCallback: expected one optimizer, got {len(trainer.optimizers)}")
        n_steps = int(trainer.estimated_stepping_batches)
        self.schedule = Schedule(
            trainer.model, trainer.optimizers[0], n_steps=n_steps, **self._settings
        )
        if self._saved is not None:
            self.schedule.load_state_dict(self._saved)
            self._saved = None

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.schedule is not None
        # Of batches whose gradients are added up only the last has a step.
        if trainer.global_step > self.schedule.n_done:
            self.schedule.step(outputs.get("loss") if isinstance(outputs, Mapping) else outputs)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.schedule is not None and self.schedule.factoring.recompose:
            recompose(pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.schedule is None else {"schedule": self.schedule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict.get("schedule")
