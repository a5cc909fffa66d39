# SPDX-License-Identifier: BSD-3-Clause
"""What happens between steps of a training: the switch to factors, the guard that looks at it, and recomposition.

`Method` knows before which step it wants to act next; the loop (loop.py) asks it then. Not here: the loop, and how ranks are chosen
(ranks.py, auto.py), how moments are carried (moments.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from svdfast._engine import Engine, aligned_zeros
from svdfast._process.checks import count, positive_number
from svdfast.data.arrays import Source
from svdfast.data.checks import Samples
from svdfast.interop.files import layout_header, parse_layout
from svdfast.model.evaluation import Evaluator
from svdfast.model.layout import Layout
from svdfast.model.network import Network, Truncation
from svdfast.model.ranks import RankRule
from svdfast.training.auto import Auto
from svdfast.training.decay import decay_product, interval
from svdfast.training.moments import carry, relative_scale
from svdfast.training.optimizers import Optimizer

__all__ = ["Event", "Method", "Run", "Settings"]

# Shares of all steps: after the switch, until the guard looks again.
RECOVERY = 0.02
# Samples that the layers' inputs, and a loss, are looked at over.
SAMPLE = 2048
# The factors' learning rate is at most so many times the optimizer's, and at least its inverse.
LARGEST_SCALE = 4.0
# Of steps, in a checkpoint: as far as floats count.
_LARGEST_COUNT = 2**53


@dataclass(frozen=True)
class Event:
    """What callbacks are told.

    Attributes
    ----------
    kind : {"ranks", "switch", "guard", "recompose", "epoch"}
    epoch : int
        From 1.
    step : int
        Mini-batches done.
    network : Network
    info : dict
        `seconds` that it took, and: "ranks" (of ranks="auto"): `ranks`, `reason`, `why`, and what was measured. "switch": `truncations`,
        a tuple of Truncation, and `learning_rate_scales`, one for each layer. "guard": `loss_before`, `loss_after` the cut,
        `loss_recovered`, and `action` ("kept", "raised", "delayed", "undone"). "epoch": the new row of the history.
    """

    kind: str
    epoch: int
    step: int
    network: Network
    info: dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """The arguments of `train` that say how the four steps go, checked."""

    rule: RankRule | Literal["auto"] | None
    pretrain_fraction: float
    recompose_fraction: float
    force: bool
    activation_aware: bool
    svd_method: Literal["exact", "randomized"]
    split: str
    moments: str
    factor_learning_rate: float | tuple[float, ...] | Literal["auto"]
    guard_tolerance: float | None
    guard_action: str
    product_decay: float


@dataclass
class _Before:
    """A network and its optimizer's state before it was cut, to go back to: nothing writes to these arrays after the cut."""

    state: tuple[Layout, NDArray[Any]]
    moments: tuple[NDArray[Any], ...]
    n_updates: int
    loss: float
    loss_after: float = 0.0


def _packed(state: tuple[Layout, NDArray[Any]], moments: tuple[NDArray[Any], ...], n_updates: int) -> dict[str, Any]:
    """A network's parameters and its optimizer's state, as a checkpoint has them."""
    return {"layout": layout_header(state[0]), "parameters": state[1], "moments": moments, "n_updates": n_updates}


