# SPDX-License-Identifier: BSD-3-Clause
"""Events, which callbacks receive, and the exception that they raise to end a training.

The callbacks themselves are elsewhere (svdfast/callbacks.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from svdfast.model.network import Network

__all__ = ["Event", "StopTraining"]


class StopTraining(Exception):
    """Raised by a callback to end a training early; the result so far is returned."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a training, as callbacks receive it.

    Attributes
    ----------
    kind : {"ranks", "switch", "guard", "recompose", "stop", "restore", "epoch"}
    epoch : int
        Counted from 1.
    step : int
        Mini-batches done.
    network : Network
    info : dict
        The `seconds` that it took, and for each kind:

        - "ranks", a look with factoring="auto": `ranks` to truncate to now, and `layers`, a dict
          for each hidden layer. It has `rank`, `why`, `saved` (the share of a step's time) and
          `tried` (for each rank the share of what has been learned that its truncation loses). If
          losses were computed, also `loss` and `learned`, which is the loss of the best constant
          answer minus `loss`;
        - "switch": `truncations`, a tuple of Truncation; `learning_rate_scales`, one for each
          layer; `kept_dense`, the layers that α would have made a bottleneck, and why;
        - "guard": `loss_before` the truncation and `loss_recovered`; `action` ("kept", "raised",
          "delayed", "undone"); `loss_after`, if the loss was computed right after the truncation.
          With "auto" also `layers`, those that are recomposed; the action "watched" if the next
          check decides; and, if steps are no faster, `seconds_dense` and `seconds_factored` of one
          step;
        - "recompose": after the last step, with validation data, `val_loss` and `val_accuracy` of
          the recomposed network;
        - "stop", early stopping has decided on the end: `last_epoch`, later than the present one if
          a cooldown comes first; `monitor` and `patience`; and with `restore_best` also `best` and
          `best_epoch`;
        - "restore", the network is that of the best epoch again: the same without `last_epoch`;
        - "epoch": the new row of the history.

    Examples
    --------
    >>> import svdfast as sf
    >>> def report(event):
    ...     if event.kind == "switch":
    ...         print(event.step, [t.rank for t in event.info["truncations"]])
    >>> data = sf.datasets.load("xor")
    >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=1)
    >>> method = sf.Factoring(1 / 4, force=True)
    >>> result = sf.train(net, *data.train, epochs=40, factoring=method, callbacks=[report])
    2 [1, 5]
    """

    kind: str
    epoch: int
    step: int
    network: Network
    info: dict[str, Any]
