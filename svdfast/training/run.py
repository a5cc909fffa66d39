# SPDX-License-Identifier: BSD-3-Clause
"""The engine of a training, and everything to rebuild it when the network's layout changes.

Elsewhere: when that happens (switch.py), and the source of batches (svdfast/data).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from svdfast._engine import Engine, aligned_zeros
from svdfast._process.checks import positive_number
from svdfast.data.arrays import Sampled, Source, Stretch
from svdfast.data.checks import Samples
from svdfast.model.evaluation import output_directions
from svdfast.model.layers.steps import Dropout
from svdfast.model.layout import Layout
from svdfast.model.losses import of_constant
from svdfast.model.network import Network
from svdfast.training.optimizers import Optimizer
from svdfast.training.progress import Plateau
from svdfast.training.schedules import ReduceOnPlateau
from svdfast.training.state import NetworkState, RunState

__all__ = ["Kept", "Run"]

# The time of a multiplication with an entry of sparse samples, and of the update of a weight, in
# multiplications of dense samples (bench/sparse.py).
OF_ENTRY, OF_UPDATE = 8, 40

# The number of samples over which the layers' outputs, and a loss, are computed.
SAMPLE = 4096


@dataclass
class Kept:
    """A network's parameters and its optimizer's moments, kept unchanged to be restored."""

    layout: Layout
    parameters: NDArray[Any]
    moments: tuple[NDArray[Any], ...]
    n_updates: int

    def state(self) -> NetworkState:
        """Returns the record that a checkpoint stores."""
        return NetworkState(self.layout.header(), self.parameters, self.moments, self.n_updates)


class Run:
    """The engine of a training, and everything to rebuild it when the network's layout changes.

    Attributes
    ----------
    data : Samples
        The present source of batches: all data, if they are in memory, else some of them.
    sampled : Sampled or None
        The source of samples, if `data` are too few.
    fade : float
        The share of `scales` that still applies, from 1 to 0 at the end of a training.
    plateau : Plateau or None
        Gives the learning rate, if it follows the loss.
    norm : float
        Norm of the last gradient, if it is clipped and the loss was finite; else 0.
    carry_state : bool
        True if recurrent layers begin each batch of an epoch with the states that ended the one
        before.
    carried : ndarray or None
        These states while there is no engine.
    key : int
        Random key of the training, for the random parts of its steps.
    n_rows : int
        Rows of the last batch in all processes, if others bring rows of their own; else 0.
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
        clip_norm: float | None = None,
        carry_state: bool = False,
    ):
        self.net, self.data, self.optimizer = net, data, optimizer
        self.n_threads, self.batch_size, self.bfloat16 = n_threads, batch_size, bfloat16
        self.l1, self.l2, self.reproducible, self.clip_norm = l1, l2, reproducible, clip_norm
        self.scales = [1.0] * len(net.layers)
        self.carry_state = carry_state
        self.carried: NDArray[Any] | None = None
        self.norm, self.fade, self.key = 0.0, 1.0, 0
        self.n_rows = 0
        self.engine: Engine
        self.order: NDArray[np.int64] | None = None
        self.sampled: Sampled | None = None
        schedule = optimizer.schedule
        self.plateau = Plateau(schedule) if isinstance(schedule, ReduceOnPlateau) else None

    @property
    def outdated(self) -> bool:
        """True if a callback has truncated or recomposed."""
        return self.net.parameters is not self.parameters

    def follow(self) -> None:
        """Rebuilds the engine if a callback has truncated or recomposed."""
        if self.outdated:
            if self.net.layout.structures != self.structures:
                self.scales = [1.0] * len(self.net.layers)
            self.rebuild()

    def rebuild(self) -> None:
        layout, parameters = self.net.state
        if (of_data := layout.of_columns(self.data.inputs.n_columns)) is not layout:
            layout = of_data  # during training, so that products are counted for that many steps
            self.net.set_state(layout, parameters)
        self.parameters = parameters
        self.structures = layout.structures
        self.phase = "factored" if self.net.is_factored else "dense"
        self.optimizer.begin((layout, parameters.dtype), layout.size, parameters.dtype)
        self.release()
        self.engine = Engine(
            layout,
            parameters,
            batch_size=self.height,
            n_threads=self.n_threads,
            bfloat16=self.bfloat16,
            reproducible=self.reproducible,
            carries=self.carry_state,
            carried_rows=self.batch_size,
            by_entries=self.data.inputs.by_entries,
        )
        if self.carried is not None:
            self._states[:] = self.carried  # their layout does not depend on structures
            self.carried = None
        if self.clip_norm is not None:
            self.gradient = aligned_zeros(layout.size, parameters.dtype)
        self.data.bind(self.engine)
        self.engine.set_order(self.order)
        self.engine.set_update(self.optimizer.rule, self.optimizer.moments)
        self.set_fade(self.fade)

    @property
    def height(self) -> int:
        """The most rows whose gradient is formed at a time."""
        return self.batch_size

    @property
    def share_of_first(self) -> float:
        """The time of the first weight in a step, relative to its products with dense samples.

        Sparse samples are multiplied entry by entry. The update hardly counts otherwise, but it
        goes over the whole weight.
        """
        inputs = self.data.inputs
        if not (hasattr(self, "engine") and self.engine.by_entries):
            return 1.0
        density = inputs.n_stored / max(1, inputs.n_samples * self.net.sizes[0])
        return min(1.0, OF_ENTRY * density + OF_UPDATE / (2 * self.batch_size))

    @property
    def drops(self) -> bool:
        """True if steps drop numbers."""
        return any(isinstance(step, Dropout) for layer in self.net.layout.layers for step in layer.steps)

    def rate(self, step: int, n_steps: int) -> float:
        """The optimizer's learning rate at this step of `n_steps`."""
        schedule, plateau = self.optimizer.schedule, self.plateau
        return plateau.rate if plateau is not None and plateau.schedule is schedule else schedule(step, n_steps)

    def set_fade(self, fade: float) -> None:
        """Scales the difference between the layers' learning rates and the optimizer's."""
        self.fade = fade
        self.engine.set_rate_scales([1 + (scale - 1) * fade for scale in self.scales])

    def release(self) -> None:
        """Frees the engine's scratch memory, until `rebuild`."""
        if hasattr(self, "engine"):
            self.order, self.carried = self.engine.order, self.engine.carried
            del self.engine

    def leave(self) -> None:
        """Restores the network's own layout, whatever the number of steps it was trained with."""
        layout, parameters = self.net.state
        if layout.any_steps:
            self.net.set_state(layout.of_steps(1), parameters)

    def clear_states(self) -> None:
        """Lets recurrent layers begin the next batch with zeros."""
        if self.carry_state:
            self._states[:] = 0

    @property
    def _states(self) -> NDArray[Any]:
        assert self.engine.carried is not None
        return self.engine.carried

    def batches(self, source: Source) -> Iterator[tuple[int, int]]:
        """The rows, start and stop, of each batch of an epoch.

        A batch's samples are bound to the engine when the batch is asked for.
        """
        return chain.from_iterable(map(partial(self._bind, source), source.batches()))

    def _bind(self, source: Source, stretch: Stretch) -> Iterable[tuple[int, int]]:
        """Continues with a stretch of batches, of up to as many rows as the source knows by now.

        Returns their bounds.
        """
        before, (self.data, order, bounds) = self.data, stretch
        self.sampled = source.sampled
        if source.batch_size > self.batch_size:
            self.batch_size = source.batch_size
            self.rebuild()
        elif self.data is not before:
            self.data.bind(self.engine)
        if order is not self.engine.order:
            self.engine.set_order(order)
        return bounds

    def step(self, start: int, stop: int, learning_rate: float) -> float:
        """Updates from these rows. Returns the loss before the update.

        If the loss, or `norm`, is not finite, nothing was updated.
        """
        optimizer = self.optimizer
        t = optimizer.n_updates + 1
        value: float
        if self.key > 0:
            self.engine.set_key(self.key + t)
        if self.clip_norm is None:
            value = self.engine.step(start, stop, learning_rate, t, self.l1, self.l2)
        else:
            value = self.engine.gradient(start, stop, self.gradient, self.l1, self.l2)
            self.norm = self.engine.norm(self.gradient) if math.isfinite(value) else 0.0
            if not math.isfinite(self.norm):
                value = self.norm
            elif math.isfinite(value):
                scale = 1.0 if self.norm <= self.clip_norm else self.clip_norm / self.norm
                self.engine.update(self.gradient, learning_rate, t, scale=scale)
        if self.carry_state and math.isfinite(value):
            self.engine.carry()
        optimizer.n_updates = t
        return value

    def steps(self, stop: int, rates: array[float]) -> array[float]:
        """Updates from rows 0 .. stop at each of these learning rates. Returns the losses before.

        If a loss is not finite, it is the last one returned, and its step updated nothing.
        """
        optimizer = self.optimizer
        losses = array("d", bytes(8 * len(rates)))
        n_done = self.engine.steps(stop, rates, optimizer.n_updates + 1, losses, self.l1, self.l2)
        optimizer.n_updates += n_done
        return losses[:n_done]

    def rows_of(self, start: int, stop: int) -> tuple[int, int]:
        """The rows of a batch, start and stop, that this process has in `data`."""
        return start, stop

    def n_samples(self, source: Source) -> int:
        """Samples of an epoch that has ended, in all processes."""
        return source.n_samples

    @property
    def at_hand(self) -> Sampled:
        """The data that samples are taken from."""
        return self.data if self.sampled is None else self.sampled

    def sample_rows(self) -> NDArray[np.int64]:
        """Rows of a sample of the data at hand, the same ones each time.

        They are in random order, as data may come sorted or alternating. If any rows have a weight,
        only those are taken.
        """
        rows: int | NDArray[np.int64] = self.at_hand.n_samples
        weights = self.at_hand.weights
        if weights is not None and weights.any() and not weights.all():
            rows = np.flatnonzero(weights)
        n_rows = rows if isinstance(rows, int) else len(rows)
        return np.random.default_rng(0).choice(rows, min(SAMPLE, n_rows), replace=False)

    def sample(self, rows: NDArray[np.int64]) -> tuple[Any, NDArray[Any] | None]:
        """The inputs of these rows, an array or sparse, and their weights."""
        samples = self.at_hand.take(rows)
        weights = samples.weights
        return samples.inputs.rows(slice(None)), weights if weights is not None and weights.any() else None

    def loss(self, net: Network, rows: NDArray[np.int64]) -> float:
        """The loss of a network on these rows."""
        layout, parameters = net.state
        engine = Engine(
            layout, parameters, batch_size=len(rows), n_threads=self.n_threads, gradients=False,
            reproducible=self.reproducible, by_entries=self.data.inputs.by_entries,
        )  # fmt: skip
        self.at_hand.bind_rows(engine, rows)
        return engine.evaluate(len(rows))

    def constant_loss(self, rows: NDArray[np.int64]) -> float:
        """The loss on these rows of the best constant answer.

        It is 0, as any loss is, if their weights are all 0.
        """
        data = self.at_hand
        assert data.loss is not None
        weights = None if data.weights is None else data.weights[rows]
        if weights is not None and not weights.any():
            return 0.0
        return of_constant(data.loss.name, data.targets[rows], self.net.sizes[-1], weights)

    def output_directions(
        self, rows: NDArray[np.int64], ranks: Sequence[int | None], method: Literal["exact", "randomized"]
    ) -> dict[int, NDArray[Any]]:
        """The leading directions of layers' outputs over these rows."""
        return output_directions(self.net, *self.sample(rows), ranks, method, self.n_threads)

    def kept(self) -> Kept:
        """A record of the network and its optimizer's moments as they are."""
        return Kept(*self.net.state, self.optimizer.moments, self.optimizer.n_updates)

    def back(self, kept: Kept) -> None:
        """Restores a record of `kept`."""
        self._adopt(kept)
        self.scales = [1.0] * len(self.net.layers)
        self.rebuild()

    def _adopt(self, kept: Kept) -> None:
        self.net.set_state(kept.layout, kept.parameters)
        self.optimizer.adopt((kept.layout, kept.parameters.dtype), kept.moments)
        self.optimizer.n_updates = kept.n_updates

    def state(self) -> RunState:
        """Returns the record that a checkpoint stores."""
        carried = self.engine.carried if hasattr(self, "engine") else self.carried
        return RunState(self.kept().state(), self.scales, self.fade, self.key, carried)

    def restore(self, state: RunState) -> None:
        """Takes a record that `state` returned; call `rebuild` next."""
        kept = self.checked(state.network)
        scales = [positive_number("scales", scale) for scale in state.scales]
        if len(scales) != len(kept.layout.layers):
            raise ValueError(f"it has {len(scales)} rates for {len(kept.layout.layers)} layers")
        carried = None
        if self.carry_state:
            if state.carried is None:
                raise ValueError("it has no states that recurrent layers would begin with")
            carried = self._vector(self.batch_size * sum(kept.layout.program.carried), state.carried)
        self._adopt(kept)
        self.scales, self.fade = scales, positive_number("fade", state.fade, or_zero=True)
        self.key, self.carried = state.key, carried

    def checked(self, state: NetworkState) -> Kept:
        """Checks parameters and moments for a network of these sizes, and copies them."""
        layout, parameters = self.checked_network(state.layout, state.parameters)
        moments = tuple(self._vector(layout.size, array) for array in state.moments)
        if len(moments) != len(self.optimizer.kinds):
            raise ValueError(f"it has {len(moments)} moments, not {len(self.optimizer.kinds)}")
        return Kept(layout, parameters, moments, state.n_updates)

    def checked_network(self, header: dict[str, Any], parameters: NDArray[Any]) -> tuple[Layout, NDArray[Any]]:
        """Checks layout and parameters for a network of these sizes; copies the parameters."""
        layout = Layout.parse(header)
        if layout.recomposed() != self.net.layout.recomposed():
            raise ValueError(f"it has layers of sizes {layout.sizes}, not {self.net.sizes}, or other activations")
        return layout, self._vector(layout.size, parameters)

    def _vector(self, size: int, array: NDArray[Any]) -> NDArray[Any]:
        """A copy of a vector, which must have `size` numbers."""
        dtype = self.net.dtype
        if array.shape != (size,) or array.dtype != dtype:
            raise ValueError(f"it has {array.dtype} numbers of shape {array.shape} for {size} of {dtype}")
        own = aligned_zeros(size, dtype)
        own[:] = array
        return own
