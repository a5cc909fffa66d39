# SPDX-License-Identifier: BSD-3-Clause
"""ranks="auto": when to switch, to which ranks, and whether at all, from the weights' spectra and from times measured here and now.

- When: the stable rank ‖W‖_F²/σ₁² of a weight falls while the layer learns its first directions, and levels off. The switch comes when it
  has done so in every hidden layer, at the earliest after half of the share φ of the steps, at the latest after all of it. (H. Wang et al.,
  "Cuttlefish", MLSys 2023, watch it too.)
- Whether: what can be saved at most, by the counts and by the time of the dense steps so far, is set against what the decomposition
  takes. Then steps of the factored network are timed, and each layer whose factors save no time stays dense.
- Which rank: the smallest α of FRACTIONS whose cut keeps most of what the loss on a sample of the training data has come down since the
  training began. Where none does, what the layers have learned has no low rank, and they stay dense.

Not here: the switch itself (switch.py), the rules that measure nothing (ranks.py).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from svdfast._engine import Engine, aligned_zeros
from svdfast._process.checks import of_layer
from svdfast.model.counting import count_multiplications
from svdfast.model.evaluation import output_directions
from svdfast.model.layout import Layout
from svdfast.model.network import Network
from svdfast.model.structures import Structure
from svdfast.model.svd import leading_directions, resolve_rank
from svdfast.model.truncation import matrices, usable_ranks
from svdfast.training.run import Run
from svdfast.training.state import AutoState

__all__ = ["Auto", "Decision"]

FRACTIONS = (1 / 8, 1 / 4)
PROGRESS_KEPT = 0.9
# The stable rank is looked at so many times in a training, and has levelled off when it changes by less than that between two looks.
CHECKS = 100
LEVEL = 0.1
# Steps of each form that are timed, after one to warm up.
TIMED_STEPS = 3
# A form counts as faster where it takes at most this share of the time.
FASTER = 0.97
# Seconds that a decision takes beside decompositions, and floating point operations a second that these run at, for a first estimate.
OVERHEAD = 2e-3
SVD_SPEED = 1e10


@dataclass(frozen=True)
class Decision:
    """The ranks, None for a training that goes on dense, and what was measured."""

    ranks: list[int | None] | None
    info: dict[str, Any]
    # Of the weights that are to be factored, at least as many as their ranks.
    directions: dict[int, NDArray[Any]] = field(default_factory=dict)


class Auto:
    """Watches a training's weights until the switch, and decides about it."""

    def __init__(self, n_steps: int, latest: int, end: int):
        self.latest, self.end = latest, end
        self.every = max(1, n_steps // CHECKS)
        self.next_step = 0
        self.first_loss = 0.0
        self.n_steps = n_steps
        self.reason = "the share of pre-training was over"
        self.stable: list[float] = []
        self.vectors: list[NDArray[Any]] = []

    def state(self) -> AutoState:
        """What a checkpoint has of it."""
        return AutoState(self.next_step, self.first_loss, self.reason, self.stable, self.vectors)

    def restore(self, state: AutoState) -> None:
        """Takes what `state` gave."""
        self.next_step, self.first_loss, self.reason = state.next_step, state.first_loss, state.reason
        self.stable = [float(rank) for rank in state.stable]
        self.vectors = [vector.copy() for vector in state.vectors]

    def levelled(self, run: Run, step: int) -> bool:
        """Looks at the stable ranks before this step; before the first, at the loss."""
        net = run.net
        if step == 0:
            self.first_loss = _sample_loss(run, net)
            self.next_step = self.latest // 2 if 0 < self.latest // 2 < self.latest else self.n_steps
            return False
        weights = matrices(net.state)
        if not self.vectors:
            rng = np.random.default_rng(0)
            self.vectors = [
                np.asarray(rng.standard_normal(W.shape[1]), dtype=W.dtype) for W in weights
            ]
        stable = []
        # Where a training diverges this may not be finite; a step, or the switch, tells then.
        with np.errstate(over="ignore", invalid="ignore"):
            for i, W in enumerate(weights):
                # Power iteration goes on from the last look's vector.
                v = self.vectors[i]
                for _ in range(3 if self.stable else 20):
                    v = W.T @ (W @ v)
                    v /= max(np.linalg.norm(v), np.finfo(W.dtype).tiny)
                self.vectors[i] = v
                top = np.square(np.linalg.norm(W @ v), dtype=np.float64)
                stable.append(float(np.square(np.linalg.norm(W), dtype=np.float64) / top) if top > 0 else 1.0)
        before, self.stable = self.stable, stable
        self.next_step = step + self.every if step + self.every < self.latest else self.n_steps
        if before and all(
            abs(now - then) <= LEVEL * then for now, then in zip(stable, before, strict=True)
        ):
            self.reason = "the stable ranks had levelled off"
            return True
        return False

    def decide(
        self,
        run: Run,
        dense_seconds: float,
        step: int,
        svd_method: Literal["exact", "randomized"],
        activation_aware: bool,
        kind: type[Structure],
    ) -> Decision:
        """Whether and how to factor before this step, into structures of this kind, dense steps having taken `dense_seconds` each."""
        net = run.net
        began = time.perf_counter()
        remaining = self.end - step
        info: dict[str, Any] = {"reason": self.reason, "stable_ranks": tuple(self.stable)}
        info |= {"ranks": None, "seconds_dense": dense_seconds}

        def dense(why: str) -> Decision:
            return Decision(None, info | {"why": why, "seconds": time.perf_counter() - began})

        usable = {fraction: _usable(net.layout, fraction, kind) for fraction in FRACTIONS}
        usable = {f: ranks for f, ranks in usable.items() if any(ranks)}
        if not usable:
            return dense("no layer is large enough for factors to save multiplications")
        smallest = min(usable)
        shapes = zip(net.layout.factorable, usable[smallest], strict=True)
        cut = net.layout.with_structures(kind(a.n_out, a.n_in, rank) if rank else a.structure for a, rank in shapes)
        share = 1 / count_multiplications(cut).ratio
        saved = (1 - share) * dense_seconds * remaining
        cost = OVERHEAD + _svd_seconds(net.layout, usable[smallest])
        if saved <= cost:
            return dense(
                f"at most {saved:.2g} s can be saved, and to decompose the weights takes about {cost:.2g} s"
            )

        loss = info["loss_before"] = _sample_loss(run, net)
        info["losses"] = {}
        directions = {}
        if activation_aware:
            directions = output_directions(net, *run.sample(), usable[max(usable)], svd_method, run.n_threads)
        for i, (rank, W) in enumerate(zip(usable[max(usable)], matrices(net.state), strict=True)):
            if rank and not activation_aware:
                with of_layer(i):
                    directions[i] = leading_directions(W, rank, method=svd_method)
        progress = max(self.first_loss - loss, 0.0)
        for fraction in sorted(usable):
            cut_loss = info["losses"][fraction] = _sample_loss(run, _cut(net, usable[fraction], directions, kind))
            if self.first_loss - cut_loss >= PROGRESS_KEPT * progress:
                break
        else:
            return dense(
                f"a cut to {fraction:g} of the rank raises the loss, {self.first_loss:.2g} at first, from {loss:.2g} "
                f"to {cut_loss:.2g}"
            )
        ranks = usable[fraction]
        info["rank_fraction"] = fraction

        dense_seconds = info["seconds_dense"] = _step_seconds(run, net.copy())
        times = _step_seconds(run, _cut(net, ranks, directions, kind))
        for i in [i for i, rank in enumerate(ranks) if rank]:
            if sum(map(bool, ranks)) == 1:
                break
            without = [None if j == i else rank for j, rank in enumerate(ranks)]
            other = _step_seconds(run, _cut(net, without, directions, kind))
            if other < FASTER * times:
                ranks, times = without, other
        info["seconds_factored"] = times
        if times > FASTER * dense_seconds:
            return dense(f"a step takes {times:.2g} s with factors and {dense_seconds:.2g} s without")
        why = f"a step takes {times:.2g} s with factors and {dense_seconds:.2g} s without"
        info |= {"ranks": ranks, "why": why, "seconds": time.perf_counter() - began}
        return Decision(ranks, info, directions)


def _usable(layout: Layout, fraction: float, kind: type[Structure]) -> list[int | None]:
    return usable_ranks(layout, [resolve_rank(fraction, a.n_in, a.n_out) for a in layout.factorable], kind)


def _cut(net: Network, ranks: list[int | None], directions: dict[int, NDArray[Any]], kind: type[Structure]) -> Network:
    """A copy with structures of these ranks."""
    other = net.copy()
    other.truncate(ranks=ranks, directions=directions, structure=kind, force=True)
    return other


def _svd_seconds(layout: Layout, ranks: list[int | None]) -> float:
    operations = 0.0
    for layer, rank in zip(layout.factorable, ranks, strict=True):
        if rank:
            small, large = sorted((layer.n_in, layer.n_out))
            operations += 2 * small**2 * large + 4 * small**3
    return operations / SVD_SPEED


def _sample_loss(run: Run, net: Network) -> float:
    """The loss of a network on the run's sample."""
    layout, parameters = net.state
    rows = run.sample_rows()
    engine = Engine(
        layout,
        parameters,
        batch_size=len(rows),
        n_threads=run.n_threads,
        gradients=False,
        reproducible=run.reproducible,
    )
    run.at_hand.bind(engine)
    engine.set_order(rows)
    return engine.evaluate(len(rows))


def _step_seconds(run: Run, net: Network) -> float:
    """The shortest of a few steps of a network, on which nothing depends."""
    layout, parameters = net.state
    engine = Engine(
        layout, parameters, batch_size=run.batch_size, n_threads=run.n_threads, bfloat16=run.bfloat16,
        reproducible=run.reproducible,
    )
    run.data.bind(engine)
    engine.set_order(run.engine.order)
    moments = [aligned_zeros(layout.size, parameters.dtype) for _ in run.optimizer.kinds]
    engine.set_update(run.optimizer.rule, moments)
    times = []
    rows = min(run.batch_size, run.data.n_samples)
    for _ in range(1 + TIMED_STEPS):
        began = time.perf_counter()
        engine.step(0, rows, 0.0, 1, run.l1, run.l2)
        times.append(time.perf_counter() - began)
    return min(times[1:])
