# SPDX-License-Identifier: BSD-3-Clause
"""The whole state of a training between two steps, as plain records, which a checkpoint stores.

Each object of a training has `state`, which returns its record, and `restore`, which takes one.
Files are not trusted. A record checks its own numbers; `restore` checks everything that only the
network can tell. Elsewhere: the form of a file (checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from numpy.typing import NDArray

from svdfast._process.checks import count

__all__ = [
    "AutoState", "BeforeState", "BestState", "EventState", "LoopState", "NetworkState", "PlateauState", "RunState", "StopperState",
    "SwitchState", "WaitState",
]  # fmt: skip

# The largest number of steps, as far as floats count.
LARGEST_COUNT = 2**53
_PLAIN = {"float": float, "str": str, "bool": bool}


class _Record:
    """Base of the records; it converts fields that are declared as plain values."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.type == "int":
                value = count(field.name, value, minimum=0, maximum=LARGEST_COUNT)
            elif field.type in _PLAIN:
                value = _PLAIN[field.type](value)
            object.__setattr__(self, field.name, value)


@dataclass(frozen=True)
class NetworkState(_Record):
    """A network's parameters and its optimizer's moments."""

    layout: dict[str, Any]
    parameters: NDArray[Any]
    moments: tuple[NDArray[Any], ...]
    n_updates: int


@dataclass(frozen=True)
class RunState(_Record):
    """The state that steps change.

    It has the scales of the layers' learning rates and the share of them that still applies, the
    key of the random parts of steps, and the states that recurrent layers begin the next batch
    with, unless these are zeros.
    """

    network: NetworkState
    scales: list[float]
    fade: float
    key: int
    carried: NDArray[Any] | None


@dataclass(frozen=True)
class AutoState(_Record):
    """The state of layers that trial truncations decide about."""

    next_step: int
    check_step: int
    looked: float
    refused: list[int]
    lost: list[float]
    ranks: list[int]
    n_rows: int
    before: float
    learned: float
    limit: float
    failed: bool


@dataclass(frozen=True)
class BeforeState(_Record):
    """The state that a guard may restore."""

    network: NetworkState
    loss: float
    loss_after: float


@dataclass(frozen=True)
class SwitchState(_Record):
    """When the next actions are due, and the values that they need."""

    next_step: int
    switch_step: int
    guard_step: int
    recompose_step: int
    decay_step: int
    decay_every: int
    ranks: list[int | None] | None
    auto: AutoState | None
    before: BeforeState | None


@dataclass(frozen=True)
class WaitState(_Record):
    """Epochs in a row without progress, and the form of the network that they count for."""

    to_beat: float
    epochs: int
    form: dict[str, Any]


@dataclass(frozen=True)
class PlateauState(_Record):
    """The number of reductions of a rate that follows the loss."""

    reductions: int
    wait: WaitState


@dataclass(frozen=True)
class BestState(_Record):
    """The network of the best epoch."""

    value: float
    epoch: int
    step: int
    layout: dict[str, Any]
    parameters: NDArray[Any]


@dataclass(frozen=True)
class StopperState(_Record):
    """The state of early stopping."""

    ended: bool
    wait: WaitState
    best: BestState | None


@dataclass(frozen=True)
class EventState(_Record):
    """An event without its network."""

    kind: str
    epoch: int
    step: int
    info: dict[str, Any]


@dataclass(frozen=True)
class LoopState(_Record):
    """The present state of a training, and its history."""

    n_steps: int
    epoch: int
    epochs: int
    generator: Mapping[str, Any]
    total: float
    since: int
    seconds: float
    seconds_of_form: float
    seconds_of_source: float
    seconds_of_training: float
    stopped: bool
    history: list[dict[str, Any]]
    phases: list[dict[str, Any]]
    events: list[EventState]
    optimizer: dict[str, Any] | None
    run: RunState
    switch: SwitchState
    plateau: PlateauState | None
    stopper: StopperState | None
