# SPDX-License-Identifier: BSD-3-Clause
"""The four steps of the method in a training loop of the user's own: dense, factored, dense again.

This file says when. Not here: the switch of layers and optimizer (switch.py), what "auto" looks at
(looks.py) and decides (auto.py), events (events.py), the saved state's form (saved.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from svdfast._process.checks import count
from svdfast.torch.auto import Auto
from svdfast.torch.budget import Budget
from svdfast.torch.distributed import Team, unwrapped
from svdfast.torch.events import Event, factored_in, table
from svdfast.torch.looks import Looks
from svdfast.torch.observe import observe
from svdfast.torch.optimizers import check_held
from svdfast.torch.places import under
from svdfast.torch.rules import check_number, ranks_by, supported
from svdfast.torch.sample import Loss, Sample
from svdfast.torch.saved import Plan, Saved
from svdfast.torch.switch import Cut, Switch, weights
from svdfast.torch.watch import unwatch, watch, watching
from svdfast.training.auto import FIRST_LOOK, RECOVERY
from svdfast.training.factoring import Factoring, factoring_of
from svdfast.training.switch import FADE

__all__ = ["Event", "Schedule"]

# Losses of so many steps are averaged, at the start and before and after a cut.
WINDOW = 20


class Schedule:
    """Factors a model's layers while it trains, in place, and multiplies them together again.

    It never owns the loop: call `step` after ``optimizer.step()``. At the switch layers of the
    model are replaced by factored ones (`svdfast.torch.factorize`), and the optimizer, the same
    object with the same groups, gets the factors in place of the weights, with moments carried.
    SGD, Adam, AdamW, NAdam and RAdam are known; another one's state starts again for these layers,
    with a warning. Gradients that are there are carried, too, so that `step` may come before or
    after ``zero_grad()``.

    Parameters
    ----------
    model : torch.nn.Module
        Compiled or in DistributedDataParallel, too: that is built again, in place, at a switch, and
        rank 0 decides and cuts. Forms of a model without whole parameters (FSDP, DeepSpeed) are
        refused.
    optimizer : torch.optim.Optimizer
        Holds all weights that are to be factored.
    n_steps : int
        Steps of the optimizer in the whole training.
    factoring : "auto", float, Factoring or None
        "auto" decides about each layer by itself, by the rules of `svdfast.Factoring`, but which
        ranks save time is measured on the device. With `sample` and a loss, layers are cut alone
        and the loss is looked at. Without, layers get a quarter of their rank where that is faster;
        the losses given to `step`, if any, tell whether a layer must go back. A number is α. Of a
        Factoring, a sequence has a rank for each layer that can be factored, in the model's order;
        `product_decay`, `structure`, `split` and a sequence of learning rates are not supported,
        nor is the guard's action "raise" with given ranks. The switch comes after the first step at
        the earliest. None only counts.
    skip : collection of str
        Layers to leave, or modules in which all are left. The output layer should be one of them.
    sample : iterable, optional
        A few batches, kept, on the model's device: a tensor x is given as ``model(x)``, a mapping
        as ``model(**batch)``, and of a tuple the items that ``forward`` must be given, or all where
        it must be given none. Cuts then change the layers' outputs least, instead of the weights.
    loss : callable, optional
        ``loss(output, batch)``, a scalar tensor; by default the output's ``loss``, where it has
        one.

    Attributes
    ----------
    events : list of Event
    n_done : int
        Steps so far.

    Raises
    ------
    TypeError, ValueError
        An argument is out of range; weights that would be factored are not in the optimizer.
        Nothing is changed then.

    Notes
    -----
    To resume, build model, optimizer and schedule as at first; load the schedule's state before the
    others, as it brings the model and the optimizer into the form that they were saved in.

    The factors' `learning_rate` needs no groups: hooks of the optimizer lengthen its steps while
    layers are factored.

    A copy of the model that follows it, such as a moving average of its weights, does not follow a
    switch: begin it after the last one.

    Looks of "auto" take at most 2 % of the training's time. Where there is little of it, fewer rows
    of the sample are looked at, then fewer ranks; where not even that fits, layers stay dense, and
    `explain` says so.

    Nothing is measured and the clock is not looked at where ``torch.use_deterministic_algorithms``
    is on: multiplications are counted instead.

    A step that was interrupted, or failed, in a switch or a look leaves all as it was. What was due
    is done in the next step.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import Schedule
    >>> def build():
    ...     model = torch.nn.Sequential()
    ...     model.hidden = torch.nn.Linear(400, 300)
    ...     model.activation = torch.nn.ReLU()
    ...     model.output = torch.nn.Linear(300, 1)
    ...     optimizer = torch.optim.Adam(model.parameters())
    ...     schedule = Schedule(model, optimizer, n_steps=40, factoring=1 / 4, skip=["output"])
    ...     return model, optimizer, schedule
    >>> model, optimizer, schedule = build()
    >>> x = torch.rand(64, 400)
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     (model(x) - x.mean(1, keepdim=True)).square().mean().backward()
    ...     optimizer.step()
    ...     event = schedule.step()
    ...     if event is not None:
    ...         print(event.step, event.kind, event.info["ranks"])
    2 switch {'hidden': 75}
    >>> saved = schedule.state_dict(), model.state_dict(), optimizer.state_dict()

    And in another process:

    >>> model, optimizer, schedule = build()
    >>> for part, state in zip((schedule, model, optimizer), saved):
    ...     _ = part.load_state_dict(state)
    >>> schedule.phase, model.hidden
    ('factored', FactoredLinear(in_features=400, out_features=300, rank=75, bias=True))
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        n_steps: int,
        factoring: Factoring | float | str | None = "auto",
        skip: Collection[str] = (),
        sample: Iterable[Any] | None = None,
        loss: Loss | None = None,
    ):
        module, ddp = unwrapped(model)
        self._team = Team(ddp)
        self.optimizer = _plain(optimizer)
        self.n_steps = n = count("n_steps", n_steps, minimum=0)
        self.factoring = supported(factoring_of(factoring))
        if loss is not None and sample is None:
            raise ValueError("loss: expected a sample with it")
        self._sample = None if sample is None else Sample(sample, loss)
        skipped = under(module, skip)
        self._switch = Switch(module, self.optimizer, self._team, self.factoring, skipped)
        self.events: list[Event] = []
        self.n_done = 0

        self._first: list[Any] = []
        self._recent: deque[Any] = deque(maxlen=WINDOW)
        self._seconds: dict[str, deque[float]] = {
            phase: deque(maxlen=WINDOW) for phase in ("dense", "factored")
        }
        self._last: float | None = None
        self._made, self._first_seconds, self._lag = time.perf_counter(), 0.0, 0.0

        unwatch(module)
        layers = self._switch.usable(held=False)
        check_number(self.factoring, len(layers))
        check_held(self.optimizer, weights(layers))

        self._end = end = n - round(self.factoring.dense_tail * n)
        self._plan = plan = Plan(n_steps=n, recompose_step=end)
        first = max(1, round(self.factoring.phi * n))
        self._looks: Looks | None = None
        if first < end:
            if self.factoring.automatic:
                if self.factoring.pretrain_fraction is None:
                    first = min(first, FIRST_LOOK)
                self._looks = self._new_looks(first, end)
            else:
                plan.switch_step = first
        if end == n and not self.factoring.recompose:
            plan.recompose_step = None

    def _new_looks(self, first: int, end: int) -> Looks:
        guard = self.factoring.guard
        auto = Auto(self.n_steps, first, end, None if guard is None else guard.tolerance)
        module = self._switch.module
        seen = watch(module, self._switch.usable())
        budget = Budget(self.n_steps, self._seconds_of_step)
        return Looks(self._switch, self._sample, auto, budget, seen)

    @property
    def phase(self) -> str:
        """Either "factored", while layers are, or "dense"."""
        return "factored" if self._switch.own else "dense"

    # ---- steps

    def step(self, loss: Tensor | float | None = None) -> Event | None:
        """Counts a step of the optimizer, and does what is due after it.

        Parameters
        ----------
        loss : Tensor or float, optional
            Of the step. It is read only when something is decided.

        Returns
        -------
        Event or None
            The last of what happened; `events` has all.
        """
        if self._last is not None:
            self._seconds[self.phase].append(time.perf_counter() - self._last)
        self._last = None  # what an interruption takes is no step's time
        self.n_done += 1
        n_before = len(self.events)
        self._note(loss)
        if self.n_done == 1 or (self._looks is not None and not self._looks.begun):
            self._begin(loss)
        if any(_due(self.n_done, step) for step in self._steps_to_come()):
            self._await()
            self._act()
        self._set_fade()
        self._last = time.perf_counter()
        return self.events[-1] if len(self.events) > n_before else None

    def _steps_to_come(self) -> list[int | None]:
        plan, auto = self._plan, None if self._looks is None else self._looks.auto
        own = self._switch.own
        return [
            plan.guard_step,
            plan.switch_step,
            plan.recompose_step if own else None,
            auto.look_step if auto else None,
            auto.check_step if auto else None,
        ]

    def _act(self) -> None:
        """Does what is due after this step. It stays due until it is done."""
        n, plan, switch, looks = self.n_done, self._plan, self._switch, self._looks
        switch.forget_others()
        if looks is not None and _due(n, looks.auto.check_step):
            if switch.own:
                self._check(looks)
            else:
                looks.auto.check_step = None
        if looks is not None and _due(n, looks.auto.look_step):
            self._look(looks)
        if _due(n, plan.guard_step):
            self._guard()
        if _due(n, plan.switch_step):
            self._switch_by_rule()
        if _due(n, plan.recompose_step) and switch.own:
            began, names = time.perf_counter(), list(switch.own)
            self._recompose(names)
            self._looks = None
            self._tell("recompose", began, layers=names)

    def _tell(self, kind: str, began: float, **info: Any) -> None:
        info["seconds"] = time.perf_counter() - began
        self.events.append(Event(kind, self.n_done, info))

    def _note(self, loss: Tensor | float | None) -> None:
        if loss is None:
            return
        # A copy, as a CUDA graph writes each step's loss to the same place.
        value = loss.detach().clone() if isinstance(loss, Tensor) else float(loss)
        if len(self._first) < WINDOW:
            self._first.append(value)
        self._recent.append(value)

    def _begin(self, loss: Tensor | float | None) -> None:
        """What is known at the start."""
        looks = self._looks
        if looks is not None:
            self._await()
            began = looks.watched.began
            self._first_seconds = time.perf_counter() - (self._made if began is None else began)
            looks.restore(self._team.decide(looks.begin))
        elif self.factoring.guard is not None and loss is None:
            sample, module = self._sample, self._switch.module
            if self._team.decide(lambda: sample and sample.piece_loss(module, 0)) is None:
                raise ValueError("guard: expected a sample with a loss, or step(loss), got neither")

    def _set_fade(self) -> None:
        """At the end no noise of longer steps is to be left."""
        if self.factoring.learning_rate == "auto":
            left = (self.n_steps - self.n_done) / max(1, FADE * self.n_steps)
            self._switch.rates.fade = min(1.0, max(0.0, left))

    # ---- time

    def _await(self) -> None:
        """Waits for a GPU's steps, which are behind the clock by that, each by a share of it."""
        parameter = next(self._switch.module.parameters(), None)
        began = time.perf_counter()
        if parameter is not None and parameter.is_cuda:
            torch.cuda.synchronize(parameter.device)
        if not self._switch.own:
            waited = time.perf_counter() - began
            self._lag = waited / max(1, len(self._seconds["dense"]))

    def _seconds_of_step(self) -> float:
        """Of a dense one; the first one, as long as there is no other."""
        dense = self._seconds["dense"]
        return median(dense) + self._lag if dense else self._first_seconds

    def _clock(self) -> tuple[float, float] | None:
        """Seconds of a dense step and of one now, if they are to count."""
        times = [median(times) for times in self._seconds.values() if len(times) > 1]
        clock = len(times) == 2 and not torch.are_deterministic_algorithms_enabled()
        return (times[0], times[1]) if clock else None

    # ---- the switch and its guard

    def _cut(self, ranks: Mapping[str, int], make: Callable[[], dict[str, Cut]], began: float) -> None:
        """Cuts layers, and tells of it."""
        if not ranks:
            self._tell("ranks", began, layers=dict(self._switch.notes))
            return
        info = self._switch.cut(ranks, make)
        self._seconds["factored"].clear()
        self._tell("switch", began, **info, layers=dict(self._switch.notes))

    def _recompose(self, names: Collection[str], why: str = "") -> None:
        """Makes layers dense again, and notes that."""
        ranks = {name: self._switch.own[name].rank for name in names}
        self._switch.recompose(names)
        self._seconds["factored"].clear()
        for name, rank in ranks.items():
            self._switch.notes[name] = factored_in(self.events, name, rank, self.n_done) + why

    def _switch_by_rule(self) -> None:
        began = time.perf_counter()
        layers = self._switch.usable()
        check_number(self.factoring, len(layers))
        ranks, notes = self._team.decide(
            lambda: ranks_by(self.factoring, layers, self._rows(layers))
        )
        guarded = self.factoring.guard is not None and bool(ranks)
        before = self._team.decide(self._loss) if guarded else None
        self._switch.notes |= notes
        aware = self._sample is not None and self.factoring.activation_aware
        batches = self._sample.batches if aware and self._sample is not None else None
        plan, planned = self._plan, replace(self._plan)
        plan.switch_step = None
        if guarded:
            plan.before = before
            plan.guard_step = self.n_done + max(1, round(RECOVERY * self.n_steps))
        try:
            self._cut(ranks, self._switch.cuts(ranks, batches), began)
        except BaseException:
            if not self._switch.own:  # it is tried again
                self._plan = planned
            raise

    def _rows(self, layers: Mapping[nn.Module, str]) -> dict[nn.Module, int] | None:
        """How often layers are called, where a rule weighs them by that and a sample tells it."""
        if self._sample is None or not isinstance(self.factoring.ranks, str):
            return None
        seen = observe(self._switch.module, self._sample.batches, layers, gram=False)
        return {part: look.rows for part, look in seen.items()}

    def _loss(self) -> float | None:
        """As it is now: on the sample, else of the last steps."""
        on_sample = None if self._sample is None else self._sample.loss(self._switch.module)
        return _mean(self._recent) if on_sample is None else on_sample

    def _guard(self) -> None:
        """Whether the loss has recovered from a switch to given ranks."""
        guard, plan = self.factoring.guard, self._plan
        assert guard is not None
        began, later = time.perf_counter(), None
        loss = self._team.decide(self._loss)
        action, names = "kept", []
        if plan.before is not None and not loss <= plan.before * (1 + guard.tolerance):
            action, names = "undone", list(self._switch.own)
            later = self.n_done + max(1, round(self.factoring.phi * self.n_steps))
            if guard.action != "delay" or later >= (plan.recompose_step or self.n_steps):
                later = None
            else:
                action = "delayed"
            self._recompose(names, ", taken back")
        plan.guard_step, plan.switch_step = None, later
        info = {"loss_before": plan.before, "loss_recovered": loss}
        self._tell("guard", began, **info, action=action, layers=names)

    # ---- "auto"

    def _check(self, looks: Looks) -> None:
        """Whether the last cut of "auto" has proved good; else a layer becomes dense again."""
        began, guard = time.perf_counter(), self.factoring.guard
        ranks = {name: made.rank for name, made in self._switch.own.items()}
        before = looks.state()

        def check() -> Any:
            for_good = guard is not None and guard.action == "undo"
            on_sample = looks.loss()
            loss = _mean(self._recent) if on_sample is None else on_sample
            back, info = looks.auto.check(
                self.n_done, ranks, loss, self._clock(), for_good=for_good
            )
            return back, info, looks.state()

        try:
            back, info, state = self._team.decide(check)
            looks.restore(state)
            if back:
                self._recompose(back, ", taken back")
        except BaseException:
            if self._switch.own.keys() == ranks.keys():
                looks.restore(before)
            raise
        self._tell("guard", began, **info)

    def _look(self, looks: Looks) -> None:
        """Which layers to cut, by looking, and their cut."""
        began, before, own = time.perf_counter(), looks.state(), set(self._switch.own)
        unwatch(self._switch.module)
        layers = self._switch.usable()
        make: Callable[[], dict[str, Cut]] = dict

        def look() -> Any:
            nonlocal make
            recent, first = _mean(self._recent), _mean(self._first)
            ranks, notes, make = looks.look(self.n_done, layers, recent, first)
            return ranks, notes, looks.state()

        try:
            ranks, notes, state = self._team.decide(look)
            looks.restore(state)
            self._switch.notes |= notes
            self._cut(ranks, make, began)
        except BaseException:
            if self._switch.own.keys() == own:
                looks.restore(before)
            raise

    # ---- what it tells, and its state

    def explain(self) -> str:
        """A table of the layers: their rank now, and why that is so."""
        switch = self._switch
        layers = watching(switch.module) or list(switch.usable().values())
        names = dict.fromkeys([*switch.notes, *layers, *switch.own])
        lines = table(switch.module, names, switch.notes)
        top = f"step {self.n_done} of {self.n_steps}, {self.phase}"
        return "\n".join([top, *lines, *self._remarks()])

    def _remarks(self) -> list[str]:
        looks = self._looks
        if looks is not None and not looks.starts and looks.auto.start is None and not self._first:
            return [
                "no losses are known, so no cut is guarded: give sample and loss, or step(loss)"
            ]
        return []

    def state_dict(self) -> dict[str, Any]:
        """The phase, the ranks and the plan, as plain Python numbers, lists and dicts."""
        switch = self._switch
        switch.forget_others()
        return Saved(
            n_done=self.n_done,
            plan=self._plan,
            ranks={name: made.rank for name, made in switch.own.items()},
            scales=switch.rates.scales,
            looks=None if self._looks is None else self._looks.state(),
            notes=switch.notes,
            first=[float(loss) for loss in self._first],
            recent=[float(loss) for loss in self._recent],
            events=self.events,
        ).state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where a state was saved. Load it before the model's and the optimizer's.

        The model's layers and the optimizer's parameters get the form that they were saved in. New
        factors are NaN until the model's own state is loaded.

        Raises
        ------
        ValueError
            It is not of such a model or training; nothing is changed then.
        """
        saved, switch = Saved.of(state), self._switch
        saved.check(self.n_steps, automatic=self.factoring.automatic)
        unwatch(switch.module)
        switch.take_form(saved.ranks, saved.scales)
        self.n_done, self._plan = saved.n_done, saved.plan
        switch.notes, self.events = saved.notes, saved.events
        self._first, self._recent = saved.first, deque(saved.recent, maxlen=WINDOW)
        if saved.looks is None:
            self._looks = None
        else:
            self._looks = self._new_looks(0, self._end)
            self._looks.restore(saved.looks)
            if self._looks.auto.look_step is None:
                unwatch(switch.module)
        self._set_fade()
        self._last = None


def _due(n: int, step: int | None) -> bool:
    return step is not None and n >= step


def _mean(losses: Collection[Any]) -> float | None:
    return sum(map(float, losses)) / len(losses) if losses else None


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer itself, where Accelerate or Lightning have put it in one of theirs."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        got = type(optimizer).__name__
        raise TypeError(f"optimizer: expected a torch.optim.Optimizer, got {got}")
    return optimizer
