# SPDX-License-Identifier: BSD-3-Clause
"""Batches of samples in memory, and what every source of batches is.

Elsewhere: sparse samples (sparse.py), rows that are not in memory (rows.py), batches that come ready (batches.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast.data.checks import Samples
from svdfast.data.spec import Targets

if TYPE_CHECKING:
    from svdfast._engine import Engine

__all__ = ["ArraySource", "Sampled", "Source", "Stretch", "bounds"]

# Samples in memory, the order that batches take their rows in (None: as they lie), and the rows of that order,
# start and stop, of each batch.
Stretch: TypeAlias = tuple[Samples, NDArray[np.int64] | None, Iterable[tuple[int, int]]]


class Sampled(Protocol):
    """What a sample of the data is taken from: `Samples`, or what is made into them."""

    @property
    def n_samples(self) -> int: ...
    @property
    def loss(self) -> Targets | None: ...
    @property
    def targets(self) -> Any: ...
    @property
    def weights(self) -> NDArray[Any] | None: ...

    def take(self, rows: NDArray[np.int64]) -> Samples:
        """Copies of the samples of these rows."""

    def bind_rows(self, engine: Engine, rows: NDArray[np.int64]) -> None:
        """Gives an engine the samples of these rows, in their order."""


class Source(Protocol):
    """Where a training takes its batches from.

    Attributes
    ----------
    data : Samples
        What is there before the first epoch.
    sampled : Sampled or None
        What to take a sample of the data from, where a stretch is too short for it.
    batch_size : int
        Rows of the largest batch that is known of.
    steps_per_epoch : int
    n_samples : int
        Of an epoch; at its end at the latest.
    seconds : float
        That went into reading.
    replayed : bool
        Whether a training that is resumed has to run through the epochs before, as an epoch's batches depend on them.
    """

    replayed: bool
    data: Samples
    batch_size: int
    steps_per_epoch: int
    n_samples: int
    seconds: float

    @property
    def sampled(self) -> Sampled | None: ...

    def batches(self) -> Iterable[Stretch]:
        """The batches of an epoch, stretch by stretch. A stretch's arrays hold until the next is asked for."""

    def known_by(self) -> Iterable[NDArray[Any]]:
        """Arrays by which these data are told from others."""


def bounds(n: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each batch of n rows; the last may be smaller."""
    stops = chain(range(batch_size, n, batch_size), (n,))
    return zip(range(0, n, batch_size), stops, strict=False)  # no start where n is 0


class ArraySource:
    """Batches of samples in memory; shuffled or as they lie."""

    replayed = False
    sampled: Samples | None = None
    seconds = 0.0

    def __init__(self, data: Samples, batch_size: int, shuffle: bool, rng: np.random.Generator):
        self.data, self.n_samples = data, data.n_samples
        self.batch_size = min(batch_size, self.n_samples)
        self.steps_per_epoch = -(-self.n_samples // self.batch_size)
        # Where one batch holds all samples, they are taken as they lie.
        self.shuffle, self.rng = shuffle, rng
        self._whole: tuple[Stretch] = ((data, None, ((0, self.n_samples),)),)

    def batches(self) -> Iterable[Stretch]:
        """As `Source` says."""
        if self.steps_per_epoch == 1:
            return self._whole  # the smallest networks' epochs are little else
        order = self.rng.permutation(self.n_samples) if self.shuffle else None
        return ((self.data, order, bounds(self.n_samples, self.batch_size)),)

    def known_by(self) -> Iterable[NDArray[Any]]:
        """All of them."""
        return self.data.arrays
