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
    kind : {"ranks", "switch", "guard", "recompose", "epoch"}
    epoch : int
        From 1.
    step : int
        Mini-batches done.
    network : Network
    info : dict
        `seconds` that it took, and: "ranks" (of ranks="auto"): `ranks`, `reason`, `why`, and what was measured. "switch": `truncations`,
        a tuple of Truncation, and `learning_rate_scales`, one for each layer. "guard": `loss_before`, `loss_after` the cut,
        `loss_recovered`, and `action` ("kept", "raised", "delayed", "undone"). "epoch": the new row of the history.

    Examples
    --------
    >>> import svdfast as sf
    >>> def report(event):
    ...     if event.kind == "switch":
    ...         print(event.step, [t.rank for t in event.info["truncations"]])
    >>> data = sf.datasets.load("xor")
    >>> net = sf.Network([2, 20, 20, 1], output="sigmoid", seed=1)
    >>> result = sf.train(net, *data.train, epochs=40, callbacks=[report])
    2 [1, 5]
    """

    kind: str
    epoch: int
    step: int
    network: Network
    info: dict[str, Any]