class Run:
    """The engine of a training and what it is rebuilt from when the network's layout changes.

    Attributes
    ----------
    data : Samples
        What batches are taken from at present: all data, where they are in memory, else some of them.
    sampled : Samples or None
        What to take a sample from, where `data` are too few.
    """

    def __init__(
        self,
        net: Network,
        data: Samples,
        optimizer: Optimizer,
        n_threads: int,
        batch_size: int,
        l1: float,
        l2: float,
        bfloat16: bool = False,
        reproducible: bool = False,
    ):
        self.net, self.data, self.optimizer = net, data, optimizer
        self.n_threads, self.batch_size, self.bfloat16 = n_threads, batch_size, bfloat16
        self.l1, self.l2, self.reproducible = l1, l2, reproducible
        self.scales = [1.0] * len(net.layers)
        self.engine: Engine
        self.order: NDArray[np.int64] | None = None
        self.sampled: Samples | None = None

    @property
    def outdated(self) -> bool:
        """Whether a callback has truncated or recomposed."""
        return self.net.parameters is not self.parameters

    def follow(self) -> None:
        """Rebuilds where a callback has truncated or recomposed."""
        if self.outdated:
            if self.net.layout.ranks[:-1] != self.ranks:
                self.scales = [1.0] * len(self.net.layers)
            self.rebuild()

    def rebuild(self) -> None:
        layout, parameters = self.net.state
        self.parameters = parameters
        self.ranks = layout.ranks[:-1]
        self.phase = "factored" if self.net.is_factored else "dense"
        self.optimizer.begin((layout, parameters.dtype), layout.size, parameters.dtype)
        self.release()
        self.engine = Engine(
            layout,
            parameters,
            batch_size=self.batch_size,
            n_threads=self.n_threads,
            bfloat16=self.bfloat16,
            reproducible=self.reproducible,
        )
        self.data.bind(self.engine)
        self.engine.set_order(self.order)
        self.engine.set_update(self.optimizer.rule, self.optimizer.moments)
        self.engine.set_rate_scales(self.scales)

    def release(self) -> None:
        """Gives the engine's scratch memory back, until `rebuild`."""
        if hasattr(self, "engine"):
            self.order = self.engine.order
            del self.engine

    def batches(self, source: Source) -> Iterator[tuple[int, int]]:
        """The rows, start and stop, of each batch of an epoch, its samples bound to the engine when it is asked for."""
        for self.data, order, bounds in source.batches():
            self.sampled = source.sampled
            if source.batch_size > self.batch_size:
                self.batch_size = source.batch_size
                self.rebuild()
            else:
                self.data.bind(self.engine)
            self.engine.set_order(order)
            yield from bounds

    def step(self, start: int, stop: int, learning_rate: float) -> float:
        optimizer = self.optimizer
        value: float = self.engine.step(
            start, stop, learning_rate, optimizer.n_updates + 1, self.l1, self.l2
        )
        optimizer.n_updates += 1
        return value

    @property
    def at_hand(self) -> Samples:
        """What samples of the data are taken from."""
        return self.data if self.sampled is None else self.sampled

    def sample_rows(self) -> NDArray[np.int64]:
        """Rows of a sample of the data at hand, from all over them."""
        n_samples = self.at_hand.n_samples
        rows = np.arange(min(SAMPLE, n_samples)) * n_samples // min(SAMPLE, n_samples)
        order = self.engine.order if self.sampled is None else None
        return rows if order is None else order[rows]

    def sample(self) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """The inputs of the sample and their weights."""
        rows, weights = self.sample_rows(), self.at_hand.weights
        of_rows = None if weights is None or not weights[rows].any() else weights[rows]
        return self.at_hand.inputs.array[rows], of_rows

    def restore(self, before: _Before) -> None:
        self._adopt(before.state, before.moments, before.n_updates)
        self.scales = [1.0] * len(self.net.layers)
        self.rebuild()

    def _adopt(
        self, state: tuple[Layout, NDArray[Any]], moments: tuple[NDArray[Any], ...], n_updates: int
    ) -> None:
        self.net.set_state(*state)
        self.optimizer.adopt((state[0], state[1].dtype), moments)
        self.optimizer.n_updates = n_updates

    def packed(self) -> dict[str, Any]:
        """What a checkpoint has of it."""
        optimizer = self.optimizer
        return {**_packed(self.net.state, optimizer.moments, optimizer.n_updates), "scales": self.scales}

    def unpack(self, values: Mapping[str, Any]) -> None:
        """Takes what `packed` gave; `rebuild` is to follow."""
        state, moments, n_updates = self.unpacked(values)
        scales = [positive_number("scales", scale) for scale in values["scales"]]
        if len(scales) != len(state[0].layers):
            raise ValueError(f"it has {len(scales)} rates for {len(state[0].layers)} layers")
        self._adopt(state, moments, n_updates)
        self.scales = scales

    def unpacked(
        self, values: Mapping[str, Any]
    ) -> tuple[tuple[Layout, NDArray[Any]], tuple[NDArray[Any], ...], int]:
        """Parameters and the optimizer's state of a network of these sizes, checked, in memory of their own."""
        layout, dtype = parse_layout(values["layout"]), self.net.dtype
        if layout.with_ranks(self.net.layout.ranks) != self.net.layout:
            raise ValueError(f"it has layers of sizes {layout.sizes}, not {self.net.sizes}, or other activations")

        def vector(array: NDArray[Any]) -> NDArray[Any]:
            if array.shape != (layout.size,) or array.dtype != dtype:
                raise ValueError(f"it has {array.dtype} numbers of shape {array.shape} for {layout.size} of {dtype}")
            own = aligned_zeros(layout.size, dtype)
            own[:] = array
            return own

        moments = tuple(vector(array) for array in values["moments"])
        if len(moments) != len(self.optimizer.kinds):
            raise ValueError(f"it has {len(moments)} moments, not {len(self.optimizer.kinds)}")
        n_updates = count("n_updates", values["n_updates"], minimum=0, maximum=_LARGEST_COUNT)
        return (layout, vector(values["parameters"])), moments, n_updates


