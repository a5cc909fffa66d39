# SPDX-License-Identifier: BSD-3-Clause
"""The state that a schedule saves and continues from: plain numbers, strings, lists and dicts.

Elsewhere: bringing a model into the saved form (form.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from svdfast.torch.events import Event

__all__ = ["Plan", "Saved"]


@dataclass
class Plan:
    """The steps after which something is due (None: never), and the loss before a truncation."""

    n_steps: int
    switch_step: int | None = None
    guard_step: int | None = None
    recompose_step: int | None = None
    before: float | None = None


@dataclass(frozen=True)
class Saved:
    """The whole state of a schedule.

    Attributes
    ----------
    ranks, scales : dict
        Ranks and learning rate scales of the factored layers, by name.
    looks : dict or None
        State of "auto".
    notes : dict of str to str
        Reasons that `explain` shows, by the layers' names.
    first, recent : list of float
        Losses of the first and of the last steps.
    """

    n_done: int
    plan: Plan
    ranks: dict[str, int]
    scales: dict[str, float]
    looks: dict[str, Any] | None
    notes: dict[str, str]
    first: list[float]
    recent: list[float]
    events: list[Event]

    def state(self) -> dict[str, Any]:
        """The state to save."""
        return {
            "plan": {"n_done": self.n_done, **asdict(self.plan)},
            "ranks": dict(self.ranks),
            "scales": dict(self.scales),
            "auto": self.looks,
            "notes": dict(self.notes),
            "first": self.first,
            "recent": self.recent,
            "events": [[event.kind, event.step, event.info] for event in self.events],
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Saved:
        """Reads the result of `state`.

        Raises
        ------
        ValueError
            `state` is something else.
        """
        try:
            plan = dict(state["plan"])
            return cls(
                n_done=plan.pop("n_done"),
                plan=Plan(**plan),
                ranks=dict(state["ranks"]),
                scales=dict(state["scales"]),
                looks=None if state["auto"] is None else dict(state["auto"]),
                notes=dict(state["notes"]),
                first=list(state["first"]),
                recent=list(state["recent"]),
                events=[Event(kind, step, dict(info)) for kind, step, info in state["events"]],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state: expected what state_dict gave, got {error!r}") from error

    def check(self, n_steps: int, *, automatic: bool) -> None:
        """Refuses the state of another training."""
        if self.plan.n_steps != n_steps:
            got = f"one of {self.plan.n_steps}"
            raise ValueError(f"state: expected that of a training of {n_steps} steps, got {got}")
        if self.looks is not None and not automatic:
            raise ValueError('state: expected that of given ranks, got one of factoring="auto"')
