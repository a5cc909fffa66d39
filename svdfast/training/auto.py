# SPDX-License-Identifier: BSD-3-Clause
"""factoring="auto": the layers to factor and their ranks, found by trying truncations.

- Candidates: layers whose factors would take clearly less time, by counted multiplications. If no
  step would become faster, the network stays dense and nothing is tried.
- When: after FIRST_LOOK steps, then after LATER times as many each time, as long as a layer may
  still be truncated.
- To which rank: each layer is truncated alone, to the ranks of FRACTIONS, smallest first. It gets
  the first rank at which the loss over a sample rises by at most LOST of what the network has
  learned (LOST_OF_KERNEL for a convolution). Then all truncations are tried together.
- And back: some steps after a truncation, the loss must not be much higher than before it, and
  steps must be faster than dense ones by the clock. If they do not seem faster, both forms are
  timed in alternating rounds, because other programs may have slowed the machine meanwhile. If two
  checks in a row find the loss higher, the layer that lost most is recomposed. It may be truncated
  again later: to a higher rank, or to the same rank when much more has been learned. If two checks
  in a row find steps no faster, all layers are recomposed for good.

Only the clock's check depends on the machine, and a reproducible training leaves it out. Elsewhere:
the truncation itself (switch.py), and the rules that try nothing (svdfast/model/ranks.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import of_layer
from svdfast.model.counting import weight_multiplications, weight_program
from svdfast.model.layout import Layout, Weight
from svdfast.model.products import threads
from svdfast.model.structures import Dense, Structure
from svdfast.model.svd import leading_directions, resolve_rank
from svdfast.model.truncation import matrices
from svdfast.training.factoring import Factoring
from svdfast.training.run import Run
from svdfast.training.state import AutoState
from svdfast.training.turns import by_turns

__all__ = ["Auto", "Look"]

FRACTIONS = (1 / 8, 1 / 4)
# The first look comes after FIRST_LOOK steps. Each next one comes after LATER times as many, up to
# the share LATEST of all steps. Later there is little to save, and little time to recover.
FIRST_LOOK = 100
LATER, LATEST = 3, 0.5
# The loss that the truncation of one layer may cost at once, as a share of what has been learned.
# That is the loss of the best constant answer minus the loss of the network. All truncations of a
# look together may cost TOGETHER times as much.
LOST = 0.015
# The truncation of a convolution may cost more. All positions of an image share its weight, so it
# recovers within few steps (docs/reproduction.md, convolutional layers).
LOST_OF_KERNEL = 0.04
TOGETHER = 2
# The budget of all looks, as a share of the training's dense steps, by counted multiplications.
# Each look may take half of what is left, or all of it if half is not enough. Finding directions
# and truncating with them takes about WORK times the products with them.
LOOKING = 0.02
WORK = 16
# The numbers of rows that a loss is computed on; a look takes the largest that it may. Directions
# are taken from other rows, a few times the rank. If half of the samples are fewer than LEAST, they
# do not show what truncation costs, and there is little time to save.
SAMPLES = (2048, 1024, 512, 256, 128)
LEAST = 250
ROWS_PER_RANK = 4
# A product with sides a and b takes as long as (a + THIN)·(b + THIN) multiplications at full speed (bench/crossover.py).
THIN = 40
# A layer's factors must take at most the share WORTH of its time, and save the share SHARE of a
# whole step. All layers together must save SHARES.
WORTH, SHARE, SHARES = 0.8, 0.02, 0.1
# The steps from a truncation to its check, and from that to the next: a share of all, and at least
# SHORTEST. The loss may be higher than before by STILL_LOST times what one truncation may cost.
# Losses vary from step to step, and so do times on a shared machine. So it takes two checks.
RECOVERY, SHORTEST = 0.02, 20
STILL_LOST = 10 / 3
# A truncation that was undone may be tried again when AGAIN times as much has been learned. At the
# start of a training the loss has hardly begun to fall. Then its changes from step to step are
# about as large as all that has been learned.
AGAIN = 2
# By the clock a form counts as faster if it takes at most this share of the time.
FASTER = 0.97


@dataclass(frozen=True)
class Look:
    """The result of a look.

    Attributes
    ----------
    ranks : list of int or None
        The rank of each hidden layer that is to be truncated now.
    info : dict
        The details that an event reports.
    directions : dict of int to ndarray
        Directions for each weight that is to be truncated, at least as many as its rank.
    """

    ranks: list[int | None]
    info: dict[str, Any]
    directions: dict[int, NDArray[Any]] = field(default_factory=dict)


class Auto:
    """Decides about a training's layers, one by one.

    Parameters
    ----------
    layout : Layout
    n_steps : int
        Steps of the whole training.
    first : int
        The step before which the first look comes.
    end : int
        The step before which all layers are recomposed.
    """

    def __init__(self, layout: Layout, n_steps: int, first: int, end: int):
        self.n_steps, self.end = n_steps, end
        self.next_step, self.check_step = first, n_steps
        self.looked = 0.0  # in dense steps
        # For each hidden layer: the rank that has been undone (its smaller side means for good),
        # what the truncation did to the loss, and its rank (0 while it is dense).
        self.refused = [0] * len(layout.factorable)
        self.lost = [0.0] * len(layout.factorable)
        self.ranks = [0] * len(layout.factorable)
        # For the last truncation: the number of rows it was tried on, their loss before it, what
        # had been learned, the highest loss that a check accepts, and whether the last check found
        # more.
        self.n_rows, self.before, self.learned, self.limit, self.failed = 0, 0.0, 0.0, 0.0, False

    def state(self) -> AutoState:
        """Returns the record that a checkpoint stores."""
        return AutoState(
            self.next_step, self.check_step, self.looked, list(self.refused), list(self.lost), list(self.ranks),
            self.n_rows, self.before, self.learned, self.limit, self.failed,
        )  # fmt: skip

    def restore(self, state: AutoState) -> None:
        """Takes a record that `state` returned."""
        if not len(state.refused) == len(state.lost) == len(state.ranks) == len(self.refused):
            raise ValueError(f"it has ranks for {len(state.refused)} hidden layers, not {len(self.refused)}")
        self.next_step, self.check_step, self.looked = state.next_step, state.check_step, state.looked
        self.refused, self.ranks = [int(rank) for rank in state.refused], [int(rank) for rank in state.ranks]
        self.lost = [float(lost) for lost in state.lost]
        self.n_rows, self.before, self.learned = state.n_rows, state.before, state.learned
        self.limit, self.failed = state.limit, state.failed

    def owns(self, layout: Layout) -> bool:
        """True if the layers are as they were left, and no callback has changed their form."""
        return [layer.rank or 0 for layer in layout.factorable] == self.ranks

    def note(self, layout: Layout) -> None:
        """Records the layers' present form as its own doing."""
        self.ranks = [layer.rank or 0 for layer in layout.factorable]

    def look(self, run: Run, step: int, factoring: Factoring) -> Look:
        """Finds the layers to truncate before this step, and their ranks.

        Raises
        ------
        FloatingPointError, numpy.linalg.LinAlgError
            The network's numbers are not finite.
        """
        net, kind = run.net, factoring.structure
        share = run.share_of_first
        layers = [_Layer(i, net.layout, kind, self.refused[i], share) for i in range(len(net.layout.factorable))]
        whole = sum(layer.work for layer in layers) + _work(net.layout.placed[-1])
        for layer in layers:
            layer.keep(SHARE * whole)
        if sum(layer.most_saved for layer in layers) < SHARES * whole:
            for layer in layers:
                layer.keep(np.inf)
        options = [layer for layer in layers if layer.options]
        info: dict[str, Any] = {"layers": [], "ranks": [None] * len(layers)}
        found = Look(info["ranks"], info)
        self.next_step = self.n_steps
        if options:
            rows = self._rows(run, options)
            if isinstance(rows, str):
                for layer in options:
                    layer.why = rows
            else:
                self._decide(run, factoring, options, *rows, found)
            after = whole - sum(layer.saved for layer in options)
            if sum(layer.most_saved for layer in options if not layer.rank) >= SHARES * after:
                self._plan_look(step)
        for layer in layers:
            found.ranks[layer.index] = layer.rank
            if layer.rank:
                self.lost[layer.index] = layer.lost
            if not net.layout.structures[layer.index].factored:
                info["layers"].append(layer.told(whole))
        if any(found.ranks):
            self._plan_check(step)
        return found

    def _rows(self, run: Run, options: Sequence[_Layer]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | str:
        """Rows for directions and other rows for losses, as many as the look may take; or a reason.

        A truncation loses too little on the rows that its directions were made for.
        """
        program, rows = run.net.layout.program, run.sample_rows()
        less = 1 - run.share_of_first
        forward, step = (program.multiplications(mode) - less * program.multiplications(mode, 0) for mode in ("forward", "step"))
        most, left = len(rows) // 2, LOOKING * self.n_steps - self.looked
        if most < LEAST:
            return f"{run.at_hand.n_samples} samples are too few to tell what truncation costs"
        while True:
            n_directed = min(most, ROWS_PER_RANK * max(layer.options[-1] for layer in options))
            cost = n_directed * forward + sum(
                WORK * layer.dense.n_out * (n_directed + layer.dense.n_in) * layer.options[-1] for layer in options
            )
            n_looks = 2 + sum(1 + len(layer.options) for layer in options)
            for allowed, n_samples in [*((left / 2, samples) for samples in SAMPLES), (left, SAMPLES[-1])]:
                n_rows = min(n_samples, most)
                whole = (cost + n_looks * n_rows * forward) / (step * run.batch_size)
                if whole <= allowed:
                    self.looked += whole
                    return rows[:n_directed], rows[-n_rows:]
            if not any(layer.drop() for layer in options):
                return "a look would take longer than its share of the training"

    def _decide(
        self, run: Run, factoring: Factoring, options: Sequence[_Layer], directed: NDArray[np.int64], rows: NDArray[np.int64],
        found: Look,
    ) -> None:  # fmt: skip
        """Gives these layers their ranks: directions from some rows, losses on others."""
        net, kind = run.net, factoring.structure
        loss = run.loss(net, rows)
        learned = found.info["learned"] = run.constant_loss(rows) - loss
        found.info["loss"] = loss
        if not learned > 0:
            for layer in options:
                layer.why = "nothing has been learned yet"
            return
        wanted: list[int | None] = [None] * len(net.layout.factorable)
        for layer in options:
            wanted[layer.index] = layer.options[-1]
        if factoring.activation_aware:
            directions = run.output_directions(directed, wanted, factoring.svd)
        else:
            directions, weights = {}, matrices(net.state)
            for layer in options:
                with of_layer(layer.index):
                    directions[layer.index] = leading_directions(weights[layer.index], layer.options[-1], method=factoring.svd)

        def rise(chosen: dict[int, int]) -> float:
            ranks = [chosen.get(i) for i in range(len(net.layout.factorable))]
            trial = net.copy()
            with threads(run.n_threads):
                trial.truncate(ranks=ranks, directions=directions, structure=kind, force=True)
            return run.loss(trial, rows) - loss

        def choose(layer: _Layer, above: int = 0) -> None:
            """Finds the first rank above `above` whose truncation alone is good, or none."""
            layer.rank = None
            # Largest first: if it is no good, no other is.
            for rank in reversed([rank for rank in layer.options if rank > above]):
                if rank not in layer.tried:
                    layer.tried[rank] = rise({layer.index: rank}) / learned
                if not layer.tried[rank] <= layer.allowed:  # or NaN
                    layer.why = f"truncation to rank {rank} loses {layer.tried[rank]:.1%} of what has been learned"
                    return
                layer.rank = rank

        for layer in options:
            if layer.refused:
                layer.why = f"truncation to rank {layer.refused} was undone"
            choose(layer, above=layer.refused if learned < AGAIN * self.learned else 0)
        while chosen := {layer.index: layer.rank for layer in options if layer.rank}:
            together = rise(chosen) if len(chosen) > 1 else 0.0
            truncated = [layer for layer in options if layer.rank]
            if together <= TOGETHER * max(layer.allowed for layer in truncated) * learned:
                break
            worst = max(truncated, key=lambda layer: layer.lost)
            worst.why = f"all truncations together lose {together / learned:.1%} of what has been learned"
            choose(worst, above=worst.rank or 0)
        if chosen:  # else the last truncation's check stays as it is
            self.n_rows, self.before, self.learned = len(rows), loss, learned
            allowed = max(layer.allowed for layer in options if layer.rank)
            self.limit, self.failed = loss + STILL_LOST * allowed * learned, False
            found.directions.update({i: directions[i] for i in chosen})

    def sample_loss(self, run: Run) -> float:
        """The loss of the network on the rows that the last truncation was tried on."""
        return run.loss(run.net, run.sample_rows()[-self.n_rows :])

    def check(
        self, run: Run, step: int, loss: float, times: Sequence[float], *, for_good: bool
    ) -> tuple[list[int], dict[str, Any]]:
        """Finds the layers that are to be recomposed before this step.

        `loss` is the loss now. `times` are the seconds of a step: while all layers were dense and
        as they are now, or as they are now alone.
        """
        info: dict[str, Any] = {"loss_before": self.before, "loss_recovered": loss, "action": "kept"}
        back: list[int] = []
        layout = run.net.layout
        factors = [i for i in layout.factored if i < len(self.refused)]
        bad, slow = not loss <= self.limit, not run.reproducible and len(times) == 2 and times[1] > FASTER * times[0]
        if slow:  # or the machine has other work than when all layers were dense
            dense = run.net.copy()
            dense.recompose()
            times = by_turns(run, [dense, run.net])
            slow = times[1] > FASTER * times[0]
        again, self.failed = self.failed, bad or slow
        self.check_step = self.n_steps
        if slow:
            info |= {"seconds_dense": times[0], "seconds_factored": times[1]}
        if self.failed and not again:
            info["action"] = "watched"
        elif self.failed:
            info["action"] = "undone"
            back = [max(factors, key=lambda i: self.lost[i])] if bad else factors
            for i in back:
                structure = layout.structures[i]
                final = for_good or not bad  # a higher rank would be no faster
                self.refused[i] = min(structure.n_in, structure.n_out) if final else structure.rank or 0
            self._plan_look(step)
        if self.failed and len(factors) > len(back):
            self._plan_check(step)
        self.failed = self.failed and not back
        return back, info | {"layers": back}

    def _plan_look(self, step: int) -> None:
        later = max(LATER * step, step + 1)
        self.next_step = later if later < LATEST * self.end else self.n_steps

    def _plan_check(self, step: int) -> None:
        self.check_step = min(step + max(SHORTEST, round(RECOVERY * self.n_steps)), self.end)


class _Layer:
    """A hidden layer, the ranks that it may be truncated to, and the decision about it."""

    def __init__(self, index: int, layout: Layout, kind: type[Structure], refused: int, share_of_first: float):
        placed = layout.placed[index]
        structure = placed.structure
        self.index, self.first = index, placed.first
        self.dense = Dense(structure.n_out, structure.n_in)
        share = share_of_first if placed.first else 1.0
        self.work = share * _work(placed)
        # A weight that meets several rows of a sample, not one after the other, is a convolution's.
        self.allowed = LOST_OF_KERNEL if placed.rows > 1 and not layout.by_steps[index] else LOST
        self.rank: int | None = None
        # The loss of a truncation to each rank, as a share of what has been learned.
        self.tried: dict[int, float] = {}
        self.why = "factors would save too little time"
        self.options: list[int] = []
        self.works: list[float] = []
        self.refused = refused
        if structure.factored or refused >= min(structure.n_in, structure.n_out):
            return
        ranks = sorted({resolve_rank(fraction, self.dense.n_in, self.dense.n_out) for fraction in FRACTIONS})
        for rank in ranks:
            made = kind(self.dense.n_out, self.dense.n_in, rank)
            fewer = weight_multiplications(made, first_layer=self.first) < weight_multiplications(self.dense, first_layer=self.first)
            work = share * _work(replace(placed, structure=made))
            if fewer and work <= WORTH * self.work:
                self.options.append(rank)
                self.works.append(work)

    def keep(self, least: float) -> None:
        """Keeps only the ranks that save at least so much."""
        kept = [(rank, work) for rank, work in zip(self.options, self.works, strict=True) if self.work - work >= least]
        self.options, self.works = [rank for rank, _ in kept], [work for _, work in kept]

    def drop(self) -> bool:
        """Leaves out the largest rank, if there are others."""
        if len(self.options) < 2:
            return False
        self.options, self.works = self.options[:-1], self.works[:-1]
        return True

    @property
    def lost(self) -> float:
        return self.tried[self.rank] if self.rank else 0.0

    @property
    def saved(self) -> float:
        return self.work - self.works[self.options.index(self.rank)] if self.rank else 0.0

    @property
    def most_saved(self) -> float:
        return self.work - min(self.works, default=self.work)

    def told(self, whole: float) -> dict[str, Any]:
        """The details that an event reports."""
        info: dict[str, Any] = {"layer": self.index, "rank": self.rank, "tried": self.tried}
        if self.rank:
            return info | {"saved": self.saved / whole, "why": f"the truncation loses {max(self.lost, 0):.1%} of what has been learned"}
        return info | {"saved": 0.0, "why": self.why}


def _work(weight: Weight) -> float:
    """The time of a weight's products in a step, in multiplications at full speed for a sample."""
    program = weight_program(weight.structure, first_layer=weight.first)
    return float(
        weight.rows
        * sum(
            np.prod([side + THIN for side in operation.tensor.shape]) * (2 + program.needs_delta(operation.input))
            for operation in program.operations
            if operation.tensor is not None and operation.multiplications
        )
    )
