# SPDX-License-Identifier: BSD-3-Clause
"""The state that a schedule saves and continues from: plain numbers, strings, lists and dicts.

Elsewhere: bringing a model into the saved form (form.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any, TypeAlias

from svdfast.torch.auto import FOR_GOOD
from svdfast.torch.events import Event

__all__ = ["Plan", "Saved"]

Check: TypeAlias = Callable[[Any], bool]


def _number(value: Any) -> bool:
    # A larger int is no float.
    return isinstance(value, Real) and not isinstance(value, bool) and not (isinstance(value, Integral) and abs(int(value)) >= 2**63)


def _count(value: Any) -> bool:
    return _number(value) and isinstance(value, Integral) and int(value) >= 0


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _listed(check: Check) -> Check:
    return lambda value: isinstance(value, list | tuple) and all(map(check, value))


def _named(check: Check) -> Check:
    return lambda value: isinstance(value, Mapping) and all(isinstance(name, str) for name in value) and all(map(check, value.values()))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _not_negative(value: Any) -> bool:
    return _number(value) and not value < 0


_PLAN: dict[str, Check] = {
    "n_done": _count, "n_steps": _count, "switch_step": _or_none(_count), "guard_step": _or_none(_count),
    "recompose_step": _or_none(_count), "before": _or_none(_number),
}  # fmt: skip
_STATE: dict[str, Check] = {
    "ranks": _named(lambda rank: _count(rank) and rank > 0), "scales": _named(_number), "notes": _named(_text),
    "first": _listed(_number), "recent": _listed(_number),
}  # fmt: skip
_LOOKS: dict[str, Check] = {
    "look_step": _or_none(_count), "check_step": _or_none(_count), "lost": _named(_number),
    "refused": _named(lambda rank: rank == FOR_GOOD or _count(rank)),
    "start": _or_none(_number), "before": _or_none(_number), "learned": _number, "limit": _number, "failed": _flag,
    "starts": _or_none(_listed(_number)), "n_pieces": _count, "begun": _flag, "seconds": _listed(_not_negative),
}  # fmt: skip
_BUDGET: dict[str, Check] = {
    "seconds": _not_negative, "counted": _not_negative, "size": _not_negative, "calls": lambda calls: _count(calls) and calls > 0,
    "work": _not_negative, "slow": _not_negative,
}  # fmt: skip
_EVENT: dict[str, Check] = {"kind": _text, "step": _count, "info": lambda info: isinstance(info, Mapping)}
_WRONG = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def _check(values: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    """Refuses a value that its check does not take."""
    for name, check in checks.items():
        if not check(values[name]):
            raise ValueError(f"{name} is {values[name]!r:.80}")


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
            _check(plan, _PLAN)
            _check(state, _STATE)
            for event in state["events"]:
                _check(dict(zip(_EVENT, event, strict=True)), _EVENT)
                if event[0] == "switch":
                    _check(event[2], {"ranks": _named(_count)})
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
        except _WRONG as error:
            raise ValueError(f"state: expected what state_dict gave, got {error!r}") from error

    def check(self, n_steps: int, *, automatic: bool) -> None:
        """Refuses the state of another training."""
        if self.plan.n_steps != n_steps:
            got = f"one of {self.plan.n_steps}"
            raise ValueError(f"state: expected that of a training of {n_steps} steps, got {got}")
        if self.looks is not None and not automatic:
            raise ValueError('state: expected that of given ranks, got one of factoring="auto"')
        if self.looks is not None:
            try:
                _check(self.looks, _LOOKS)
                _check(self.looks["budget"], _BUDGET)
            except _WRONG as error:
                raise ValueError(f"state: expected what state_dict gave, got {error!r}") from error
        if automatic and (self.plan.switch_step is not None or self.plan.guard_step is not None):
            raise ValueError('state: expected one of factoring="auto", got that of given ranks')
