# SPDX-License-Identifier: BSD-3-Clause
"""Batches of samples in memory, and the protocol of every source of batches.

Elsewhere: sparse samples (sparse.py), rows on disk (rows.py), ready-made batches (batches.py).
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

__all__ = ["ArraySource", "Sampled", "Source", "Stretch", "bounds", "permutation"]

# Samples in memory, the order in which batches take their rows (None: the stored order), and the
# start and stop of each batch in that order.
Stretch: TypeAlias = tuple[Samples, NDArray[np.int64] | None, Iterable[tuple[int, int]]]


class Sampled(Protocol):
    """Data that a sample can be taken from: `Samples`, or data that become `Samples`."""

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
    """The source of a training's batches.

    Attributes
    ----------
    data : Samples
        Samples that are available before the first epoch.
    sampled : Sampled or None
        Data to take a sample from, if a stretch is too short for it.
    batch_size : int
        Rows of the largest known batch.
    steps_per_epoch : int
    n_samples : int
        Samples of an epoch; known at its end at the latest.
    seconds : float
        Time spent on reading.
    replayed : bool
        True if a resumed training has to run through the epochs before, as an epoch's batches
        depend on them.
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
        """The batches of an epoch by stretches. A stretch's arrays are valid until the next one."""

    def known_by(self) -> Iterable[NDArray[Any]]:
        """Arrays that identify these data."""


def bounds(n: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each batch of n rows; the last may be smaller."""
    stops = chain(range(batch_size, n, batch_size), (n,))
    return zip(range(0, n, batch_size), stops, strict=False)  # no start if n is 0


def permutation(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    """The rows 0 .. n - 1 in a random order.

    Raises
    ------
    TypeError, ValueError
        The generator is of a subclass, and gave something else.
    """
    given = rng.permutation(n)
    if type(rng) is np.random.Generator:
        return given
    # The compiled core trusts an order. The copy is out of the subclass's reach.
    order = np.array(given)
    if order.dtype.kind not in "iu":
        raise TypeError(f"seed: expected whole numbers from its permutation({n}), got {order.dtype}")
    met = np.zeros(n, np.bool_)
    if order.shape == (n,) and (n == 0 or (order.min() >= 0 and order.max() < n)):
        met[order] = True
    if order.shape != (n,) or not met.all():
        raise ValueError(f"seed: expected each of 0 .. {n - 1} once from its permutation({n}), got {order}")
    return order.astype(np.int64, copy=False)


class ArraySource:
    """Batches of samples in memory, shuffled or in stored order."""

    replayed = False
    sampled: Samples | None = None
    seconds = 0.0

    def __init__(self, data: Samples, batch_size: int, shuffle: bool, rng: np.random.Generator):
        self.data, self.n_samples = data, data.n_samples
        self.batch_size = min(batch_size, self.n_samples)
        self.steps_per_epoch = -(-self.n_samples // self.batch_size)
        # If one batch holds all samples, it takes them in stored order.
        self.shuffle, self.rng = shuffle, rng
        self._whole: tuple[Stretch] = ((data, None, ((0, self.n_samples),)),)

    def batches(self) -> Iterable[Stretch]:
        """See `Source`."""
        if self.steps_per_epoch == 1:
            return self._whole  # for the smallest networks, this is most of an epoch's time
        order = permutation(self.rng, self.n_samples) if self.shuffle else None
        return ((self.data, order, bounds(self.n_samples, self.batch_size)),)

    def known_by(self) -> Iterable[NDArray[Any]]:
        """All arrays of the data."""
        return self.data.arrays
