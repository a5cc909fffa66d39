# SPDX-License-Identifier: BSD-3-Clause
"""The share of a batch that one of several processes has, and sources that read only this share.

A batch has the same rows for any number of processes; each takes a stretch of its places. Samples
in memory need no special source: all processes know the order, and each takes its rows of it.
Elsewhere: what a process does with its rows (training/shared.py), and validation data (open.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast.data.arrays import Stretch
from svdfast.data.checks import Samples
from svdfast.data.rows import FEWEST_BLOCKS, POOL_BLOCKS, Reader

__all__ = ["Share", "SharedRows", "Sharing", "cut"]

# If a batch's gradient must not depend on the number of processes, the batch has at least so many
# parts, each of at most so many rows. The number of parts is a power of two.
PARTS = 4
PART_ROWS = 256


def cut(i: int, n: int, count: int) -> int:
    """The start of the i-th of `count` nearly equal parts of n rows. The first parts are longer."""
    return -(-i * n // count)


class Share:
    """The places of a batch that one of several processes has.

    Attributes
    ----------
    n_parts : int
        Number of parts whose gradients are summed as a binary tree; 0 if the order does not matter.
    active : int
        Number of processes that have rows: all, or the largest power of two if there are parts.
    n_lanes : int
        Number of stretches of a batch, each of one process alone.
    height : int
        The most rows whose gradient this process forms at a time.
    """

    def __init__(self, rank: int, size: int, batch_size: int, *, reproducible: bool):
        n_parts = PARTS
        while n_parts * PART_ROWS < batch_size:
            n_parts *= 2
        self.rank, self.batch_size = rank, batch_size
        self.active = min(1 << (size.bit_length() - 1), n_parts) if reproducible else size
        self.n_parts = n_parts if reproducible else 0
        self.n_lanes = n_parts if n_parts % self.active == 0 else size
        self.height = cut(1, batch_size, self.n_parts or size)

    def rows(self, n: int) -> tuple[int, int]:
        """The first place, and the one after the last, of a batch of n rows."""
        rank = min(self.rank, self.active)
        return cut(rank, n, self.active), cut(min(rank + 1, self.active), n, self.active)

    @property
    def lanes(self) -> range:
        """The lanes that this process has."""
        return range(*self.rows(self.n_lanes))


@dataclass(frozen=True)
class Sharing:
    """The rank of this process, and the number of processes."""

    rank: int
    size: int
    reproducible: bool

    def of(self, batch_size: int) -> Share:
        """This process's share of batches of at most so many rows."""
        return Share(self.rank, self.size, batch_size, reproducible=self.reproducible)


class Picked:
    """Some rows of samples, to take a sample from; see `data.arrays.Sampled`."""

    def __init__(self, samples: Samples, rows: NDArray[np.int64]):
        self._samples, self._rows = samples, rows
        self.n_samples, self.loss = len(rows), samples.loss
        self.targets = samples.targets[rows]
        self.weights = None if samples.weights is None else samples.weights[rows]

    def take(self, rows: NDArray[np.int64]) -> Samples:
        """Copies of the samples of these rows."""
        return self._samples.take(self._rows[rows])

    def bind_rows(self, engine: Any, rows: NDArray[np.int64]) -> None:
        """Gives an engine the samples of these rows, in their order."""
        self._samples.bind_rows(engine, self._rows[rows])


