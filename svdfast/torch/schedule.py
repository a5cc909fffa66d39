# SPDX-License-Identifier: BSD-3-Clause
"""The four steps of the method in a training loop of the user's own: dense, factored, dense again.

Not here: what "auto" decides (auto.py), how the optimizer follows (optimizers.py), the cut of a
layer (cut.py), several processes (distributed.py), when factors pay (timing.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from svdfast._process.checks import count
from svdfast.model.counting import break_even_rank
from svdfast.model.svd import resolve_rank
from svdfast.torch.auto import Auto, Choice
from svdfast.torch.cut import cut
from svdfast.torch.distributed import Team, unwrapped
from svdfast.torch.form import blank, form
from svdfast.torch.kinds import kind_of
from svdfast.torch.layers import Factored
from svdfast.torch.observe import Seen, observe
from svdfast.torch.optimizers import Change, check_held, known_kind, move_state, swap
from svdfast.torch.places import is_trained, reasons_to_leave, replace, sides, under, why_rather_not
from svdfast.torch.rates import ADAMS, Rates, relative_scale
from svdfast.torch.rules import check_number, ranks_by, supported
from svdfast.torch.sample import Loss, Sample
from svdfast.torch.timing import measured_break_even
from svdfast.torch.watch import unwatch, watch
from svdfast.training.auto import FIRST_LOOK, FRACTIONS, RECOVERY
from svdfast.training.factoring import Factoring, factoring_of
from svdfast.training.switch import FADE

__all__ = ["Event", "Schedule"]

# Losses of so many steps are averaged, at the start and before and after a cut.
WINDOW = 20


@dataclass(frozen=True)
class Event:
    """What happened in a step of a `Schedule`.

    Attributes
    ----------
    kind : {"ranks", "switch", "guard", "recompose"}
    step : int
        Steps of the optimizer done.
    info : dict
        Its `seconds`, and for each kind:

        - "ranks", a look that found nothing to cut: `layers`, a reason by name;
        - "switch": `ranks`, `dropped` (‖W − W1·W2‖_F), `learning_rate_scales` and `layers`
          (reasons), all by name;
        - "guard": `loss_before` the cut, `loss_recovered` now, `action` ("kept", "watched",
          "undone", "delayed") and `layers`, those that are dense again; where steps are no faster
          also `seconds_dense` and `seconds_factored` of one;
        - "recompose": `layers`, those that are dense again.
    """

    kind: str
    step: int
    info: dict[str, Any]


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

    Nothing is measured and the clock is not looked at where ``torch.use_deterministic_algorithms``
    is on: multiplications are counted instead.

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
        self._module, ddp = unwrapped(model)
        self._team = Team(ddp)
        self.optimizer = _plain(optimizer)
        self.n_steps = n = count("n_steps", n_steps, minimum=0)
        self.factoring = supported(factoring_of(factoring))
        self._skip = under(self._module, skip)
        if loss is not None and sample is None:
            raise ValueError("loss: expected a sample with it")
        self._sample = None if sample is None else Sample(sample, loss)
        self.events: list[Event] = []
        self.n_done = 0

        self._own: dict[str, Factored] = {}
        self._rates = Rates(self.optimizer)
        self._notes: dict[str, str] = {}
        self._first: list[Any] = []
        self._recent: deque[Any] = deque(maxlen=WINDOW)
        self._seconds: dict[str, deque[float]] = {
            phase: deque(maxlen=WINDOW) for phase in ("dense", "factored")
        }
        self._last: float | None = None

        unwatch(self._module)
        layers = self._usable()
        check_number(self.factoring, len(layers))
        check_held(self.optimizer, _weights(layers))

        self._recompose_step: int | None = n - round(self.factoring.dense_tail * n)
        first = max(1, round(self.factoring.phi * n))
        self._auto: Auto | None = None
        self._seen: dict[str, Seen] = {}
        self._switch_step: int | None = None
        self._guard_step: int | None = None
        self._before: float | None = None
        if first < self._recompose_step:
            if self.factoring.automatic:
                if self.factoring.pretrain_fraction is None:
                    first = min(first, FIRST_LOOK)
                guard = self.factoring.guard
                tolerance = None if guard is None else guard.tolerance
                self._auto = Auto(n, first, self._recompose_step, tolerance)
                self._seen = watch(layers)
            else:
                self._switch_step = first
        if self._recompose_step == n and not self.factoring.recompose:
            self._recompose_step = None

    @property
    def phase(self) -> str:
        """Either "factored", while layers are, or "dense"."""
        return "factored" if self._own else "dense"

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
        self.n_done += 1
        n_before = len(self.events)
        self._note(loss)
        if self.n_done == 1:
            self._begin(loss)
        auto, n = self._auto, self.n_done
        due = [self._guard_step, self._switch_step, self._recompose_step]
        if n in due or (auto is not None and n in (auto.check_step, auto.look_step)):
            self._act(auto, n)
        self._set_fade()
        self._last = time.perf_counter()
        return self.events[-1] if len(self.events) > n_before else None

    def _act(self, auto: Auto | None, n: int) -> None:
        """Does what is due after this step."""
        self._forget_others()
        if auto is not None and n == auto.check_step and self._own:
            self._check(auto)
        if auto is not None and n == auto.look_step:
            self._look(auto)
        if n == self._guard_step:
            self._guard()
        if n == self._switch_step:
            self._switch_by_rule()
        if n == self._recompose_step and self._own:
            self._auto = None
            began = time.perf_counter()
            names = list(self._own)
            self._recompose(names)
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
        """What is known of the loss at the start."""
        if self._auto is None and self.factoring.guard is None:
            return
        start = self._team.decide(self._sample_loss)
        if self._auto is not None:
            self._auto.start = start
        elif start is None and loss is None:
            raise ValueError("guard: expected a sample with a loss, or step(loss), got neither")

    def _sample_loss(self) -> float | None:
        return None if self._sample is None else self._sample.loss(self._module)

    def _loss(self) -> float | None:
        """As it is now: on the sample, else of the last steps."""
        on_sample = self._sample_loss()
        return _mean(self._recent) if on_sample is None else on_sample

    def _forget_others(self) -> None:
        """Leaves layers that someone else has replaced."""
        if self._own:
            there = dict(self._module.named_modules())
            gone = [name for name, made in self._own.items() if there.get(name) is not made]
            self._forget(gone)

    def _forget(self, names: Collection[str]) -> None:
        for name in names:
            del self._own[name]
        self._rates.follow(self._own)

    def _set_fade(self) -> None:
        """At the end no noise of longer steps is to be left."""
        if self.factoring.learning_rate == "auto":
            left = (self.n_steps - self.n_done) / max(1, FADE * self.n_steps)
            self._rates.fade = min(1.0, max(0.0, left))

    def _scale(self, made: Factored) -> float:
        """What the learning rate of a layer is multiplied with, now that it is factored."""
        given = self.factoring.learning_rate
        if isinstance(given, float):
            return given
        return relative_scale(made) if isinstance(self.optimizer, ADAMS) else 1.0

    def _usable(self) -> dict[nn.Module, str]:
        """The layers that can be factored now; notes why others can't."""
        layers = {
            part: name
            for name, part in self._module.named_modules()
            if name and part not in self._skip and not isinstance(part, Factored) and kind_of(part)
        }
        reasons = reasons_to_leave(self._module, layers)
        for part in layers:
            if part not in reasons and not self.factoring.force:
                reason = why_rather_not(part)
                if reason is not None:
                    reasons[part] = reason
            if not is_trained(part):
                reasons.setdefault(part, "its weight is frozen")
        self._notes |= {layers[part]: reason for part, reason in reasons.items()}
        return {part: name for part, name in layers.items() if part not in reasons}

    # ---- the switch

    def _switch_by_rule(self) -> None:
        began = time.perf_counter()
        layers = self._usable()
        check_number(self.factoring, len(layers))
        ranks, notes = self._team.decide(
            lambda: ranks_by(self.factoring, layers, self._rows(layers))
        )
        self._notes |= notes
        guarded = self.factoring.guard is not None and bool(ranks)
        if guarded:
            self._before = self._team.decide(self._loss)
            self._guard_step = self.n_done + max(1, round(RECOVERY * self.n_steps))
        self._switch(ranks, {}, began)

    def _switch(
        self,
        ranks: Mapping[str, int],
        cuts: dict[tuple[str, int], tuple[Factored, float]],
        began: float,
    ) -> None:
        """Cuts layers, and tells of it.

        Parameters
        ----------
        cuts : dict
            What has been cut already, on rank 0.
        """
        if not ranks:
            self._tell("ranks", began, layers=dict(self._notes))
            return
        there = dict(self._module.named_modules())

        def make() -> dict[str, float]:
            grams = {} if all((n, r) in cuts for n, r in ranks.items()) else self._grams(ranks)
            for name, rank in ranks.items():
                if (name, rank) not in cuts:
                    cuts[name, rank] = self._cut(there[name], name, rank, grams)
            return {name: cuts[name, rank][1] for name, rank in ranks.items()}

        dropped = self._team.decide(make)
        if not self._team.leads:
            cuts = {(name, rank): (blank(there[name], rank), 0.0) for name, rank in ranks.items()}
        changes = {
            name: Change(there[name], cuts[name, rank][0], True) for name, rank in ranks.items()
        }
        self._apply(changes.values())
        self._own |= {name: change.factored for name, change in changes.items()}
        scales = {name: self._scale(change.factored) for name, change in changes.items()}
        self._rates.scales |= self._team.agree(scales)
        self._rates.follow(self._own)
        info = {"ranks": dict(ranks), "dropped": dropped, "learning_rate_scales": scales}
        self._tell("switch", began, **info, layers=dict(self._notes))

    @torch.no_grad()
    def _cut(
        self, part: nn.Module, name: str, rank: int, grams: Mapping[nn.Module, Tensor]
    ) -> tuple[Factored, float]:
        return cut(part, name, rank, self.factoring.svd, grams.get(part))

    def _rows(self, layers: Mapping[nn.Module, str]) -> dict[nn.Module, int] | None:
        """How often layers are called, where a rule weighs them by that and a sample tells it."""
        if self._sample is None or not isinstance(self.factoring.ranks, str):
            return None
        seen = observe(self._module, self._sample.inputs(self._module), layers, gram=False)
        return {part: look.rows for part, look in seen.items()}

    def _grams(self, names: Collection[str]) -> Mapping[nn.Module, Tensor]:
        """Of the inputs of these layers, where a cut is to look at them."""
        if self._sample is None or not self.factoring.activation_aware:
            return {}
        there = dict(self._module.named_modules())
        layers = {there[name]: name for name in names}
        seen = observe(self._module, self._sample.inputs(self._module), layers)
        return {part: look.gram for part, look in seen.items() if look.gram is not None}

    def _apply(self, changes: Collection[Change], *, carry: bool = True) -> None:
        """Puts layers in each other's place, in the model and in the optimizer."""
        moments = carry and self.factoring.moments == "carry"
        self._team.share(p for change in changes for p in change.new)
        state = move_state(self.optimizer, changes, carry=moments)
        gradients: dict[nn.Parameter, Tensor] = {}
        for change in changes:
            old = [p.grad for p in change.old if p.grad is not None]
            if carry and len(old) == len(change.old):
                gradients.update(zip(change.new, change.carry("mean", old), strict=True))
        # Nothing has changed so far.
        replace(
            self._module,
            {c.dense: c.factored for c in changes if c.forward}
            | {c.factored: c.dense for c in changes if not c.forward},
        )
        swap(self.optimizer, changes, state)
        for change in changes:
            for parameter in change.old:
                parameter.grad = None
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        if changes:
            self._team.rebuild()
            self._seconds["factored"].clear()

    def _recompose(self, names: Collection[str]) -> None:
        with torch.no_grad():
            self._apply([Change(self._own[name].dense(), self._own[name], False) for name in names])
        self._forget(names)

    # ---- the guards

    def _guard(self) -> None:
        """Whether the loss has recovered from a switch to given ranks."""
        guard = self.factoring.guard
        assert guard is not None
        began, self._guard_step = time.perf_counter(), None
        loss = self._team.decide(self._loss)
        action, names = "kept", []
        if self._before is not None and not loss <= self._before * (1 + guard.tolerance):
            action, names = "undone", list(self._own)
            later = self.n_done + max(1, round(self.factoring.phi * self.n_steps))
            if guard.action == "delay" and later < (self._recompose_step or self.n_steps):
                action, self._switch_step = "delayed", later
            self._recompose(names)
        info = {"loss_before": self._before, "loss_recovered": loss}
        self._tell("guard", began, **info, action=action, layers=names)

    def _check(self, auto: Auto) -> None:
        """Whether the last cut of "auto" has proved good; else a layer becomes dense again."""
        began, guard = time.perf_counter(), self.factoring.guard
        ranks = {name: made.rank for name, made in self._own.items()}

        def check() -> Any:
            for_good = guard is not None and guard.action == "undo"
            back, info = auto.check(
                self.n_done, ranks, self._loss(), self._clock(), for_good=for_good
            )
            return back, info, auto.state()

        back, info, state = self._team.decide(check)
        auto.restore(state)
        if back:
            self._recompose(back)
            self._notes |= {name: f"its cut to rank {ranks[name]} was taken back" for name in back}
        self._tell("guard", began, **info)

    def _clock(self) -> tuple[float, float] | None:
        """Seconds of a dense step and of one now, if they are to count."""
        times = [median(times) for times in self._seconds.values() if len(times) > 1]
        clock = len(times) == 2 and not torch.are_deterministic_algorithms_enabled()
        return (times[0], times[1]) if clock else None

    def _look(self, auto: Auto) -> None:
        """Which layers to cut, by looking, and their cut."""
        began = time.perf_counter()
        unwatch(self._module)
        there = dict(self._module.named_modules())
        layers = self._usable()
        cuts: dict[tuple[str, int], tuple[Factored, float]] = {}

        def look() -> Any:
            self._look_at_sample(layers)
            loss, looks = self._sample_loss(), True
            if loss is None:
                loss, looks = _mean(self._recent), False
                if auto.start is None:
                    auto.start = _mean(self._first)
            choices = [self._choice(part, name, looks) for part, name in layers.items()]
            grams = (
                self._grams([choice.name for choice in choices if choice.options]) if looks else {}
            )

            def rise(ranks: Mapping[str, int]) -> float:
                for name, rank in ranks.items():
                    if (name, rank) not in cuts:
                        cuts[name, rank] = self._cut(there[name], name, rank, grams)
                new = {there[name]: cuts[name, rank][0] for name, rank in ranks.items()}
                replace(self._module, new)
                try:
                    now = self._sample_loss()
                finally:
                    replace(self._module, {made: part for part, made in new.items()})
                assert now is not None and loss is not None
                return now - loss

            ranks = auto.look(self.n_done, choices, loss, rise if looks else None)
            return ranks, {choice.name: choice.why for choice in choices}, auto.state()

        ranks, notes, state = self._team.decide(look)
        auto.restore(state)
        self._notes |= notes
        self._switch(ranks, cuts, began)

    def _look_at_sample(self, layers: Mapping[nn.Module, str]) -> None:
        """Shows the inputs of layers that were not watched, as in a compiled graph."""
        unseen = {part: name for part, name in layers.items() if name not in self._seen}
        if self._sample is not None and unseen:
            batches = self._sample.inputs(self._module)
            for part, seen in observe(self._module, batches, unseen, gram=False).items():
                self._seen[unseen[part]] = seen

    def _choice(self, part: nn.Module, name: str, looks: bool) -> Choice:
        """The ranks at which a layer's factors take less time."""
        n_in, n_out = sides(part)
        seen = self._seen.get(name)
        if torch.are_deterministic_algorithms_enabled() or seen is None:
            limit, how = break_even_rank(n_in, n_out), "counted"
        else:
            limit, how = measured_break_even(part, seen), "measured"
        fractions: Sequence[float] = FRACTIONS if looks else FRACTIONS[-1:]
        ranks = {resolve_rank(fraction, n_in, n_out) for fraction in fractions}
        options = sorted(rank for rank in ranks if rank <= limit)
        return Choice(name, options, f"its factors are no faster: break-even rank {limit}, {how}")

    # ---- what it tells, and its state

    def explain(self) -> str:
        """A table of the layers: their rank now, and why that is so."""
        there = dict(self._module.named_modules())
        unwatched = self._usable() if self.n_done else {}
        rows = [("layer", "type", "weight", "rank", "why")]
        names = {
            **dict.fromkeys(self._notes),
            **dict.fromkeys(unwatched.values()),
            **dict.fromkeys(self._own),
        }
        for name in names:
            part = there.get(name)
            if part is None or kind_of(part) is None:
                continue
            made = isinstance(part, Factored)
            n_in, n_out = sides(part)
            rank = str(part.rank) if made else "dense"
            rows.append(
                (name, type(part).__name__, f"{n_out}×{n_in}", rank, self._notes.get(name, ""))
            )
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*map(str.ljust, row, widths), row[4]]).rstrip() for row in rows]
        return "\n".join(
            [f"step {self.n_done} of {self.n_steps}, {self.phase}", *lines, *self._remarks()]
        )

    def _remarks(self) -> list[str]:
        if self._auto is not None and self._auto.start is None and not self._first:
            return [
                "no losses are known, so no cut is guarded: give sample and loss, or step(loss)"
            ]
        return []

    _PLAIN = ("n_done", "n_steps", "_switch_step", "_guard_step", "_recompose_step", "_before")

    def state_dict(self) -> dict[str, Any]:
        """The phase, the ranks and the plan, as plain Python numbers, lists and dicts."""
        self._forget_others()
        return {
            "plan": {name.lstrip("_"): getattr(self, name) for name in self._PLAIN},
            "ranks": {name: made.rank for name, made in self._own.items()},
            "scales": dict(self._rates.scales),
            "auto": None if self._auto is None else self._auto.state(),
            "notes": dict(self._notes),
            "first": [float(loss) for loss in self._first],
            "recent": [float(loss) for loss in self._recent],
            "events": [[event.kind, event.step, event.info] for event in self.events],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where a state was saved. Load it before the model's and the optimizer's.

        The model's layers and the optimizer's parameters get the form that they were saved in. New
        factors are NaN until the model's own state is loaded.

        Raises
        ------
        ValueError
            It is not of such a model or training; nothing is changed then.
        """
        try:
            plan, ranks, scales = dict(state["plan"]), dict(state["ranks"]), dict(state["scales"])
            events = [Event(kind, step, dict(info)) for kind, step, info in state["events"]]
            notes, auto = dict(state["notes"]), state["auto"]
            first, recent = list(state["first"]), list(state["recent"])
            values = {name: plan[name.lstrip("_")] for name in self._PLAIN}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state: expected what state_dict gave, got {error!r}") from error
        if values["n_steps"] != self.n_steps:
            got = f"one of {values['n_steps']}"
            raise ValueError(
                f"state: expected that of a training of {self.n_steps} steps, got {got}"
            )
        if (auto is not None) and not self.factoring.automatic:
            raise ValueError('state: expected that of given ranks, got one of factoring="auto"')
        unwatch(self._module)
        back, forth, made = form(self._module, ranks)
        self._apply(back, carry=False)
        self._apply(forth, carry=False)
        self._own = made
        for name, value in values.items():
            setattr(self, name, value)
        self._notes, self.events = notes, events
        self._first, self._recent = first, deque(recent, maxlen=WINDOW)
        if auto is None:
            self._auto = None
        else:
            self._auto = self._auto or Auto(self.n_steps, 0, self.n_steps)
            self._auto.restore(auto)
        if self._auto is not None and self._auto.look_step is not None:
            self._seen = watch(self._usable())
        self._rates.scales = scales
        self._rates.follow(made)
        self._set_fade()
        self._last = None


def _weights(layers: Mapping[nn.Module, str]) -> Iterable[tuple[str, nn.Parameter]]:
    for part, name in layers.items():
        kind = known_kind(part)
        for own, weight in zip(kind.names(part), kind.weights(part), strict=True):
            yield f"{name}.{own}", weight


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
