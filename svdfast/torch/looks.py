# SPDX-License-Identifier: BSD-3-Clause
"""The looks of factoring="auto": they measure a truncation's effect on the loss and the speed.

All of them together stay within a small share of the training (budget.py). If time is short, they
use fewer rows of the sample, then fewer ranks. If even that does not fit, layers stay dense.
Elsewhere: what is decided (auto.py), and when (schedule.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from svdfast.model.counting import break_even_rank
from svdfast.model.svd import resolve_rank
from svdfast.torch.auto import Auto, Choice
from svdfast.torch.budget import TOO_LONG, Budget, svd_work
from svdfast.torch.kinds import Convolution, kind_of
from svdfast.torch.observe import Seen, observe
from svdfast.torch.places import replace, sides
from svdfast.torch.sample import Sample
from svdfast.torch.switch import Switch, Truncated, grams_of
from svdfast.torch.timing import least_work, measured_break_even
from svdfast.torch.truncate import Decomposed
from svdfast.torch.turns import dense_step_now
from svdfast.torch.watch import Watched, watch
from svdfast.training.auto import FRACTIONS, LOST, LOST_OF_KERNEL, ROWS_PER_RANK, SAMPLES

__all__ = ["Looks"]

# The losses at the start may take one share of the whole budget, and the break-even ranks of one
# look another share of the remaining budget.
START, BREAK_EVENS = 1 / 8, 1 / 4
SECONDS = 0.05  # for one break-even rank, at most


class Looks:
    """Looks at the layers of a model in training.

    Attributes
    ----------
    auto : Auto
        Decides about the layers.
    watched : Watched
        The inputs of layers in the training.
    starts : list of float or None
        The losses of the sample's first pieces at the start of the training, as many as there was
        time for; None if no loss is available.
    n_pieces : int
        Number of pieces that the last look took.
    begun : bool
        True once `begin` is done.
    """

    def __init__(self, switch: Switch, sample: Sample | None, auto: Auto, budget: Budget):
        self._switch, self._sample = switch, sample
        self.auto, self.budget, self.watched = auto, budget, Watched()
        self.starts: list[float] | None = None
        self.n_pieces = 0
        self.begun = False
        self._seconds: list[float] = []  # one entry for a pass over each of these pieces
        self._sizes = [] if sample is None else sample.sizes(switch.module)

    def state(self) -> dict[str, Any]:
        """Plain numbers, and lists and dicts of them."""
        return self.auto.state() | {
            "starts": None if self.starts is None else list(self.starts),
            "n_pieces": self.n_pieces,
            "begun": self.begun,
            "seconds": list(self._seconds),
            "budget": self.budget.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self.auto.restore(state)
        self.starts = None if state["starts"] is None else list(state["starts"])
        self.n_pieces, self.begun = state["n_pieces"], state["begun"]
        self._seconds = list(state["seconds"])
        self.budget.restore(state["budget"])

    def watch(self) -> None:
        """Begins to watch the inputs of layers."""
        self.watched = watch(self._switch.module, self._switch.usable())

    # ---- losses

    def begin(self) -> dict[str, Any]:
        """Measures a step's size and the sample's losses, after step 1. Returns the state."""
        watched, budget = self.watched, self.budget
        of_batch = 0 if self._sample is None else sum(self._sizes[: self._sample.n_first])
        budget.size = float(watched.size or of_batch)
        budget.calls = max(1, watched.n_calls)
        budget.work = budget.calls * self._work(watched.layers)
        with budget.looking():
            self.starts = self._starts()
        watched.first, self.begun = False, True
        return self.state()

    def _starts(self) -> list[float] | None:
        """The losses of the first pieces, as many as there is time for."""
        if self._sample is None:
            return None
        budget, starts = self.budget, list[float]()
        self._seconds = []
        for i in range(len(self._sizes)):
            # A first step takes longer than others, so both the clock and sizes must allow it.
            by_size, n = budget.passes(sum(self._sizes[: i + 1])), self._cost(i + 1)
            if max(by_size, n) > START * budget.whole:
                break
            loss = self._piece_loss(i)
            if loss is None:
                return None
            starts.append(loss)
        return starts

    def loss(self) -> float | None:
        """The loss on the pieces of the last look; None without them."""
        if self._sample is None or not self.starts or not self.n_pieces:
            return None
        with self.budget.looking():
            return self._losses(self.n_pieces)

    def dense_step_now(self, step: float) -> float | None:
        """Seconds that a dense step would take now, where a current one takes `step` seconds.

        None if a factored layer's inputs were not observed, or there is no time left for it.
        """
        budget, own = self.budget, self._switch.own
        seconds = min(SECONDS * len(own), budget.seconds(budget.left))
        if not seconds > 0:
            return None
        with budget.looking():
            return dense_step_now(step, own, self.watched.layers, budget.calls, seconds)

    def _losses(self, n_pieces: int) -> float | None:
        assert self._sample is not None
        losses = [self._piece_loss(i) for i in range(n_pieces)]
        known = [loss for loss in losses if loss is not None]
        return self._sample.mean(known) if len(known) == n_pieces else None

    def _piece_loss(self, index: int) -> float | None:
        assert self._sample is not None
        began = time.perf_counter()
        loss = self._sample.piece_loss(self._switch.module, index)
        self._seconds[index : index + 1] = [time.perf_counter() - began]
        self.budget.count(self.budget.passes(self._sizes[index]))
        return loss

    def _cost(self, n_pieces: int, start: int = 0) -> float:
        """The cost of a pass over the pieces from `start` on, in steps."""
        sizes, known = self._sizes, self._seconds
        if self.budget.counts or not known:
            return self.budget.passes(sum(sizes[start:n_pieces]))
        # The timed pieces predict those that were not timed yet.
        each = sum(known) / max(1, sum(sizes[: len(known)]))
        seconds = [
            known[i] if i < len(known) else each * sizes[i] for i in range(start, n_pieces)
        ]
        return self.budget.steps(sum(seconds))

    # ---- a look

    def look(
        self, step: int, layers: Mapping[nn.Module, str], recent: float | None, first: float | None
    ) -> tuple[dict[str, int], dict[str, str], Callable[[], dict[str, Truncated]]]:
        """The ranks to truncate to by name, the reasons, and a function that truncates.

        Parameters
        ----------
        recent, first : float or None
            The training's own losses now and at the start, in case the sample has none.
        """
        with self.budget.looking():
            self._look_at_sample(layers)
            looks = self.starts is not None
            choices = self._choices(layers, looks)
            options = [choice for choice in choices if choice.options]
            if not looks:
                if self.auto.start is None:
                    self.auto.start = first
                ranks = self.auto.look(step, choices, recent, None)
                make = self._switch.truncated(ranks, self._batches(0, ranks))
            else:
                ranks, make = self._by_losses(step, layers, choices, options)
            return ranks, {choice.name: choice.why for choice in choices}, make

    def _by_losses(
        self,
        step: int,
        layers: Mapping[nn.Module, str],
        choices: Sequence[Choice],
        options: Collection[Choice],
    ) -> tuple[dict[str, int], Callable[[], dict[str, Truncated]]]:
        """The decision by losses on the sample."""
        assert self._sample is not None and self.starts is not None
        module, budget, method = self._switch.module, self.budget, self._switch.factoring.svd
        parts = {name: part for part, name in layers.items()}
        found: dict[str, Decomposed] = {}
        made: dict[tuple[str, int], Truncated] = {}
        grams: dict[nn.Module, Tensor] = {}

        def decomposed(choice: Choice) -> Decomposed:
            """A decomposition to the largest tried rank. Smaller ranks take its first vectors."""
            if choice.name not in found:
                part, rank = parts[choice.name], choice.options[-1]
                work = budget.products(self._svd_work(choice))
                began = time.perf_counter()
                found[choice.name] = Decomposed(
                    part, choice.name, rank, "randomized", grams.get(part)
                )
                budget.count(budget.slow * work)
                if not budget.counts and work > 0:
                    _wait(part)
                    budget.slow = budget.steps(time.perf_counter() - began) / work
            return found[choice.name]

        n_pieces = self._plan(options, found, len(self.starts), grams=True)
        if n_pieces and options:
            batches = self._batches(n_pieces, {choice.name: choice.options[-1] for choice in options})
            if batches is not None:
                some = {parts[choice.name]: choice.name for choice in options}
                grams |= grams_of(module, batches, some)
                budget.count(self._gram_cost(n_pieces, options))
            _wake(next(iter(layers)))
            decomposed(min(options, key=self._svd_work))
            n_pieces = self._plan(options, found, n_pieces, grams=False)
        if not n_pieces:
            for choice in options:
                choice.options, choice.why = [], TOO_LONG
        loss = self._losses(n_pieces) if n_pieces and options else None
        if loss is not None:
            self.n_pieces = n_pieces
            self.auto.start = self._sample.mean(self.starts[:n_pieces])
        of = {choice.name: choice for choice in options}

        def rise(ranks: Mapping[str, int]) -> float | None:
            """None if there is no time. The time for a look at all layers together is reserved."""
            passes = 2 if len(ranks) == 1 and len(options) > 1 else 1
            if budget.taken + passes * self._cost(n_pieces) > budget.whole:
                return None
            for name, rank in ranks.items():
                if (name, rank) not in made:
                    made[name, rank] = decomposed(of[name]).truncate(rank)
            new = {parts[name]: made[name, rank][0] for name, rank in ranks.items()}
            replace(module, new)
            try:
                now = self._losses(n_pieces)
            finally:
                replace(module, {one: part for part, one in new.items()})
            assert now is not None and loss is not None
            return now - loss

        ranks = self.auto.look(step, choices, loss, rise)

        def make() -> dict[str, Truncated]:
            if method == "randomized":
                return {name: made[name, rank] for name, rank in ranks.items()}
            return {
                name: Decomposed(parts[name], name, rank, method, grams.get(parts[name])).truncate(rank)
                for name, rank in ranks.items()
            }

        return ranks, make

    # ---- what a look may take

    def _plan(
        self, options: Collection[Choice], found: Collection[str], most: int, *, grams: bool
    ) -> int:
        """The number of pieces to compute losses on; 0 if there is no time. It may drop ranks.

        This look gets half of the remaining budget, or all of it if the smallest look needs more.

        Parameters
        ----------
        found : collection of str
            The layers that are decomposed already.
        most : int
            Largest number of pieces.
        grams : bool
            Gram matrices still have to be formed.
        """
        if most < len(self._sizes) and not self._tells(most, options):
            return 0  # there was no time for more at the start, either
        least = next((n for n in range(1, most) if self._tells(n, options)), most)
        left = self.budget.left
        allowed = [*((left / 2, n) for n in range(most, least - 1, -1)), (left, least)]
        while options and most:
            svds = sum(self._svd_work(choice) for choice in options if choice.name not in found)
            n_passes = 2 + sum(2 + len(choice.options) for choice in options)
            for limit, n_pieces in allowed:
                cost = n_passes * self._cost(n_pieces)
                cost += self.budget.slow * self.budget.products(svds)
                cost += self._gram_cost(n_pieces, options) if grams else 0.0
                if cost <= limit:
                    return n_pieces
            if not any(_drop(choice) for choice in options):
                return 0
        return most

    def _tells(self, n_pieces: int, options: Collection[Choice]) -> bool:
        """True if each layer gets enough vectors for a meaningful loss."""
        return all(self._rows(c.name, 0, n_pieces) >= SAMPLES[-1] for c in options)

    def _rows(self, name: str, start: int, end: int) -> float:
        """The approximate number of vectors that a layer gets over some pieces."""
        seen = self.watched.layers.get(name)
        if seen is None or not self.budget.size:
            return 0.0
        return seen.rows * self.budget.calls * sum(self._sizes[start:end]) / self.budget.size

    def _svd_work(self, choice: Choice) -> float:
        aware = self._sample is not None and self._switch.factoring.activation_aware
        return svd_work(*choice.sides, choice.options[-1], aware=aware)

    def _gram_span(self, n_pieces: int, ranks: Mapping[str, int]) -> tuple[int, int]:
        """The pieces for Gram matrices: others than those of the losses, if there are any."""
        start = n_pieces if n_pieces < len(self._sizes) else 0
        for end in range(start + 1, len(self._sizes)):
            if all(self._rows(n, start, end) >= ROWS_PER_RANK * rank for n, rank in ranks.items()):
                return start, end
        return start, len(self._sizes)

    def _batches(self, n_pieces: int, ranks: Mapping[str, int]) -> list[Any] | None:
        """The batches for Gram matrices."""
        if self._sample is None or not self._switch.factoring.activation_aware:
            return None
        start, end = self._gram_span(n_pieces, ranks)
        return self._sample.pieces[start:end]

    def _gram_cost(self, n_pieces: int, options: Collection[Choice]) -> float:
        if not self._switch.factoring.activation_aware:
            return 0.0
        start, end = self._gram_span(n_pieces, {c.name: c.options[-1] for c in options})
        work = sum(self._rows(c.name, start, end) * c.sides[0] ** 2 for c in options)
        return self._cost(end, start) + self.budget.products(work)

    # ---- ranks that pay

    def _look_at_sample(self, layers: Mapping[nn.Module, str]) -> None:
        """Looks at the inputs of layers that could not be watched, as in a compiled graph."""
        watched, budget = self.watched, self.budget
        unseen = {part: name for part, name in layers.items() if name not in watched.layers}
        if self._sample is None or not unseen or self._cost(1) > budget.left / 2:
            return
        batches = self._sample.pieces[:1]
        for part, seen in observe(self._switch.module, batches, unseen, gram=False).items():
            # It gets as many rows as a training step.
            seen.rows = round(seen.rows * budget.size / self._sizes[0] / budget.calls)
            watched.layers[unseen[part]] = seen
        budget.count(budget.passes(self._sizes[0]))
        if not budget.work:
            budget.work = budget.calls * self._work(watched.layers)

    def _work(self, seen: Mapping[str, Seen]) -> float:
        """Multiplications of these layers, forward and backward."""
        there = dict(self._switch.module.named_modules())
        work = 0.0
        for name, look in seen.items():
            part = there.get(name)
            if part is not None and kind_of(part) is not None:
                n_in, n_out = sides(part)
                work += 3.0 * n_in * n_out * look.rows
        return work

    def _choices(self, layers: Mapping[nn.Module, str], looks: bool) -> list[Choice]:
        """The ranks at which layers' factors take less time."""
        left, seen = self.budget.left, self.watched.layers
        share = self.budget.taken + left * (BREAK_EVENS if looks else 1)
        choices = {}
        # The layers that take most of a step come first.
        for part, name in sorted(
            layers.items(), key=lambda one: -self._work({one[1]: seen.get(one[1], Seen())})
        ):
            n_in, n_out = sides(part)
            limit, how = break_even_rank(n_in, n_out), "counted"
            if name in seen and not self.budget.counts:
                least = self.budget.products(least_work(part, seen[name]))
                if self.budget.taken + least > share:
                    choices[name] = Choice(name, [], TOO_LONG, sides=(n_in, n_out))
                    continue
                seconds = min(SECONDS, self.budget.seconds(share - self.budget.taken))
                limit = measured_break_even(part, seen[name], seconds=seconds)
                how = "measured"
            fractions: Sequence[float] = FRACTIONS if looks else FRACTIONS[-1:]
            ranks = {resolve_rank(fraction, n_in, n_out) for fraction in fractions}
            options = sorted(rank for rank in ranks if rank <= limit)
            why = "" if options else f"its factors are no faster: break-even rank {limit}, {how}"
            allowed = LOST_OF_KERNEL if isinstance(kind_of(part), Convolution) else LOST
            choices[name] = Choice(name, options, why, sides=(n_in, n_out), allowed=allowed)
        return [choices[name] for name in layers.values()]


def _drop(choice: Choice) -> bool:
    """Drops the largest rank if there are others. Returns True if it did."""
    if len(choice.options) < 2:
        return False
    choice.options.pop()
    return True


def _wait(part: nn.Module) -> None:
    if next(part.parameters()).is_cuda:
        torch.cuda.synchronize(next(part.parameters()).device)


def _wake(part: nn.Module) -> None:
    """Runs a GPU's first decomposition, which loads libraries and must not be timed."""
    if next(part.parameters()).is_cuda:
        small = torch.eye(16, device=next(part.parameters()).device)
        torch.linalg.svd(torch.linalg.qr(small)[0])
        torch.linalg.cholesky_ex(small)
        _wait(part)
