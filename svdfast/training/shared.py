# SPDX-License-Identifier: BSD-3-Clause
"""Steps of several processes, each with a share of every batch, and validation data shared out.

    gradient of the own rows → [loss, weight, "not finite" at its end] → one sum over processes → update

All processes hold the same parameters and do the same update. The sum is of the parameters in their
present form, factored or dense: 4·n + 12 bytes of float32.

Reproducible training must not depend on the number of processes either. A batch has a fixed number of
parts there. Their gradients are summed as a binary tree in the order of the parts: first within a
process, then over processes. A sum of two numbers has no order, so one message does the first level;
with P > 2 processes each pair has a place of its own in a vector P/2 times as long.
Elsewhere: the rows of each process (data/shared.py), and other messages between processes
(team.py).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._engine import aligned_zeros
from svdfast.data.arrays import Source, Stretch
from svdfast.data.checks import Samples
from svdfast.data.open import Pieces
from svdfast.data.shared import Share, SharedRows, cut
from svdfast.model.evaluation import Evaluation, Evaluator, decides, whole
from svdfast.model.layout import Layout
from svdfast.model.network import Network
from svdfast.training.run import Run
from svdfast.training.state import RunState
from svdfast.training.team import Team

__all__ = ["SharedEvaluator", "SharedRun"]

# Processes may bring rows of batches that the others do not know. So each process numbers its own
# rows from OWN_ROWS times its rank on. The number decides what `layers.Dropout` drops.
OWN_ROWS = 2**32


class SharedRun(Run):
    """A run of several processes.

    Attributes
    ----------
    team : Team
    share : Share or None
        This process's rows of a batch; None if each process brings batches of its own.
    failed : bool
        True if the loss of this process's rows of the last batch was not finite.
    """

    def __init__(self, *args: Any, team: Team, share: Share | None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.team, self.share, self.failed = team, share, False
        # The divisor of losses and gradients before they are summed.
        self.unit = 0
        # For the batch at hand: the place of its first own row in the order, and in the batch; and
        # its rows in all processes (own rows if there is no share).
        self._first = self._place = self._n = 0
        self._schedule = self.optimizer.schedule

    @property
    def height(self) -> int:
        return self.batch_size if self.share is None else self.share.height

    def rebuild(self) -> None:
        super().rebuild()
        layout, parameters = self.net.state
        self._size = layout.size
        self._targets = math.prod(layout.output_shape[:-1])
        self._vectors, n_pairs = [], 1
        length = layout.size + (3 if self.share is not None else 4)
        if self.share is not None and self.share.n_parts:
            of_process = self.share.n_parts // self.share.active
            n_pairs = max(1, self.share.active // 2)
            # One sum for each height of the tree, and one more.
            self._vectors = [aligned_zeros(length, parameters.dtype) for _ in range(of_process.bit_length())]
        self._sums = aligned_zeros(n_pairs * length, parameters.dtype)
        self._length = length
        if self.clip_norm is not None:
            self.gradient = self._sums

    # Batches

    def _bind(self, source: Source, stretch: Stretch) -> Iterable[tuple[int, int]]:
        return self._shared(source, super()._bind(source, stretch))

    def _shared(self, source: Source, bounds: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Records this process's rows of each batch; start and stop are those of all processes."""
        for start, stop in bounds:
            if self.share is None:
                self._first, self._place, self._n = start, 0, stop - start
            elif isinstance(source, SharedRows):
                self._first, self._n = start, stop
                self._place = self.share.rows(stop)[0]
            else:
                self._n = stop - start
                self._place = self.share.rows(self._n)[0]
                self._first = start + self._place
            yield self._first, self._first + self._n

    def rows_of(self, start: int, stop: int) -> tuple[int, int]:
        if self.share is None:
            return start, stop
        begin, end = self.share.rows(self._n)
        return self._first, self._first + end - begin

    def n_samples(self, source: Source) -> int:
        n = np.array([float(source.n_samples)])
        if self.share is None:
            self.team.sum(n)
        elif isinstance(source, SharedRows) and not self.team.flags(source.counted):
            raise self.team.known(ValueError("sample_weight: expected weights ≥ 0, not all 0"))
        return int(n[0])

    # A step

    def step(self, start: int, stop: int, learning_rate: float) -> float:
        optimizer, sums, size = self.optimizer, self._sums, self._size
        t = optimizer.n_updates + 1
        if self.key > 0:
            self.engine.set_key(self.key + t)
        if self.share is None:
            unit = self.unit * self._targets
            self._form(sums, self._first, self._n, self.team.rank * OWN_ROWS, unit, penalised=self.team.first)
            sums[size + 3] = self._n
            self.team.sum(sums)
            self.n_rows = round(float(sums[size + 3]))
        else:
            unit = self._n * self._targets
            begin, end = self.share.rows(self._n)
            if self.share.n_parts:
                self._sum_parts(self.share, begin, unit)
            else:
                self._form(sums, self._first, end - begin, begin, unit, penalised=self.team.first)
                self.team.sum(sums)
        loss, weight, bad = sums[size : size + 3].tolist()
        scale = 1.0
        if self.share is None or self.data.weights is not None:
            scale = unit / weight if weight > 0 else 0.0
        value: float = loss * scale if not bad else loss if not math.isfinite(loss) else math.nan
        self.norm = 0.0
        if math.isfinite(value) and self.clip_norm is not None:
            self.norm = scale * self.engine.norm(sums)
            if self.norm > self.clip_norm:
                scale *= self.clip_norm / self.norm
            if not math.isfinite(self.norm):
                value = self.norm
        if math.isfinite(value):
            self.engine.update(sums, learning_rate, t, scale)
            if self.carry_state:
                self.engine.carry()
        optimizer.n_updates = t
        return value

    def _form(self, out: NDArray[Any], first: int, n: int, place: int, unit: float, *, penalised: bool) -> None:
        """Computes the gradient of n rows, their loss, their weight, and a flag: loss not finite.

        Only one process's sum has the penalties: the process of the first row of a batch.
        """
        size, l1, l2 = self._size, self.l1 if penalised else 0.0, self.l2 if penalised else 0.0
        loss = self.engine.gradient(first, first + n, out[:size], l1, l2, unit, place)
        weight = float(n * self._targets)
        weights = self.data.weights
        if weights is not None:
            rows: Any = slice(first, first + n)
            order = self.engine.order
            weight = float(weights[rows if order is None else order[rows]].sum(dtype=np.float64))
        self.failed = not math.isfinite(loss)
        out[size : size + 3] = loss, weight, self.failed

    def _sum_parts(self, share: Share, begin: int, unit: float) -> None:
        """Sums the gradients of all parts of the batch as a binary tree in the parts' order."""
        n, n_parts, length, sums = self._n, share.n_parts, self._length, self._sums
        failed = False
        if share.rank < share.active:
            of_process = n_parts // share.active
            free = list(self._vectors)
            tree: list[tuple[int, NDArray[Any]]] = []
            for i in range(of_process):
                part = share.rank * of_process + i
                vector = free.pop()
                place, stop = cut(part, n, n_parts), cut(part + 1, n, n_parts)
                self._form(vector, self._first + place - begin, stop - place, place, unit, penalised=part == 0)
                failed = failed or self.failed
                height = 0
                while tree and tree[-1][0] == height:
                    _, left = tree.pop()
                    left += vector
                    free.append(vector)
                    vector, height = left, height + 1
                tree.append((height, vector))
            sums[:] = 0
            pair = share.rank // 2
            sums[pair * length : (pair + 1) * length] = tree[0][1]
        else:
            sums[:] = 0
        self.failed = failed
        self.team.sum(sums)
        pairs = [sums[i * length : (i + 1) * length] for i in range(max(1, share.active // 2))]
        while len(pairs) > 1:
            for left, right in zip(pairs[::2], pairs[1::2], strict=True):
                left += right
            pairs = pairs[::2]
        # A sum with the zeros of others has turned −0 into +0.
        pairs[0] += 0.0

    # Work that process 0 has done

    def begin(self) -> None:
        """Gives all processes the network, the optimizer's state and the random numbers of process 0.

        Raises
        ------
        ValueError
            A process has another network.
        """
        self.unit = self.team.of_first(self.batch_size)
        header = self.team.of_first({**self.net.layout.recomposed().header(), "dtype": self.net.dtype.name})
        own = {**self.net.layout.recomposed().header(), "dtype": self.net.dtype.name}
        error = None
        if own != header:
            error = ValueError(f"net: expected the layers of process 0's network, got others: {self.net!r:.200}")
        self.team.agree(error)
        self.follow_first(changed=True)

    def mark(self) -> Any:
        """A value by which `follow_first` sees a change."""
        layout, parameters = self.net.state
        return layout, [zlib.crc32(array.data) for array in (parameters, *self.optimizer.moments)]

    def follow_first(self, *, changed: bool) -> None:
        """Brings all processes to the state of process 0.

        The network and the moments are sent only if they have changed there.
        """
        net, optimizer, team = self.net, self.optimizer, self.team
        has_rate = team.first and optimizer.schedule is not self._schedule
        told: dict[str, Any] = team.of_first(
            {
                "layout": net.layout.header() if changed else None,
                "moments": len(optimizer.moments),
                "n_updates": optimizer.n_updates,
                "scales": self.scales,
                "fade": self.fade,
                "key": self.key,
                "rate": (optimizer.learning_rate, optimizer.schedule) if has_rate else None,
            }
        )
        self.scales, self.fade, self.key = list(told["scales"]), told["fade"], told["key"]
        if told["rate"] is not None:
            optimizer.learning_rate, optimizer.schedule = told["rate"]
        self._schedule = optimizer.schedule
        if told["layout"] is not None:
            self._take_numbers(told["layout"], told["moments"])
        optimizer.n_updates = told["n_updates"]
        if not team.first and hasattr(self, "engine"):
            self.set_fade(self.fade)

    def _take_numbers(self, header: dict[str, Any], n_moments: int) -> None:
        """Takes process 0's parameters and moments, which have the layout of this header."""
        net, optimizer, team = self.net, self.optimizer, self.team
        if team.first:
            team.broadcast(net.parameters, *optimizer.moments)
            return
        layout = net.layout if net.layout.header() == header else Layout.parse(header)
        vectors = [aligned_zeros(layout.size, net.dtype) for _ in range(1 + n_moments)]
        team.broadcast(*vectors)
        parameters, moments = vectors[0], tuple(vectors[1:])
        if layout is net.layout:
            net.parameters[...] = parameters  # users' views of them show the change
        else:
            net.set_state(layout, parameters)
        if moments:
            optimizer.adopt((layout, net.dtype), moments)
        else:
            optimizer.reset()
        self.rebuild()

    def compare(self) -> None:
        """Checks that all processes have the same parameters.

        Raises
        ------
        RuntimeError
            They differ.
        """
        own = zlib.crc32(self.net.parameters.data)
        others = self.team.flags(own != self.team.of_first(own))
        if others:
            listed = ", ".join(map(str, others))
            raise self.team.known(
                RuntimeError(
                    f"communicator: the parameters of process{'es' * (len(others) > 1)} {listed} differ from those of process 0: "
                    "a sum, or a learning rate, was another in different processes"
                )
            )

    def state(self) -> RunState:
        """Returns the record that a checkpoint stores, with the states of all processes' rows."""
        state = super().state()
        if state.carried is None or self.share is None:
            return state
        own, begin = np.zeros_like(state.carried), 0
        first, stop = self.share.rows(self.batch_size)
        for width in self.net.layout.program.carried:
            rows = slice(begin + first * width, begin + stop * width)
            own[rows] = state.carried[rows]
            begin += self.batch_size * width
        self.team.sum(own)
        return RunState(state.network, state.scales, state.fade, state.key, own)


class SharedEvaluator:
    """Loss and accuracy on validation data; each process evaluates some pieces of them."""

    def __init__(self, evaluator: Evaluator, pieces: Pieces, team: Team):
        self._evaluator, self._pieces, self._team = evaluator, pieces, team

    def __call__(self, net: Network) -> Evaluation:
        table = np.zeros((self._pieces.n, 3))
        numbers: list[int] = []  # the piece that each block belongs to

        def blocks() -> Iterator[Samples]:
            for i, of_piece in self._pieces.own():
                for block in of_piece:
                    numbers.append(i)
                    yield block

        for weight, loss, right in self._evaluator.parts(net, blocks()):
            row = table[numbers[-1]]
            row[0] += weight
            if weight > 0:
                row[1:] += (np.array([loss, right]) - row[1:]) * (weight / row[0])
        flat = table.reshape(-1)
        self._team.sum(flat)
        if not table[:, 0].any():
            raise self._team.known(ValueError("sample_weight: expected weights ≥ 0, not all 0"))
        return whole(((weight, loss, right) for weight, loss, right in table.tolist()), decides=decides(net))
