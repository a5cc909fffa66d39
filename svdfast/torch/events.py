# SPDX-License-Identifier: BSD-3-Clause
"""The report of a schedule: its events, and a table of a model's layers.

Elsewhere: when something happens (schedule.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from svdfast.torch.layers import Factored
from svdfast.torch.places import is_layer, sides

__all__ = ["THROUGH", "Event", "factored_in", "table"]

# Packages that call svdfast for the user: by decorators, by context managers.
THROUGH = ("contextlib", "torch")


@dataclass(frozen=True)
class Event:
    """An event in a step of a `Schedule`.

    Attributes
    ----------
    kind : {"ranks", "switch", "guard", "recompose"}
    step : int
        Steps of the optimizer done.
    info : dict
        Its `seconds`, and for each kind:

        - "ranks", a look that found no layer to truncate: `layers`, a reason by name;
        - "switch": `ranks`, `dropped` (‖W − W1·W2‖_F), `learning_rate_scales` and `layers`
          (reasons), all by name;
        - "guard": `loss_before` the truncation, `loss_recovered` now, `action` ("kept", "watched",
          "undone", "delayed") and `layers`, the recomposed ones; if steps are no faster, also
          `seconds_dense` and `seconds_factored` of one step;
        - "recompose": `layers`, the recomposed ones; layers with hooks, which would be lost, stay
          factored.
    """

    kind: str
    step: int
    info: dict[str, Any]


def factored_in(events: Iterable[Event], name: str, rank: int, step: int) -> str:
    """The steps in which a layer, now recomposed, had this rank."""
    since = [e.step for e in events if e.kind == "switch" and name in e.info["ranks"]]
    return f"rank {rank} in steps {since[-1] + 1}–{step}" if since else f"rank {rank} before"


def table(module: nn.Module, why: Callable[[str, nn.Module], str]) -> list[str]:
    """A line for each layer, in the model's order: its type, its current rank, and the reason."""
    rows = [("layer", "type", "weight", "rank", "why")]
    for name, part in module.named_modules():
        if not name or not is_layer(part):
            continue
        n_in, n_out = sides(part)
        rank = str(part.rank) if isinstance(part, Factored) else "dense"
        rows.append((name, type(part).__name__, f"{n_out}×{n_in}", rank, why(name, part)))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return ["  ".join([*map(str.ljust, row, widths), row[4]]).rstrip() for row in rows]
