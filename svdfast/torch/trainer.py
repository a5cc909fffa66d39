# SPDX-License-Identifier: BSD-3-Clause
"""`Schedule` as a callback of Hugging Face's Trainer. Needs the package transformers.

Elsewhere: what the callbacks of all Trainers do (callback.py).
"""

from __future__ import annotations

from typing import Any

try:
    from transformers import TrainerCallback, __version__
    from transformers.trainer_callback import ExportableState
except ImportError:
    why = 'svdfast.torch.trainer needs transformers: pip install "svdfast[transformers]"'
    raise ImportError(why, name="transformers") from None

from svdfast.torch.callback import ScheduleCallback, check_version
from svdfast.torch.form import follow

__all__ = ["SVDCallback"]

check_version("transformers", "4.50", __version__)


class SVDCallback(ScheduleCallback, TrainerCallback, ExportableState):
    """Trains a Trainer's model by the four steps of the method.

    Its state is saved with the Trainer's checkpoints. To resume from one, build model and Trainer
    as at first; the model takes the checkpoint's form when its weights are loaded. If the
    factoring recomposes at the end, that also happens when a training ends early or returns to its
    best checkpoint.

    Parameters
    ----------
    factoring, skip, sample, loss
        As in `svdfast.torch.Schedule`. The sample is a list of mappings on the model's device. If
        they have labels, the model's own loss is used.

    Attributes
    ----------
    schedule : Schedule or None
        None before the training begins.

    Raises
    ------
    ValueError
        When the training begins: it has several processes, whose DistributedDataParallel a callback
        can't see; or ``restore_callback_states_from_checkpoint`` is on, with which the Trainer
        makes new callbacks without their arguments.

    Examples
    --------
    A Trainer gets it in its list, not by ``add_callback``:

    >>> from svdfast.torch.trainer import SVDCallback
    >>> callbacks = [SVDCallback(factoring=1 / 4, skip=["lm_head"])]
    """

    def on_init_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        follow(model)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if args.world_size > 1:
            raise ValueError(
                "SVDCallback: expected one process; in several use svdfast.torch.Schedule"
            )
        if args.restore_callback_states_from_checkpoint:
            raise ValueError("SVDCallback: expected restore_callback_states_from_checkpoint=False")
        saved = None
        if state.global_step > 0:  # else it is of an earlier training
            own = state.stateful_callbacks.get(type(self).__name__)
            saved = own and own["attributes"]["saved"]
        self._begin(model, optimizer, state.max_steps, saved)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.schedule is not None
        self.schedule.step()

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self._end(model)

    def state(self) -> dict[str, Any]:
        """The state that the Trainer saves."""
        saved = None if self.schedule is None else self.schedule.state_dict()
        return {"args": {}, "attributes": {"saved": saved}}
