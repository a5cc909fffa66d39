# SPDX-License-Identifier: BSD-3-Clause
"""The four steps of the method in a user's own training loop: dense, factored, recomposed.

This file says when. Elsewhere: the switch of layers and optimizer (switch.py), the looks of "auto"
(looks.py) and its decisions (auto.py), events (events.py), the saved state's form (saved.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from svdfast._process.checks import count
from svdfast.torch.auto import Auto
from svdfast.torch.budget import Budget
from svdfast.torch.clock import Clock
from svdfast.torch.distributed import Team, unwrapped
from svdfast.torch.events import Event, factored_in, table
from svdfast.torch.kinds import kind_of
from svdfast.torch.layers import Factored
from svdfast.torch.looks import Looks
from svdfast.torch.observe import observe
from svdfast.torch.optimizers import check_held, checked
from svdfast.torch.places import own_reason, under
from svdfast.torch.rules import paired, ranks_by, supported
from svdfast.torch.sample import Loss, Sample
from svdfast.torch.saved import Plan, Saved
from svdfast.torch.switch import Switch, Truncated, weights
from svdfast.torch.watch import unwatch
from svdfast.training.auto import FIRST_LOOK, RECOVERY
from svdfast.training.factoring import Factoring, factoring_of
from svdfast.training.switch import FADE

__all__ = ["Event", "Schedule"]

# With more steps, shares of them are no whole numbers.
MOST_STEPS = 2**53
# Losses of so many steps are averaged, at the start and before and after a truncation.
WINDOW = 20


class Schedule:
    """Factors a model's layers in place while it trains, and recomposes them.

    It never owns the loop: call `step` after ``optimizer.step()``. At the switch, factored layers
    replace layers of the model (`svdfast.torch.factorize`). The optimizer stays the same object
    with the same groups; it gets the factors in place of the weights, with moments carried. SGD,
    Adam, AdamW, NAdam and RAdam are known. Any other optimizer's state restarts for these layers,
    with a warning; LBFGS is refused. Existing gradients are carried, too, so `step` may come before
    or after ``zero_grad()``.

    Parameters
    ----------
    model : torch.nn.Module
        It may be compiled or in DistributedDataParallel. The latter is built again in place at a
        switch; rank 0 decides and truncates. Models whose parameters are split over processes
        (FSDP, DeepSpeed) are refused.
    optimizer : torch.optim.Optimizer
        Holds all weights that are to be factored.
    n_steps : int
        Steps of the optimizer in the whole training.
    factoring : "auto", float, Factoring or None
        "auto" decides about each layer by the rules of `svdfast.Factoring`, but measures on the
        device which ranks save time. With `sample` and a loss, it truncates each layer alone and
        computes the loss. A layer that the model hardly needs yet stays dense. Without sample and
        loss, layers get a quarter of their rank if that is faster; the losses given to `step`, if
        any, decide whether a layer is recomposed. A number is α. A Factoring's sequence of ranks
        has one for each layer that can be factored, in the model's order. Its `product_decay`,
        `structure`, `split`, a sequence of learning rates, and the guard's action "raise" with
        given ranks are not supported. The switch comes after the first step at the earliest. With
        None, steps are only counted.
    skip : collection of str
        Names of layers to leave, or of modules in which all are left. The output layer should be
        one of them.
    sample : iterable, optional
        A few batches on the model's device, which are kept. A tensor x is passed as ``model(x)``, a
        mapping as ``model(**batch)``. A tuple gives as many items as ``forward`` requires, or all
        if it requires none. With a sample, truncation preserves the layers' outputs best, not the
        weights.
    loss : callable, optional
        ``loss(output, batch)``, a scalar tensor; by default the output's ``loss``, if it has one.

    Attributes
    ----------
    events : list of Event
    n_done : int
        Number of steps so far.

    Raises
    ------
    TypeError, ValueError
        An argument is out of range; weights that would be factored are not in the optimizer.
        Nothing is changed then.

    Notes
    -----
    To resume, build model, optimizer and schedule as at first. Load the schedule's state before the
    others, as it brings the model and the optimizer into their saved form.

    The factors' `learning_rate` needs no groups: hooks of the optimizer lengthen its steps while
    layers are factored.

    A copy that tracks the model, such as a moving average of its weights, does not follow a switch:
    begin it after the last one.

    Looks of "auto" take at most 2 % of the training's time. If time is short, they use fewer rows
    of the sample, then fewer ranks. If even that does not fit, layers stay dense, and `explain`
    says so.

    With ``torch.use_deterministic_algorithms`` on, no time is measured: multiplications are counted
    instead.

    A layer that got hooks or a parametrization while it was factored stays factored, with a
    warning, as they would be lost. A layer that had them before is not factored.

    If a step fails or is interrupted in a switch or a look, everything stays as it was. The next
    step does what was due.

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
        self.optimizer = checked(optimizer)
        self.n_steps = n = count("n_steps", n_steps, minimum=0, maximum=MOST_STEPS)
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
        self._clock = Clock(module)

        unwatch(module)
        layers = self._switch.usable(held=False)
        self._given = paired(self.factoring, layers)
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
                self._looks.watch()
            else:
                plan.switch_step = first
        if end == n and not self.factoring.recompose:
            plan.recompose_step = None

    def _new_looks(self, first: int, end: int) -> Looks:
        guard = self.factoring.guard
        auto = Auto(self.n_steps, first, end, None if guard is None else guard.tolerance)
        budget = Budget(self.n_steps, self._clock.seconds_of_step)
        return Looks(self._switch, self._sample, auto, budget)

    def _restored(self, state: Mapping[str, Any]) -> Looks:
        looks = self._new_looks(0, self._end)
        try:
            looks.restore(state)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state: expected what state_dict gave, got {error!r}") from error
        return looks

    @property
    def phase(self) -> str:
        """The current phase: "factored" while layers are factored, else "dense"."""
        return "factored" if self._switch.own else "dense"

    # ---- steps

    def step(self, loss: Tensor | float | None = None) -> Event | None:
        """Counts a step of the optimizer, and does what is due after it.

        Parameters
        ----------
        loss : Tensor or float, optional
            Loss of the step, one number. It is read only when something is decided.

        Returns
        -------
        Event or None
            The last event of this step; `events` has all.
        """
        value = _one_number(loss)
        self._clock.stop(factored=bool(self._switch.own))
        self.n_done += 1
        n_before = len(self.events)
        self._note(value)
        if self.n_done == 1 or (self._looks is not None and not self._looks.begun):
            self._begin(loss)
        if any(_due(self.n_done, step) for step in self._steps_to_come()):
            self._clock.wait(factored=bool(self._switch.own))
            with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
                self._act()
        self._set_fade()
        self._clock.start()
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
        """Does what is due after this step. A task stays due until it is done."""
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
            if switch.own:
                self._guard()
            else:
                plan.guard_step = None
        if _due(n, plan.switch_step):
            self._switch_by_rule()
        if _due(n, plan.recompose_step) and switch.own:
            self._end_factors()

    def finish(self) -> None:
        """Ends the method now, for a training that ends before `n_steps`.

        Layers are recomposed as after the last step, unless the factoring's `recompose` is False.
        No hooks are left on the model or the optimizer. A schedule that has ended only counts
        steps. With DistributedDataParallel, all processes have to call this.
        """
        switch, plan = self._switch, self._plan
        switch.forget_others()
        if switch.own and self.factoring.recompose:
            self._end_factors()
        unwatch(switch.module)
        plan.switch_step = plan.guard_step = plan.recompose_step = self._looks = None

    def _end_factors(self) -> None:
        began = time.perf_counter()
        names = self._recompose(list(self._switch.own))
        self._looks = self._plan.recompose_step = None
        if names:
            self._tell("recompose", began, layers=names)

    def _tell(self, kind: str, began: float, **info: Any) -> None:
        info["seconds"] = time.perf_counter() - began
        self.events.append(Event(kind, self.n_done, info))

    def _note(self, value: Tensor | float | None) -> None:
        if value is None:
            return
        if len(self._first) < WINDOW:
            self._first.append(value)
        self._recent.append(value)

    def _begin(self, loss: Tensor | float | None) -> None:
        """Sets up what is known after the first step."""
        looks = self._looks
        if looks is not None:
            self._clock.wait(factored=bool(self._switch.own))
            self._clock.first(looks.watched.began)
            looks.restore(self._team.decide(looks.begin))
        elif self.factoring.guard is not None and loss is None:
            sample, module = self._sample, self._switch.module
            if self._team.decide(lambda: sample and sample.piece_loss(module, 0)) is None:
                raise ValueError("guard: expected a sample with a loss, or step(loss), got neither")

    def _set_fade(self) -> None:
        """Fades the longer steps out, so that their noise is gone at the end."""
        if self.factoring.learning_rate == "auto":
            left = (self.n_steps - self.n_done) / max(1, FADE * self.n_steps)
            self._switch.rates.fade = min(1.0, max(0.0, left))

    # ---- the switch and its guard

    def _truncate(self, ranks: Mapping[str, int], make: Callable[[], dict[str, Truncated]], began: float) -> None:
        """Truncates layers, and notes the event."""
        if not ranks:
            self._tell("ranks", began, layers=self._switch.reasons)
            return
        info = self._switch.truncate(ranks, make)
        self._clock.factored.clear()
        self._tell("switch", began, **info, layers=self._switch.reasons)

    def _recompose(self, names: Collection[str], why: str = "") -> list[str]:
        """Recomposes layers, and notes that. Returns the names of the recomposed ones."""
        ranks = {name: self._switch.own[name].rank for name in names}
        done = self._switch.recompose(names)
        self._clock.factored.clear()
        for name in done:
            was = factored_in(self.events, name, ranks[name], self.n_done)
            self._switch.notes[name] = was + why
        return done

    def _switch_by_rule(self) -> None:
        began = time.perf_counter()
        layers = self._switch.usable()
        ranks, notes = self._team.decide(
            lambda: ranks_by(self.factoring, layers, self._given, self._rows(layers))
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
            self._truncate(ranks, self._switch.truncated(ranks, batches), began)
        except BaseException:
            if not self._switch.own:  # it is tried again
                self._plan = planned
            raise

    def _rows(self, layers: Mapping[nn.Module, str]) -> dict[nn.Module, int] | None:
        """How often layers are called, if a rule weights them by that and there is a sample."""
        if self._sample is None or not isinstance(self.factoring.ranks, str):
            return None
        seen = observe(self._switch.module, self._sample.batches, layers, gram=False)
        return {part: look.rows for part, look in seen.items()}

    def _loss(self) -> float | None:
        """The current loss: on the sample, else of the last steps."""
        on_sample = None if self._sample is None else self._sample.loss(self._switch.module)
        return _mean(self._recent) if on_sample is None else on_sample

    def _guard(self) -> None:
        """Checks if the loss has recovered from a switch to given ranks."""
        guard, plan = self.factoring.guard, self._plan
        assert guard is not None
        began, later = time.perf_counter(), None
        loss = self._team.decide(self._loss)
        action, names = "kept", list[str]()
        if plan.before is not None and not loss <= plan.before * (1 + guard.tolerance):
            action = "undone"
            later = self.n_done + max(1, round(self.factoring.phi * self.n_steps))
            if guard.action != "delay" or later >= (plan.recompose_step or self.n_steps):
                later = None
            else:
                action = "delayed"
            names = self._recompose(list(self._switch.own), ", undone")
        plan.guard_step, plan.switch_step = None, later
        info = {"loss_before": plan.before, "loss_recovered": loss}
        self._tell("guard", began, **info, action=action, layers=names)

    # ---- "auto"

    def _check(self, looks: Looks) -> None:
        """Checks if the last truncation of "auto" proved good; if not, recomposes layers."""
        began, guard = time.perf_counter(), self.factoring.guard
        own, before = set(self._switch.own), looks.state()

        def check() -> Any:
            for_good = guard is not None and guard.action == "undo"
            on_sample = looks.loss()
            loss = _mean(self._recent) if on_sample is None else on_sample
            bound = self._switch.bound()
            ranks = {n: made.rank for n, made in self._switch.own.items() if n not in bound}
            seconds = self._clock.both()
            if seconds is not None and looks.auto.is_slow(seconds):
                # The dense steps were timed in the past. Only what is slower now, too, is undone.
                now = looks.dense_step_now(seconds[1])
                seconds = None if now is None else (now, seconds[1])
            back, info = looks.auto.check(self.n_done, ranks, loss, seconds, for_good=for_good)
            return back, info, looks.state()

        try:
            back, info, state = self._team.decide(check)
            looks.restore(state)
            if back:
                self._recompose(back, ", undone")
        except BaseException:
            if self._switch.own.keys() == own:
                looks.restore(before)
            raise
        self._tell("guard", began, **info)

    def _look(self, looks: Looks) -> None:
        """Looks which layers to truncate, and truncates them."""
        began, before, own = time.perf_counter(), looks.state(), set(self._switch.own)
        unwatch(self._switch.module)
        layers = self._switch.usable()
        make: Callable[[], dict[str, Truncated]] = dict

        def look() -> Any:
            nonlocal make
            recent, first = _mean(self._recent), _mean(self._first)
            ranks, notes, make = looks.look(self.n_done, layers, recent, first)
            return ranks, notes, looks.state()

        try:
            ranks, notes, state = self._team.decide(look)
            looks.restore(state)
            self._switch.notes |= notes
            self._truncate(ranks, make, began)
        except BaseException:
            if self._switch.own.keys() == own:
                looks.restore(before)
            raise

    # ---- what it tells, and its state

    def explain(self) -> str:
        """A table of the layers: their current rank, and the reason."""
        switch, due = self._switch, "no switch is to come"
        steps = [self._plan.switch_step, self._looks.auto.look_step if self._looks else None]
        for step in steps:
            if step is not None:
                due = f"decided after step {step}"
        switch.usable()  # why others can't be factored now
        reasons = switch.reasons

        def why(name: str, part: nn.Module) -> str:
            if part in switch.skip:
                return "it is in skip"
            if isinstance(part, Factored) and name not in switch.own:
                return "it was factored by someone else"
            return reasons.get(name) or (own_reason(part) if kind_of(part) is None else None) or due

        lines = table(switch.module, why)
        top = f"step {self.n_done} of {self.n_steps}, {self.phase}"
        return "\n".join([top, *lines, *self._remarks()])

    def _remarks(self) -> list[str]:
        looks = self._looks
        if looks is not None and not looks.starts and looks.auto.start is None and not self._first:
            return [
                "no losses are known, so no truncation is guarded: give sample and loss, or step(loss)"
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
        """Continues from a saved state. Load it before the model's and the optimizer's.

        The model's layers and the optimizer's parameters get their saved form. New factors are NaN
        until the model's own state is loaded.

        Raises
        ------
        ValueError
            The state is of another model or training; nothing is changed then.
        """
        saved, switch = Saved.of(state), self._switch
        saved.check(self.n_steps, automatic=self.factoring.automatic)
        looks = None if saved.looks is None else self._restored(saved.looks)
        switch.take_form(saved.ranks, saved.scales)
        unwatch(switch.module)
        self.n_done, self._plan = saved.n_done, saved.plan
        switch.notes, self.events = saved.notes, saved.events
        self._first, self._recent = saved.first, deque(saved.recent, maxlen=WINDOW)
        self._looks = looks
        if looks is not None and looks.auto.look_step is not None:
            looks.watch()
        self._set_fade()
        self._clock.pause()


def _due(n: int, step: int | None) -> bool:
    return step is not None and n >= step


def _mean(losses: Collection[Any]) -> float | None:
    return sum(map(float, losses)) / len(losses) if losses else None


def _one_number(loss: Tensor | float | None) -> Tensor | float | None:
    """Copies a loss to keep, as a CUDA graph writes each step's loss to the same place."""
    if not isinstance(loss, Tensor):
        try:
            return None if loss is None else float(loss)
        except OverflowError:
            raise ValueError("loss: expected a number, got one that is beyond floats") from None
    if loss.numel() != 1:
        raise ValueError(f"loss: expected one number, got shape {tuple(loss.shape)}")
    return loss.detach().clone()
