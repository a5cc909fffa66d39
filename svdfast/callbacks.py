# SPDX-License-Identifier: BSD-3-Clause
"""Callbacks for `train(callbacks=[...])` that are too long for a lambda.

Elsewhere: figures of a finished training (plots/).
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

from svdfast.training.events import Event

__all__ = ["TensorBoard"]

_SCALARS = ("loss", "learning_rate", "seconds", "val_loss", "val_accuracy")


class TensorBoard:
    """Writes a training's events for TensorBoard, which shows them while it runs.

    It writes these scalars over the number of mini-batches:

    - after each epoch, the row of the history, under the same names;
    - at the switch, the rank of each factored layer, `rank/layer_0` and so on;
    - the losses of the guard: `guard/loss_before`, `guard/loss_after` and `guard/loss_recovered`.

    It writes as text the `phase` at each change, and the `guard`'s actions. Everything is flushed
    after each epoch and reaches the file within a second or two.

    Parameters
    ----------
    log_dir : path or writer
        A folder, which is created if needed (requires tensorboardX: the extra `tensorboard`). Or a
        `SummaryWriter` of tensorboardX or torch.utils.tensorboard, which is flushed but never
        closed here.

    Raises
    ------
    ImportError
        A folder was given and tensorboardX is not installed.
    TypeError
        `log_dir` is neither.
    OSError
        The folder can't be created or written to.

    Examples
    --------
    >>> import svdfast as sf
    >>> data = sf.datasets.load("xor")
    >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=0)
    >>> with sf.callbacks.TensorBoard("runs/xor") as board:  # doctest: +SKIP
    ...     result = sf.train(net, *data.train, callbacks=[board])
    """

    def __init__(self, log_dir: str | os.PathLike[str] | Any):
        self._closed = False
        self._own = isinstance(log_dir, str | os.PathLike)
        self._writer: Any = log_dir
        if not self._own:
            if not all(callable(getattr(log_dir, name, None)) for name in ("add_scalar", "add_text", "flush")):
                raise TypeError(f"log_dir: expected a path or a SummaryWriter, got {type(log_dir).__name__}")
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError('TensorBoard needs tensorboardX: pip install "svdfast[tensorboard]"') from None
        # The writer has its own thread, so `flush` is not enough: that thread also flushes each
        # second.
        self._writer = SummaryWriter(os.fspath(log_dir), flush_secs=1)

    def __call__(self, event: Event) -> None:
        """Writes an event.

        Parameters
        ----------
        event : Event

        Raises
        ------
        TypeError
            `event` is something else.
        ValueError
            This TensorBoard was closed.
        """
        if not isinstance(event, Event):
            raise TypeError(f"event: expected an Event, got {type(event).__name__}")
        if self._closed:
            raise ValueError("this TensorBoard was closed: make a new one for another training")
        write, info = self._writer, event.info
        if event.kind == "epoch":
            for name in _SCALARS:
                if info.get(name) is not None:
                    write.add_scalar(name, info[name], event.step)
            write.flush()
        elif event.kind in ("switch", "recompose"):
            for index, rank in enumerate(event.network.layout.ranks):
                if rank:
                    write.add_scalar(f"rank/layer_{index}", rank, event.step)
            write.add_text("phase", "factored" if event.network.is_factored else "dense", event.step)
        elif event.kind == "guard":
            for name in ("loss_before", "loss_after", "loss_recovered"):
                write.add_scalar(f"guard/{name}", info[name], event.step)
            write.add_text("guard", info["action"], event.step)
            if info["action"] in ("delayed", "undone"):
                write.add_text("phase", "dense", event.step)

    def flush(self) -> None:
        """Writes out pending events."""
        if not self._closed:
            self._writer.flush()

    def close(self) -> None:
        """Flushes, and closes the writer if it was made here. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._own:
            self._writer.close()
        else:
            self._writer.flush()

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
