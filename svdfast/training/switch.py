# SPDX-License-Identifier: BSD-3-Clause
"""The work between steps of a training: the switch to factors, its guard, and recomposition.

`Switch` knows the step before which it wants to act next. Then the loop (loop.py) calls it, and
passes its events to the callbacks. Elsewhere: the loop, the choice of ranks (ranks.py, auto.py),
and carried moments (moments.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import count
from svdfast.model.evaluation import Evaluator
from svdfast.model.layout import Layout
from svdfast.model.products import threads
from svdfast.model.ranks import Fraction, ranks_by, why_bottleneck, without_bottlenecks
from svdfast.model.structures import Dense, Structure
from svdfast.model.truncation import Truncation, matrices, rebuilt, usable_ranks
from svdfast.training.auto import FIRST_LOOK, Auto
from svdfast.training.diagnosis import Watch
from svdfast.training.events import Event
from svdfast.training.factoring import Factoring
from svdfast.training.moments import carry
from svdfast.training.run import Kept, Run
from svdfast.training.state import BeforeState, SwitchState

__all__ = ["Switch"]

# The share of all steps from the switch until the guard checks the loss again.
RECOVERY = 0.02
# The number of samples whose layers' outputs a truncation changes least.
DIRECTED = 2048
# Over the last share FADE of the steps, the difference between the factors' learning rates and the
# optimizer's goes to 0 in FADES steps.
FADE, FADES = 0.3, 30
# A decay of the weights may cost this share of the multiplications of the steps between two. At
# most DECAY_LONGEST steps are between two.
DECAY_SHARE = 0.02
DECAY_LONGEST = 100
# The factors' learning rate is at most LARGEST_SCALE times the optimizer's, and at least its
# inverse. Twice and more made regressions with far outliers among their inputs diverge that a dense
# training bears (bench/suite.py, california in layers of 1024).
LARGEST_SCALE = 1.5

Done: TypeAlias = Iterator[Event | float]


@dataclass
class _Before:
    """The network before it was truncated, and its loss then and right after."""

    kept: Kept
    loss: float
    loss_after: float = 0.0


class Switch:
    """The four steps of a training, except for the optimizer's own steps.

    Parameters
    ----------
    run : Run
    factoring : Factoring
    n_steps : int
        Steps of the whole training.
    evaluator : Evaluator or None
    watch : Watch
        Gives the error to raise if numbers are not finite.

    Attributes
    ----------
    next_step : int
        The step before which `act` wants to be called; never if it is n_steps.
    """

    def __init__(self, run: Run, factoring: Factoring, n_steps: int, evaluator: Evaluator | None, watch: Watch):
        self.run, self.factoring, self.n_steps = run, factoring, n_steps
        self.evaluator, self.watch = evaluator, watch
        self.recompose_step = n_steps - round(factoring.dense_tail * n_steps)
        self.switch_step = self.guard_step = self.decay_step = n_steps
        self.decay_every = 0
        self.auto: Auto | None = None
        self.ranks: list[int | None] | None = None
        self.before: _Before | None = None
        if run.net.is_factored:
            if isinstance(factoring.learning_rate, tuple):
                run.scales = self._scales()
            self._plan_decay(0)
        else:
            first = min(round(factoring.phi * n_steps), self.recompose_step)
            if first == self.recompose_step:
                self.recompose_step = n_steps  # dense throughout
            elif factoring.automatic:
                if factoring.pretrain_fraction is None:
                    first = min(first, FIRST_LOOK)
                self.auto = Auto(run.net.layout, n_steps, first, self.recompose_step)
            else:
                self.switch_step = first
        self._plan(-1)

    def state(self) -> SwitchState:
        """Returns the record that a checkpoint stores."""
        before = self.before
        return SwitchState(
            self.next_step,
            self.switch_step,
            self.guard_step,
            self.recompose_step,
            self.decay_step,
            self.decay_every,
            self.ranks,
            None if self.auto is None else self.auto.state(),
            None if before is None else BeforeState(before.kept.state(), before.loss, before.loss_after),
        )

    def restore(self, state: SwitchState) -> None:
        """Takes a record that `state` returned."""
        self.next_step, self.switch_step, self.guard_step = state.next_step, state.switch_step, state.guard_step
        self.recompose_step, self.decay_step, self.decay_every = state.recompose_step, state.decay_step, state.decay_every
        ranks, n_hidden = state.ranks, len(self.run.net.layout.factorable)
        if ranks is not None and len(ranks) != n_hidden:
            raise ValueError(f"it has {len(ranks)} ranks for {n_hidden} hidden layers")
        self.ranks = None if ranks is None else [None if rank is None else count("ranks", rank) for rank in ranks]
        if state.auto is None:
            self.auto = None
        elif self.factoring.automatic:
            self.auto = Auto(self.run.net.layout, self.n_steps, 0, self.recompose_step)
            self.auto.restore(state.auto)
        if state.before is not None and self.factoring.guard is not None:
            before = state.before
            self.before = _Before(self.run.checked(before.network), before.loss, before.loss_after)

    def shorten(self, step: int, n_steps: int) -> None:
        """Ends the training, which is before `step`, after `n_steps` steps instead.

        The dense steps at the end keep their share of it.
        """
        if step < self.recompose_step < self.n_steps:
            self.recompose_step = max(step, n_steps - round(self.factoring.dense_tail * n_steps))
            if self.auto is not None:
                self.auto.end = self.recompose_step
        self.n_steps = n_steps
        self._plan(step - 1)

    def _plan(self, step: int) -> None:
        """Sets next_step to the nearest action that is due after `step`."""
        coming = [self.switch_step, self.guard_step, self.recompose_step, self.decay_step]
        if self.auto is not None:
            coming += [self.auto.next_step, self.auto.check_step]
        if any(scale != 1 for scale in self.run.scales) and self.factoring.learning_rate == "auto":
            begin, every = round((1 - FADE) * self.n_steps), max(1, round(FADE * self.n_steps / FADES))
            coming.append(max(begin, begin + ((step - begin) // every + 1) * every))
        self.next_step = min([s for s in coming if s > step], default=self.n_steps)

    def act(self, step: int, epoch: int, phases: Sequence[Mapping[str, Any]]) -> Done:
        """Does the work that is due before this step, after steps in these forms.

        Yields each event as soon as it has happened, and the seconds that no event reports.
        """
        run = self.run
        if self.auto is not None and not self.auto.owns(run.net.layout):
            self.auto = None  # A callback has changed the form of layers: it makes the choice from here on.
        if self.auto is not None and step == self.auto.check_step:
            yield from self._check(step, epoch, phases)
        if self.auto is not None and step == self.auto.next_step:
            yield from self._look(step, epoch)
        if step == self.switch_step:
            yield from self._choose(step, epoch)
        elif step == self.guard_step and self.before is not None:
            yield from self._guard(step, epoch)
        elif step == self.recompose_step and run.net.is_factored:
            self.auto = None
            yield self._event("recompose", step, epoch, {"seconds": self.recompose()})
        if step == self.decay_step and run.net.is_factored:
            yield self._decay(step, epoch)
        if self.factoring.learning_rate == "auto":
            run.set_fade(min(1.0, (self.n_steps - step) / max(1, FADE * self.n_steps)))
        self._plan(step)

    def _event(self, kind: str, step: int, epoch: int, info: dict[str, Any]) -> Event:
        return Event(kind, epoch, step, self.run.net, info)

    def _look(self, step: int, epoch: int) -> Done:
        """Finds the layers to truncate by trying, and truncates them."""
        assert self.auto is not None
        net, began = self.run.net, time.perf_counter()
        self.run.follow()
        self._finite(step, epoch)
        try:
            found = self.auto.look(self.run, step, self.factoring)
        except FloatingPointError as error:
            raise self.watch.diverged(str(error), step, epoch) from error
        parameters = net.parameters.copy() if any(found.ranks) else None
        yield self._event("ranks", step, epoch, found.info | {"seconds": time.perf_counter() - began})
        if parameters is not None and self.auto.owns(net.layout):
            # A callback may have changed the parameters.
            directions = found.directions if np.array_equal(parameters, net.parameters) else {}
            if self.factoring.guard is not None:
                loss = self._validate()
                self.auto.before, self.auto.limit = loss, loss * (1 + self.factoring.guard.tolerance)
            event = self._switch(found.ranks, step, epoch, time.perf_counter(), directions)
            self.auto.note(net.layout)
            yield event
            self._plan_decay(step)

    def _check(self, step: int, epoch: int, phases: Sequence[Mapping[str, Any]]) -> Done:
        """Checks the last truncation; if it has not proved good, a layer is recomposed."""
        assert self.auto is not None
        run, began = self.run, time.perf_counter()
        dense = [phase for phase in phases if phase["phase"] == "dense"]
        times = [phase["seconds"] / max(phase["steps"], 1) for phase in (*dense[-1:], phases[-1])]
        guard = self.factoring.guard
        loss = self.auto.sample_loss(run) if guard is None else self._validate()
        back, info = self.auto.check(run, step, loss, times, for_good=guard is not None and guard.action == "undo")
        if back:
            self._recompose([Dense(s.n_out, s.n_in) if i in back else s for i, s in enumerate(run.net.layout.structures)])
            self.auto.note(run.net.layout)
        yield self._event("guard", step, epoch, info | {"seconds": time.perf_counter() - began})

    def _finite(self, step: int, epoch: int) -> None:
        """Raises if the parameters have blown up."""
        net = self.run.net
        with np.errstate(over="ignore", invalid="ignore"):
            norm = np.linalg.norm(net.parameters.astype(np.float64))
        if not norm < np.finfo(net.dtype).max:
            raise self.watch.diverged(f"the norm of the parameters became {norm}", step, epoch)

    def _choose(self, step: int, epoch: int) -> Done:
        """Chooses ranks by the rule, and switches if there is something to factor."""
        net, rule = self.run.net, self.factoring.rule
        began = time.perf_counter()
        self._finite(step, epoch)
        self.ranks = wanted = ranks_by(rule, net.layout.factorable, matrices(net.state))
        if isinstance(rule, Fraction) and not self.factoring.force:
            self.ranks = without_bottlenecks(wanted, net.layout.factorable)
        event = self._switch(self.ranks, step, epoch, began, {})
        for i, (rank, given) in enumerate(zip(wanted, self.ranks, strict=True)):
            if rank != given:
                assert rank is not None
                why = why_bottleneck(rank, net.layout.factorable[i])
                event.info["kept_dense"].append({"layer": i, "rank": None, "why": why})
        yield event
        self._plan_decay(step)

    def _switch(
        self,
        ranks: Sequence[int | None],
        step: int,
        epoch: int,
        began: float,
        directions: dict[int, NDArray[Any]],
    ) -> Event:
        run = self.run
        run.follow()
        recovery = max(1, round(RECOVERY * self.n_steps))
        before = None
        guarded = self.factoring.guard is not None and self.auto is None and step > 0 and step + recovery < self.recompose_step
        if guarded:
            before = _Before(run.kept(), self._validate())
        try:
            with threads(run.n_threads):
                truncations, scales = self._truncate(ranks, directions)
        except FloatingPointError as error:
            raise self.watch.diverged(str(error), step, epoch) from error
        if before is not None and run.net.is_factored:
            before.loss_after = self._validate()
            self.before, self.guard_step = before, step + recovery
        seconds = time.perf_counter() - began
        info = {"truncations": truncations, "learning_rate_scales": scales, "kept_dense": [], "seconds": seconds}
        return self._event("switch", step, epoch, info)

    def _plan_decay(self, step: int) -> None:
        run = self.run
        if self.factoring.product_decay > 0 and run.net.is_factored:
            self.decay_every = _decay_interval(run.net.layout, run.batch_size)
            self.decay_step = step + self.decay_every

    def _decay(self, step: int, epoch: int) -> float:
        """Decays for the steps since the last decay, at this step's rate. Returns the seconds."""
        began = time.perf_counter()
        rate = self.run.rate(step, self.n_steps)
        net, amount = self.run.net, self.decay_every * rate * self.factoring.product_decay
        for index in net.layout.factored:
            layer = net.layers[index]
            try:
                layer.structure.decay(layer.weight_tensors, amount)
            except FloatingPointError as error:
                raise self.watch.diverged(f"layer {index}: {error}", step, epoch) from error
        self._plan_decay(step)
        return time.perf_counter() - began

    def _truncate(
        self, ranks: Sequence[int | None], directions: dict[int, NDArray[Any]]
    ) -> tuple[tuple[Truncation, ...], tuple[float, ...]]:
        """Truncates the network, with the optimizer's state and the factors' learning rates."""
        run, factoring = self.run, self.factoring
        net, optimizer = run.net, run.optimizer
        old = net.state
        moments = optimizer.moments
        inputs, weights = run.sample(run.sample_rows()[:DIRECTED]) if factoring.activation_aware and not directions else (None, None)
        run.release()  # decompositions need memory, too
        truncations = net.truncate(
            ranks=ranks,
            method=factoring.svd,
            split=factoring.split,
            force=factoring.force,
            inputs=inputs,
            sample_weight=weights,
            directions=directions,
            structure=factoring.structure,
        )
        new = net.state
        # If a training diverges, moments overflow before the loss does; the loss then reports it.
        with np.errstate(all="ignore"):
            carried = carry(optimizer.kinds, moments, old, new)
            scales = self._scales()
        if factoring.moments == "carry":
            optimizer.adopt((new[0], net.dtype), carried)
        # A layer that was truncated before keeps its own.
        pairs = zip(scales, run.scales, old[0].structures, new[0].structures, strict=True)
        scales = [before if a == b else scale for scale, before, a, b in pairs]
        run.scales = scales
        run.rebuild()
        return truncations, tuple(scales)

    def _scales(self) -> list[float]:
        """The multiplier of the learning rate of each layer, now that some are factored."""
        factor = self.factoring.learning_rate
        net = self.run.net
        scales = [1.0] * len(net.layers)
        for index in net.layout.factored:
            layer = net.layers[index]
            if isinstance(factor, tuple):
                scales[index] = factor[index]
            elif isinstance(factor, float):
                scales[index] = factor
            elif "square" in self.run.optimizer.kinds:
                scale = layer.structure.relative_scale(layer.weight_tensors)
                scales[index] = min(max(scale, 1 / LARGEST_SCALE), LARGEST_SCALE)
        return scales

    def _validate(self) -> float:
        """The loss on validation data, else on a sample of the training data."""
        run = self.run
        return run.loss(run.net, run.sample_rows()) if self.evaluator is None else self.evaluator(run.net).loss

    def _guard(self, step: int, epoch: int) -> Done:
        """Checks that the loss has recovered; else more rank, a later truncation, or none."""
        factoring, run, guard = self.factoring, self.run, self.factoring.guard
        assert self.before is not None and self.ranks is not None and guard is not None
        began = time.perf_counter()
        before, self.before, self.guard_step = self.before, None, self.n_steps
        recovered = self._validate()

        def event(action: str) -> Event:
            info = {"loss_before": before.loss, "loss_after": before.loss_after, "loss_recovered": recovered}
            return self._event("guard", step, epoch, info | {"action": action, "seconds": time.perf_counter() - began})

        if recovered <= before.loss * (1 + guard.tolerance):
            yield event("kept")
            return
        run.back(before.kept)
        if guard.action == "raise":
            layout = run.net.layout
            twice = [
                rank and min(2 * rank, layer.n_in, layer.n_out)
                for rank, layer in zip(self.ranks, layout.factorable, strict=True)
            ]
            usable = usable_ranks(layout, twice, factoring.structure, force=factoring.force)
            if usable != self.ranks and any(usable):
                yield event("raised")
                self.ranks = usable
                yield self._switch(usable, step, epoch, time.perf_counter(), {})
                self._plan_decay(step)
                return
        elif guard.action == "delay":
            later = step + max(1, round(factoring.phi * self.n_steps))
            if later < self.recompose_step:
                self.switch_step = later
                yield event("delayed")
                return
        self.recompose_step = self.n_steps
        yield event("undone")

    def recompose(self) -> float:
        """Recomposes the network, with the optimizer's state. Returns the seconds."""
        began = time.perf_counter()
        self.run.follow()
        self._recompose(self.run.net.layout.recomposed().structures)
        return time.perf_counter() - began

    def _recompose(self, structures: Sequence[Structure]) -> None:
        """Changes layers to these structures, if they have others."""
        run = self.run
        old, moments = run.net.state, run.optimizer.moments
        with np.errstate(over="ignore", invalid="ignore"):  # the loop checks it next
            run.net.set_state(*rebuilt(old, structures, {}))
        if self.factoring.moments == "carry":
            layout, parameters = run.net.state
            with np.errstate(all="ignore"):
                carried = carry(run.optimizer.kinds, moments, old, (layout, parameters))
            run.optimizer.adopt((layout, parameters.dtype), carried)
        layers = run.net.layers
        run.scales = [scale if layers[i].structure.factored else 1.0 for i, scale in enumerate(run.scales)]
        run.rebuild()


def _decay_interval(layout: Layout, batch_size: int) -> int:
    """Steps between two decays of the factored weights, so that decays cost next to nothing."""
    cost = sum(layout.structures[i].decay_multiplications for i in layout.factored)
    step = layout.program.multiplications("step") * batch_size
    return max(1, min(DECAY_LONGEST, round(cost / (DECAY_SHARE * step))))
