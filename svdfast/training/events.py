# SPDX-License-Identifier: BSD-3-Clause
"""What callbacks are told of a training, and what they raise to end it. Not here: callbacks themselves (svdfast/callbacks.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from svdfast.model.network import Network

__all__ = ["Event", "StopTraining"]


class StopTraining(Exception):
    """Raised by a callback to end a training early; the result is returned as far as it got."""


@dataclass(frozen=True)
class Event:
    """What callbacks are told.

    Attributes
    ----------
    kind : {"ranks", "switch", "guard", "recompose", "stop", "restore", "epoch"}
    epoch : int
        From 1.
    step : int
        Mini-batches done.
    network : Network
    info : dict
        `seconds` that it took, and for each kind:

        - "ranks", a look with factoring="auto": `ranks` to cut to now, and `layers`, a dict for each hidden layer with `rank`, `why`,
          `saved` (the share of a step's time) and `tried` (rank to the share of what has been learned that its cut loses); where
          losses were looked at, `loss` and `learned`, how far it is below that of the best answer that is the same for all;
        - "switch": `truncations`, a tuple of Truncation; `learning_rate_scales`, one for each layer; `kept_dense`, the layers that α
          would have made a bottleneck of, and why;
        - "guard": `loss_before` the cut and `loss_recovered`; `action` ("kept", "raised", "delayed", "undone"); where the loss was
          looked at right after the cut, `loss_after`; with "auto" `layers`, those that are dense again, "watched" where the next check
          decides, and where steps are no faster `seconds_dense` and `seconds_factored` of one;
        - "recompose": after the last step, with validation data, `val_loss` and `val_accuracy` of the recomposed network;
        - "stop", early stopping has decided on the end: `last_epoch`, later than the present one where a cooldown comes first; `monitor`
          and `patience`; and with `restore_best` `best` and `best_epoch`;
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
