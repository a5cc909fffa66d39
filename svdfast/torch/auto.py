# SPDX-License-Identifier: BSD-3-Clause
"""factoring="auto" for a torch model: decides which layers to truncate, and to which ranks.

The rules and numbers are those of svdfast/training/auto.py. The ranks that save time are measured
(timing.py), not counted. If losses can't be computed, a layer gets the largest rank of FRACTIONS
that saves time, and the training's own losses show whether that was good.

One rule is this package's own, for models with paths around a layer, as in a residual block. While
the loss hardly rises without the layer, it has learned little, and any truncation seems good.

Elsewhere: how a truncation is tried (looks.py), and the truncation itself (switch.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from svdfast.torch.budget import TOO_LONG
from svdfast.training.auto import (
    AGAIN,
    FASTER,
    LATER,
    LATEST,
    LOST,
    RECOVERY,
    SHORTEST,
    STILL_LOST,
    TOGETHER,
)

__all__ = ["Auto", "Choice"]

# Without a layer that may be truncated, the loss must rise by at least this share of what has been
# learned. Without one layer, models without paths around layers lose all, and a small residual
# network with batch normalisation most; a small GPT loses 1 to 30 % while it still learns fast.
NEEDED = 0.5

Rise: TypeAlias = Callable[[Mapping[str, int]], float | None]
FOR_GOOD = -1


@dataclass
class Choice:
    """A dense layer, the ranks at which its factors save time, and the decision about it.

    Attributes
    ----------
    tried : dict of int to float
        For each rank, the share of the learned decrease in loss that its truncation loses. Rank 0
        is the layer without its weight.
    sides : tuple of int
        n_in and n_out.
    allowed : float
        The share of the learned decrease in loss that its truncation alone may lose.
    """

    name: str
    options: list[int]
    why: str = ""
    rank: int | None = None
    tried: dict[int, float] = field(default_factory=dict)
    sides: tuple[int, int] = (1, 1)
    allowed: float = LOST

    @property
    def lost(self) -> float:
        return self.tried.get(self.rank, 0.0) if self.rank else 0.0


class Auto:
    """Decides about a model's layers, one by one.

    Parameters
    ----------
    n_steps : int
        Steps of the whole training.
    first : int
        The step after which the first look comes.
    end : int
        The step after which no layer is factored.
    tolerance : float, optional
        The guard's tolerance: the relative rise in loss, from before the truncation, that a check
        accepts.
    """

    def __init__(self, n_steps: int, first: int, end: int, tolerance: float | None = None):
        self.n_steps, self.end, self.tolerance = n_steps, end, tolerance
        self.look_step: int | None = first
        self.check_step: int | None = None
        # Layers that were recomposed: the rank, or FOR_GOOD.
        self.refused: dict[str, int] = {}
        # The loss of each layer's truncation.
        self.lost: dict[str, float] = {}
        # The loss at the start of the training, if there is one.
        self.start: float | None = None
        # The last truncation: the loss before it, the decrease in loss until then, the highest
        # loss that a check accepts, and whether the last check found a higher one.
        self.before: float | None = None
        self.learned = 0.0
        self.limit = math.inf
        self.failed = False

    _STATE = (
        "look_step", "check_step", "refused", "lost", "start", "before", "learned", "limit", "failed",
    )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Plain numbers and dicts of them."""
        return {
            name: dict(value) if isinstance(value := getattr(self, name), dict) else value
            for name in self._STATE
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        for name in self._STATE:
            value = state[name]
            setattr(self, name, dict(value) if isinstance(value, dict) else value)

    def look(
        self, step: int, choices: Sequence[Choice], loss: float | None, rise: Rise | None
    ) -> dict[str, int]:
        """The ranks to truncate to now, by name.

        Parameters
        ----------
        loss : float or None
            The current loss.
        rise : callable or None
            Maps ranks by name to the rise in loss when layers are truncated to them, or lose their
            weight with rank 0. It returns None if there is no time.
        """
        self.look_step = None
        options = [choice for choice in choices if choice.options]
        learned = 0.0
        if loss is not None and self.start is not None:
            learned = self.start - loss
            if not learned > 0:  # or NaN
                for choice in options:
                    choice.why = "nothing has been learned yet"
                self._plan_look(step)
                return {}
        for choice in options:
            above = self.refused.get(choice.name, 0) if learned < AGAIN * self.learned else 0
            self._choose(choice, above, rise, learned)
        while chosen := {choice.name: choice for choice in options if choice.rank}:
            ranks = {name: choice.rank or 0 for name, choice in chosen.items()}
            together = rise(ranks) if rise is not None and len(ranks) > 1 else 0.0
            if together is None:
                for choice in chosen.values():
                    choice.rank, choice.why = None, TOO_LONG
                break
            if together <= TOGETHER * max(choice.allowed for choice in chosen.values()) * learned:
                break
            worst = max(chosen.values(), key=lambda choice: choice.lost)
            worst.why = f"all truncations together lose {together / learned:.1%} of what has been learned"
            self._choose(worst, worst.rank or 0, rise, learned)
        chosen = {name: choice for name, choice in chosen.items() if choice.rank}
        if chosen:
            self.before, self.learned, self.failed = loss, learned, False
            allowed = STILL_LOST * max(choice.allowed for choice in chosen.values()) * learned
            if self.tolerance is not None and loss is not None:
                allowed = self.tolerance * abs(loss)
            known = loss is not None and (self.start is not None or self.tolerance is not None)
            self.limit = (loss or 0.0) + allowed if known else math.inf
            self.lost.update({name: choice.lost for name, choice in chosen.items()})
            self._plan_check(step)
        if any(choice.rank is None for choice in options):
            self._plan_look(step)
        return {name: choice.rank or 0 for name, choice in chosen.items()}

    def _choose(self, choice: Choice, above: int, rise: Rise | None, learned: float) -> None:
        """Chooses the smallest rank above `above` whose truncation alone is good, or none."""
        choice.rank = None
        options = sorted(rank for rank in choice.options if rank > above and above != FOR_GOOD)
        if above == FOR_GOOD or (above and not options):
            choice.why = choice.why or "a truncation was undone"
        if rise is None:
            if options:
                choice.rank, choice.why = options[-1], "its factors are faster"
            return
        # If the largest is no good, no other is. A layer without its weight comes before them.
        for rank in [0, *reversed(options)] if options else []:
            if rank not in choice.tried:
                more = rise({choice.name: rank})
                if more is None:
                    choice.why = choice.why if choice.rank else TOO_LONG
                    return
                choice.tried[rank] = more / learned
            lost = choice.tried[rank]
            if rank == 0:
                if lost < NEEDED:
                    choice.why = f"too early: without it only {max(lost, 0):.1%} of what has been learned is lost"
                    return
                continue
            if not lost <= choice.allowed:  # or NaN
                if choice.rank is None:
                    choice.why = f"truncation to rank {rank} loses {lost:.1%} of what has been learned"
                return
            choice.rank = rank
            choice.why = f"the truncation loses {max(lost, 0):.1%} of what has been learned"

    def is_slow(self, seconds: tuple[float, float]) -> bool:
        """True if a factored step is no faster: its seconds are the second of the two."""
        return seconds[1] > FASTER * seconds[0]

    def check(
        self,
        step: int,
        ranks: Mapping[str, int],
        loss: float | None,
        seconds: tuple[float, float] | None,
        *,
        for_good: bool,
    ) -> tuple[list[str], dict[str, Any]]:
        """The layers to recompose, and the info of the event.

        Parameters
        ----------
        ranks : mapping of str to int
            Ranks of the factored layers that can be recomposed.
        seconds : pair of float, optional
            Duration of a dense step and of a current one.
        """
        info: dict[str, Any] = {
            "loss_before": self.before,
            "loss_recovered": loss,
            "action": "kept",
        }
        back: list[str] = []
        bad = loss is not None and not loss <= self.limit
        slow = seconds is not None and self.is_slow(seconds)
        again, self.failed, self.check_step = self.failed, bad or slow, None
        if slow and seconds is not None:
            info |= {"seconds_dense": seconds[0], "seconds_factored": seconds[1]}
        if self.failed and not again:
            info["action"] = "watched"
        elif self.failed and ranks:
            info["action"] = "undone"
            back = [max(ranks, key=lambda name: self.lost.get(name, 0.0))] if bad else list(ranks)
            for name in back:
                final = for_good or not bad  # a higher rank would be no faster
                self.refused[name] = FOR_GOOD if final else ranks[name]
            self._plan_look(step)
        if self.failed and len(ranks) > len(back):
            self._plan_check(step)
        self.failed = self.failed and not back
        return back, info | {"layers": back}

    def _plan_look(self, step: int) -> None:
        later = max(LATER * step, step + 1)
        self.look_step = later if later < LATEST * self.end else None

    def _plan_check(self, step: int) -> None:
        later = step + max(SHORTEST, round(RECOVERY * self.n_steps))
        self.check_step = later if later < self.end else None