@dataclass
class Method:
    """The four steps of a training, as far as they are not steps of an optimizer.

    Attributes
    ----------
    next_step : int
        Before which step `act` wants to be called; never where it is n_steps.
    """

    run: Run
    settings: Settings
    n_steps: int
    evaluator: Evaluator | None
    tell: Callable[[Event], None]
    diverged: Callable[[str, int, int], FloatingPointError]
    dense_seconds: Callable[[], float]
    spend: Callable[[float], None]
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = self.settings
        self.recompose_step = self.n_steps - round(settings.recompose_fraction * self.n_steps)
        self.switch_step = self.guard_step = self.decay_step = self.n_steps
        self.decay_every = 0
        self.auto: Auto | None = None
        self.ranks: list[int | None] | None = None
        if settings.rule is not None and not self.run.net.is_factored:
            self.switch_step = min(round(settings.pretrain_fraction * self.n_steps), self.recompose_step)
            if settings.rule == "auto":
                self.auto = Auto(self.n_steps, self.switch_step, self.recompose_step)
        if not (self.run.net.is_factored or self.switch_step < self.recompose_step):
            self.recompose_step = self.switch_step = self.n_steps  # dense throughout
        self.before: _Before | None = None
        if self.run.net.is_factored:
            if isinstance(settings.factor_learning_rate, tuple):
                self.run.scales = self._scales()
            self._plan_decay(0)
        self._plan(-1)

    def packed(self) -> dict[str, Any]:
        """What a checkpoint has of it; the events apart."""
        before = self.before
        return {
            "steps": [self.next_step, self.switch_step, self.guard_step, self.recompose_step, self.decay_step, self.decay_every],
            "ranks": self.ranks,
            "auto": None if self.auto is None else self.auto.packed(),
            "before": None
            if before is None
            else {
                **_packed(before.state, before.moments, before.n_updates),
                "loss": before.loss,
                "loss_after": before.loss_after,
            },
        }

    def unpack(self, values: Mapping[str, Any]) -> None:
        """Takes what `packed` gave."""
        steps = [count("steps", step, minimum=0, maximum=_LARGEST_COUNT) for step in values["steps"]]
        self.next_step, self.switch_step, self.guard_step, self.recompose_step, self.decay_step, self.decay_every = steps
        ranks, auto, before = values["ranks"], values["auto"], values["before"]
        if ranks is not None and len(ranks) != len(self.run.net.layers) - 1:
            raise ValueError(f"it has {len(ranks)} ranks for {len(self.run.net.layers) - 1} hidden layers")
        self.ranks = None if ranks is None else [None if rank is None else count("ranks", rank) for rank in ranks]
        if auto is None:
            self.auto = None
        elif self.auto is not None:
            self.auto.unpack(auto)
        if before is not None:
            self.before = _Before(*self.run.unpacked(before), float(before["loss"]), float(before["loss_after"]))

    def _plan(self, step: int) -> None:
        """Sets next_step to the nearest of what is still to come after `step`."""
        coming = [self.switch_step, self.guard_step, self.recompose_step, self.decay_step]
        if self.auto is not None:
            coming.append(self.auto.next_step)
        self.next_step = min([s for s in coming if s > step], default=self.n_steps)

    def act(self, step: int, epoch: int) -> None:
        """Does what is to be done before this step."""
        if self.auto is not None and self.run.net.is_factored:
            # A callback has truncated: the choice was made there.
            self.auto = None
            self.switch_step = self.n_steps
        if self.auto is not None and self.switch_step > step:
            began = time.perf_counter()
            if self.auto.levelled(self.run, step):
                self.switch_step = step
            self.spend(time.perf_counter() - began)
        if step == self.switch_step:
            self._choose(step, epoch)
        elif step == self.guard_step and self.before is not None:
            self._guard(step, epoch)
        elif step == self.recompose_step and self.run.net.is_factored:
            self.recompose(step, epoch)
        if step == self.decay_step and self.run.net.is_factored:
            self._decay(step, epoch)
        self._plan(step)

    def _say(self, kind: str, step: int, epoch: int, info: dict[str, Any]) -> None:
        self.spend(info["seconds"])
        self.events.append(Event(kind, epoch, step, self.run.net, info))
        self.tell(self.events[-1])

    def _choose(self, step: int, epoch: int) -> None:
        """Ranks by the rule, and the switch where there is something to factor."""
        net, settings = self.run.net, self.settings
        began = time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):
            norm = np.linalg.norm(net.parameters.astype(np.float64))
        if not norm < np.finfo(net.dtype).max:
            raise self.diverged(f"the norm of the parameters became {norm}", step, epoch)
        directions: dict[int, NDArray[Any]] = {}
        if self.auto is not None:
            try:
                decision = self.auto.decide(
                    self.run, self.dense_seconds(), step, settings.svd_method, settings.activation_aware
                )
            except FloatingPointError as error:
                raise self.diverged(str(error), step, epoch) from error
            self.auto = None
            parameters = net.parameters.copy()
            self._say("ranks", step, epoch, decision.info)
            if decision.ranks is None:
                self.switch_step = self.recompose_step = self.n_steps
                return
            self.ranks = decision.ranks
            if np.array_equal(parameters, net.parameters):  # as no callback has changed them
                directions = decision.directions
            began = time.perf_counter()
        elif settings.rule is not None and settings.rule != "auto":
            hidden = net.layers[:-1]
            self.ranks = settings.rule(net.layout.layers[:-1], [layer.weight() for layer in hidden])
        assert self.ranks is not None
        self._switch(self.ranks, step, epoch, began, directions)

    def _switch(
        self,
        ranks: Sequence[int | None],
        step: int,
        epoch: int,
        began: float,
        directions: dict[int, NDArray[Any]],
    ) -> None:
        net, optimizer = self.run.net, self.run.optimizer
        self.run.follow()
        recovery = max(1, round(RECOVERY * self.n_steps))
        before = None
        if (
            self.settings.guard_tolerance is not None
            and self.evaluator is not None
            and step > 0
            and step + recovery < self.recompose_step
        ):
            before = _Before(net.state, optimizer.moments, optimizer.n_updates, self._validate())
        try:
            truncations, scales = self._cut(ranks, directions)
        except FloatingPointError as error:
            raise self.diverged(str(error), step, epoch) from error
        if before is not None and net.is_factored:
            before.loss_after = self._validate()
            self.before, self.guard_step = before, step + recovery
        seconds = time.perf_counter() - began
        info = {"truncations": truncations, "learning_rate_scales": scales, "seconds": seconds}
        self._say("switch", step, epoch, info)
        self._plan_decay(step)

    def _plan_decay(self, step: int) -> None:
        if self.settings.product_decay > 0 and self.run.net.is_factored:
            self.decay_every = interval(self.run.net, self.run.batch_size)
            self.decay_step = step + self.decay_every

    def _decay(self, step: int, epoch: int) -> None:
        """For the steps since the last one, at the rate of this one."""
        began = time.perf_counter()
        rate = self.run.optimizer.schedule(step, self.n_steps)
        for index, layer in enumerate(self.run.net.layers):
            if layer.rank is not None:
                try:
                    decay_product(layer.W1, layer.W2, self.decay_every * rate * self.settings.product_decay)
                except FloatingPointError as error:
                    raise self.diverged(f"layer {index}: {error}", step, epoch) from error
        self._plan_decay(step)
        self.spend(time.perf_counter() - began)

    def _cut(
        self, ranks: Sequence[int | None], directions: dict[int, NDArray[Any]]
    ) -> tuple[tuple[Truncation, ...], tuple[float, ...]]:
        """Truncation, with the optimizer's state and the factors' learning rates."""
        run, settings = self.run, self.settings
        net, optimizer = run.net, run.optimizer
        old = net.state
        moments = optimizer.moments
        inputs, weights = run.sample() if settings.activation_aware and not directions else (None, None)
        run.release()  # decompositions need memory, too
        truncations = net.truncate(
            ranks=ranks,
            method=settings.svd_method,
            split=settings.split,
            force=settings.force,
            inputs=inputs,
            sample_weight=weights,
            directions=directions,
        )
        new = net.state
        # Where a training diverges moments overflow before the loss does, which then tells.
        with np.errstate(all="ignore"):
            carried = carry(optimizer.kinds, moments, old, new)
            scales = self._scales()
        if settings.moments == "carry":
            optimizer.adopt((new[0], net.dtype), carried)
        run.scales = scales
        run.rebuild()
        return truncations, tuple(scales)

    def _scales(self) -> list[float]:
        """What the learning rate of each layer is multiplied with, now that some are factored."""
        factor = self.settings.factor_learning_rate
        scales = []
        for index, layer in enumerate(self.run.net.layers):
            if layer.rank is None:
                scales.append(1.0)
            elif isinstance(factor, tuple):
                scales.append(factor[index])
            elif factor != "auto":
                scales.append(factor)
            elif "square" in self.run.optimizer.kinds:
                scale = relative_scale(layer.W1, layer.W2)
                scales.append(min(max(scale, 1 / LARGEST_SCALE), LARGEST_SCALE))
            else:
                scales.append(1.0)
        return scales

    def _validate(self) -> float:
        assert self.evaluator is not None
        return self.evaluator(self.run.net).loss

    def _guard(self, step: int, epoch: int) -> None:
        """Whether the loss has recovered from the cut; else more rank, a later cut, or none."""
        settings, run = self.settings, self.run
        assert self.before is not None and self.ranks is not None and settings.guard_tolerance is not None
        began = time.perf_counter()
        before, self.before, self.guard_step = self.before, None, self.n_steps
        recovered = self._validate()

        def say(action: str) -> None:
            info = {"loss_before": before.loss, "loss_after": before.loss_after, "loss_recovered": recovered}
            self._say("guard", step, epoch, info | {"action": action, "seconds": time.perf_counter() - began})

        if recovered <= before.loss * (1 + settings.guard_tolerance):
            say("kept")
            return
        run.restore(before)
        if settings.guard_action == "raise":
            usable = run.net.usable_ranks(
                [
                    None if rank is None else min(2 * rank, layer.n_in, layer.n_out)
                    for rank, layer in zip(self.ranks, run.net.layers[:-1], strict=True)
                ],
                force=settings.force,
            )
            if usable != self.ranks and any(rank is not None for rank in usable):
                say("raised")
                self.ranks = usable
                self._switch(usable, step, epoch, time.perf_counter(), {})
                return
        elif settings.guard_action == "delay":
            later = step + max(1, round(settings.pretrain_fraction * self.n_steps))
            if later < self.recompose_step:
                self.switch_step = later
                say("delayed")
                return
        self.recompose_step = self.n_steps
        say("undone")

    def recompose(self, step: int, epoch: int, *, say: bool = True) -> float:
        """Dense weights again, with the optimizer's state. Returns the seconds, and spends them if it says so."""
        began = time.perf_counter()
        run = self.run
        run.follow()
        old, moments = run.net.state, run.optimizer.moments
        with np.errstate(over="ignore", invalid="ignore"):  # the loop looks at it next
            run.net.recompose()
        if self.settings.moments == "carry":
            layout, parameters = run.net.state
            with np.errstate(all="ignore"):
                carried = carry(run.optimizer.kinds, moments, old, (layout, parameters))
            run.optimizer.adopt((layout, parameters.dtype), carried)
        run.scales = [1.0] * len(run.net.layers)
        run.rebuild()
        seconds = time.perf_counter() - began
        if say:
            self._say("recompose", step, epoch, {"seconds": seconds})
        return seconds