class SharedRows:
    """Batches of a Reader's rows; this process reads only its own.

    Without shuffling, a batch is the next rows, and a process reads its stretch of them. With
    shuffling, the data are split into as many stretches as a batch has lanes. A lane draws only
    from its own stretch, through a pool of blocks as in `RowSource`. So a batch is the same for 1,
    2 and 4 processes.

    Attributes
    ----------
    sampled : Picked or None
        Rows of the first lane, which process 0 has.
    """

    replayed = False

    def __init__(self, reader: Reader, share: Share, shuffle: bool, rng: np.random.Generator):
        self.reader, self.share, self.n_samples = reader, share, reader.n_samples
        self.batch_size = share.batch_size
        self.steps_per_epoch = -(-self.n_samples // self.batch_size)
        self.shuffle, self.rng, self.seconds = shuffle, rng, 0.0
        # Batches of a stretch: as many as fit into one pool, for all processes together.
        pool_rows = reader.pool_rows(self.batch_size)
        self.together = max(1, pool_rows // self.batch_size)
        height = cut(1, self.batch_size, share.n_lanes)
        n_blocks = max(FEWEST_BLOCKS, POOL_BLOCKS // share.n_lanes)
        self.block_rows = reader.block_rows(max(1, pool_rows // share.n_lanes), n_blocks, height)
        self.room = self.together * height + (self.block_rows if shuffle else 0)
        own = len(share.lanes) * self.room if shuffle else self.together * cut(1, self.batch_size, share.active)
        self._pool = reader.empty(max(1, own))
        self.data = self._pool.part(0, 0)
        self.sampled: Picked | None = None
        self.counted = False  # True once a row of this epoch has a weight above 0

    def _sizes(self, lane: int) -> tuple[int, int]:
        """Rows of a lane in a whole batch, and in the last batch of an epoch if that is smaller."""
        n, n_lanes, tail = self.batch_size, self.share.n_lanes, self.n_samples % self.batch_size
        return cut(lane + 1, n, n_lanes) - cut(lane, n, n_lanes), cut(lane + 1, tail, n_lanes) - cut(lane, tail, n_lanes)

    def batches(self) -> Iterator[Stretch]:
        """See `Source`. A batch is the place of its first own row, and all processes' rows."""
        self.counted = False
        # One draw from the generator, so that it stays alike in all processes.
        seed = int(self.rng.integers(2**63)) if self.shuffle else 0
        lanes = [self._lane(seed, lane, i * self.room) for i, lane in enumerate(self.share.lanes)] if self.shuffle else []
        for begin in range(0, self.steps_per_epoch, self.together):
            began = time.perf_counter()
            steps = range(begin, min(begin + self.together, self.steps_per_epoch))
            sizes = [min(self.batch_size, self.n_samples - k * self.batch_size) for k in steps]
            rows = [next(lane) for lane in lanes] if self.shuffle else self._in_order(begin, sizes)
            firsts, first, order = [], 0, []
            for k in range(len(sizes)):
                firsts.append(first)
                for of_lane in rows:
                    order.append(of_lane[k])
                    first += len(of_lane[k])
            if self.share.rank == 0 and rows:
                n_first = [cut(1, n, self.share.n_lanes) for n in sizes]
                self.sampled = Picked(self._pool, np.concatenate([r[:n] for r, n in zip(rows[0], n_first, strict=True)]))
            self.seconds += time.perf_counter() - began
            yield self._pool, np.concatenate(order or [np.empty(0, np.int64)]), zip(firsts, sizes, strict=True)

    def _in_order(self, begin: int, sizes: list[int]) -> list[list[NDArray[np.int64]]]:
        """Reads this process's rows of the next batches. Returns their pool places by batch."""
        filled, places = 0, []
        for k, n in enumerate(sizes, begin):
            start, stop = (k * self.batch_size + place for place in self.share.rows(n))
            if start < stop:
                self._read(start, stop, filled)
            places.append(np.arange(filled, filled + stop - start))
            filled += stop - start
        return [places]

    def _lane(self, seed: int, lane: int, base: int) -> Iterator[list[NDArray[np.int64]]]:
        """For each stretch of batches, the places of a lane's rows in the pool, by batch.

        The lane's places begin at `base`.
        """
        whole, tail = self._sizes(lane)
        n_whole = self.n_samples // self.batch_size
        # Lanes follow one another, and have exactly the rows that batches take.
        first = n_whole * cut(lane, self.batch_size, self.share.n_lanes) + cut(
            lane, self.n_samples % self.batch_size, self.share.n_lanes
        )
        n = n_whole * whole + tail
        rng = np.random.default_rng([seed, lane])
        starts = iter(rng.permutation(np.arange(first, first + n, self.block_rows)).tolist())
        filled = 0
        for begin in range(0, self.steps_per_epoch, self.together):
            steps = range(begin, min(begin + self.together, self.steps_per_epoch))
            sizes = [whole if k < n_whole else tail for k in steps]
            wanted = sum(sizes)
            while filled < wanted:
                start = next(starts)
                stop = min(start + self.block_rows, first + n)
                self._read(start, stop, base + filled)
                filled += stop - start
            order = base + rng.permutation(filled)
            bounds = np.cumsum([0, *sizes])
            yield [order[a:b] for a, b in pairwise(bounds.tolist())]
            left = order[wanted:]
            for array in self._pool.arrays:
                array[base : base + len(left)] = array[left]
            filled = len(left)

    def _read(self, start: int, stop: int, place: int) -> None:
        """Reads rows start .. stop into the pool."""
        samples = self.reader.read(start, stop)
        for array, part in zip(self._pool.arrays, samples.arrays, strict=True):
            array[place : place + stop - start] = part
        self.counted = self.counted or samples.weights is None or bool(samples.weights.any())

    def known_by(self) -> Iterable[NDArray[Any]]:
        """See `Reader.known_by`."""
        return self.reader.known_by()
