# SPDX-License-Identifier: BSD-3-Clause
"""Where batches come from: arrays in memory, rows that are read as they are needed, iterables of batches.

- `ArraySource`: arrays are read as they lie, in a new order each epoch.
- `RowSource`: of what is not in memory (an h5py.Dataset, a zarr.Array), blocks of consecutive rows are read into a pool of a bounded
  size, and batches are taken from all over the pool.
- `BatchSource`: batches come ready, from the user.

A training asks its source for the batches of each epoch, as rows start .. stop of what the source has then bound to the engine. Samples
are checked when they are there: at once in memory, else as they are read. Not here: the checks (data.py), the loop (loop.py).

How well a row source is shuffled: each epoch takes all blocks in a new random order, POOL_BLOCKS of them at a time, and the rows of
these in a new random order. So each sample comes once an epoch, and a batch is drawn from that many places in the data, wherever they
are. But within a block neighbours stay near each other: of data that are sorted (by class, by time) a batch sees at most as many
stretches as the pool has blocks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdfast._process.checks import count, real_array, real_dtype, room
from svdfast.data.checks import (
    CODES,
    Inputs,
    Samples,
    check_inputs,
    check_inputs_shape,
    check_sample_weight,
    check_targets,
    check_targets_shape,
)
from svdfast.model.losses import Loss

if TYPE_CHECKING:
    from svdfast.model.network import Network
    from svdfast.training.run import Run

__all__ = [
    "ArraySource",
    "Batch",
    "BatchSource",
    "Reader",
    "RowSource",
    "Rows",
    "Source",
    "check_batch",
    "input_blocks",
    "is_iterable_of_batches",
    "is_row_source",
    "settled",
    "validation_batches",
]

# Bytes of a pool of rows, and the blocks that it is read in. What is smaller as a whole is read once and kept.
POOL_BYTES = 64 * 2**20
POOL_BLOCKS = 8
# Bytes at most of the inputs of a sample that is kept of batches.
SAMPLE_BYTES = 32 * 2**20
# Rows by which rows that are not in memory are told from others.
KNOWN_BY = 64


class Rows(Protocol):
    """What is read row by row: an h5py.Dataset or a zarr.Array, say."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


Batch: TypeAlias = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]


class Source(Protocol):
    """Where a training takes its batches from.

    Attributes
    ----------
    data : Samples
        What is there before the first epoch; during it, `Run.data`.
    batch_size : int
        Rows of the largest batch that is known of.
    steps_per_epoch : int
    n_samples : int
        Of an epoch; at its end at the latest.
    seconds : float
        That went into reading.
    replayed : bool
        Whether a training that goes on has to run through the epochs before, as what an epoch's batches are depends on them.
    """

    replayed: bool
    data: Samples
    batch_size: int
    steps_per_epoch: int
    n_samples: int
    seconds: float

    def batches(self, run: Run) -> Iterable[tuple[int, int]]:
        """The rows, start and stop, of each batch of an epoch, its samples bound to the run's engine when it is asked for."""

    def known_by(self) -> Iterable[NDArray[Any]]:
        """Arrays by which these data are told from others."""


# What says that an object's numbers are in memory (or on a device), or that its slices of rows are no arrays.
_IN_MEMORY = ("__array_interface__", "__cuda_array_interface__", "__dlpack__", "iloc", "toarray")


def is_row_source(value: Any, as_they_lie: Collection[Any] = CODES) -> bool:
    """Whether this is to be read block by block: rows that are not in memory, or a mapped file whose rows would have to be converted.

    Parameters
    ----------
    value : object
    as_they_lie : collection of dtype
        Types whose contiguous rows need no conversion.
    """
    if isinstance(value, np.memmap) and getattr(value, "_mmap", None) is not None:
        if value.ndim < 2:
            return False
        contiguous = value.shape[1] <= 1 or value.strides[1] == value.itemsize
        return not (value.dtype in as_they_lie and contiguous and value.flags.aligned)
    if isinstance(value, np.ndarray | np.generic) or any(hasattr(value, a) for a in _IN_MEMORY):
        return False
    shape = getattr(value, "shape", None)
    return (
        hasattr(value, "__getitem__")
        and isinstance(shape, tuple)
        and all(isinstance(n, Integral) for n in shape)
        and isinstance(getattr(value, "dtype", None), np.dtype)
    )


def is_iterable_of_batches(value: Any) -> bool:
    """Whether this may be an iterable of batches, and is no array."""
    return (
        isinstance(value, Iterable)
        and not isinstance(value, str | bytes | bytearray | Mapping | set | frozenset)
        and not hasattr(value, "dtype")
        and not hasattr(value, "__array__")
    )


class _Steady:
    """A row source whose rows are read as arrays of the shape and dtype that it had at first.

    Raises
    ------
    TypeError
        Its numbers are not real.
    """

    def __init__(self, name: str, rows: Rows):
        real_dtype(name, rows.dtype)
        self.name, self.rows = name, rows
        self.shape, self.dtype = rows.shape, rows.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start .. stop.

        Raises
        ------
        TypeError, ValueError
            They are not what was promised.
        """
        array = real_array(self.name, self.rows[start:stop])
        expected = (stop - start, *self.shape[1:])
        if array.shape != expected or array.dtype != self.dtype:
            raise ValueError(
                f"{self.name}: expected rows {start} to {stop} to be an array of shape {expected} and dtype {self.dtype}, "
                f"got shape {array.shape} and dtype {array.dtype}"
            )
        return array


def _block_rows(row_bytes: int, steady: _Steady, batch_size: int = 1) -> int:
    """Rows of a block: of a POOL_BLOCKS-th of the pool, whole chunks of the file or else whole batches where these are smaller."""
    n = max(1, POOL_BYTES // POOL_BLOCKS // max(1, row_bytes), -(-batch_size // POOL_BLOCKS))
    chunks = getattr(steady.rows, "chunks", None)
    chunk = chunks[0] if isinstance(chunks, tuple) and chunks and isinstance(chunks[0], int) else 0
    for unit in (chunk, batch_size):
        if 0 < unit <= n:
            return n - n % unit
    return n


def _small_as_array(name: str, rows: Any) -> Any:
    """What fits into a pool as a whole, read; else as it is."""
    if len(rows.shape) > 0 and math.prod(rows.shape) * rows.dtype.itemsize <= POOL_BYTES:
        return _Steady(name, rows).read(0, rows.shape[0])
    return rows


def settled(
    net: Network, X: Any, y: Any, sample_weight: Any, names: tuple[str, str] = ("X", "y")
) -> tuple[Any, Any, Any, bool]:
    """X, y and weights, the small row sources among them read; and whether any is left that is to be read block by block."""
    given = {names[0]: X, names[1]: y, "sample_weight": sample_weight}
    left = False
    for name, value in given.items():
        if is_row_source(value, CODES if name == names[0] else (net.dtype,)):
            given[name] = _small_as_array(name, value)
            left = left or given[name] is value
    return (*given.values(), left)


def input_blocks(net: Network, X: Rows) -> Iterator[tuple[int, Inputs]]:
    """Blocks of the samples of a row source, which need not be finite, and the row that each begins at.

    Raises
    ------
    TypeError, ValueError
        As `check_inputs` does; of the shape and dtype before anything is read.
    """
    n_in = net.sizes[0]
    steady = _Steady("X", X)
    check_inputs_shape(steady.shape, n_in)
    n_samples = steady.shape[0]
    height = _block_rows(n_in * max(steady.dtype.itemsize, net.dtype.itemsize), steady)

    def blocks() -> Iterator[tuple[int, Inputs]]:
        for start in range(0, n_samples, height):
            array = steady.read(start, min(start + height, n_samples))
            yield start, check_inputs(array, n_in, net.dtype, net.uint8_scale, finite=False)

    return blocks()


class Reader:
    """Samples of which some part (X, y, weights) is a row source, read and checked block by block.

    What is in memory, and the shapes and types of what is not, are checked at once.

    Parameters
    ----------
    net : Network
    X, y, sample_weight : array_like or Rows
    loss : Loss
    dtype : dtype, optional
        Of targets and weights; by default the network's.
    names : tuple of str
    """

    def __init__(
        self,
        net: Network,
        X: Any,
        y: Any,
        loss: Loss,
        sample_weight: Any,
        *,
        dtype: np.dtype[Any] | None = None,
        names: tuple[str, str] = ("X", "y"),
    ):
        net_dtype, scale = net.dtype, net.uint8_scale
        n_in, n_out = net.sizes[0], net.sizes[-1]
        dtype = net_dtype if dtype is None else dtype
        self._loss = loss
        # What gives rows start .. stop of each part.
        self._inputs: Callable[[int, int], Inputs]
        self._targets: Callable[[int, int], NDArray[Any]]
        self._weights: Callable[[int, int], NDArray[Any] | None]
        steady = []
        self._in_memory: list[NDArray[Any]] = []

        if is_row_source(X):
            X_rows = _Steady(names[0], X)
            steady.append(X_rows)
            check_inputs_shape(X_rows.shape, n_in, names[0])
            n = X_rows.shape[0]
            X_dtype = X_rows.dtype if X_rows.dtype in CODES else net_dtype
            X_itemsize = max(X_dtype.itemsize, X_rows.dtype.itemsize)
            self._inputs = lambda start, stop: check_inputs(
                X_rows.read(start, stop), n_in, net_dtype, scale, name=names[0], first_row=start
            )
        else:
            inputs = check_inputs(X, n_in, net_dtype, scale, name=names[0])
            n, X_dtype, X_itemsize = len(inputs.array), inputs.array.dtype, inputs.array.itemsize
            self._in_memory.append(inputs.array)
            self._inputs = lambda start, stop: replace(inputs, array=inputs.array[start:stop])
        if n == 0:
            raise ValueError(f"{names[0]}: expected at least one sample, got none")
        self.n_samples: int = n

        if is_row_source(y, (net_dtype,)):
            y_rows = _Steady(names[1], y)
            steady.append(y_rows)
            classes = check_targets_shape(y_rows.shape, y_rows.dtype, loss, n, n_out, names[1])
            self._targets = lambda start, stop: check_targets(
                y_rows.read(start, stop), loss, stop - start, n_out, dtype, name=names[1], first_row=start
            )
        else:
            targets = check_targets(y, loss, n, n_out, dtype, name=names[1])
            classes = targets.dtype == np.int32
            self._in_memory.append(targets)
            self._targets = lambda start, stop: targets[start:stop]

        if is_row_source(sample_weight):
            w_rows = _Steady("sample_weight", sample_weight)
            steady.append(w_rows)
            if w_rows.shape != (n,):
                raise ValueError(f"sample_weight: expected shape {(n,)}, got {w_rows.shape}")
            self._weights = lambda start, stop: check_sample_weight(
                w_rows.read(start, stop), stop - start, dtype, first_row=start, part=True
            )
        else:
            weights = check_sample_weight(sample_weight, n, dtype)
            self._in_memory += [] if weights is None else [weights]
            self._weights = lambda start, stop: None if weights is None else weights[start:stop]

        self._steady = steady[0]
        self._row_bytes = n_in * X_itemsize + (4 if classes else n_out * dtype.itemsize)
        self._net, self._X_dtype, self._dtype = net, X_dtype, dtype
        self._classes, self._weighted = classes, sample_weight is not None

    def block_rows(self, batch_size: int = 1) -> int:
        """Rows to be read at a time."""
        return _block_rows(self._row_bytes, self._steady, batch_size)

    def empty(self, n: int) -> Samples:
        """Room for n samples."""
        net, dtype = self._net, self._dtype
        n_in, n_out = net.sizes[0], net.sizes[-1]
        room("batch_size", n * self._row_bytes)
        X = np.empty((n, n_in), self._X_dtype)
        return Samples(
            check_inputs(X, n_in, net.dtype, net.uint8_scale, finite=False),
            self._loss,
            np.empty(n, np.int32) if self._classes else np.empty((n, n_out), dtype),
            np.empty(n, dtype) if self._weighted else None,
        )

    def read(self, start: int, stop: int) -> Samples:
        """Samples start .. stop, checked.

        Raises
        ------
        TypeError, ValueError
            Of rows that are not what they should be; the row is said.
        """
        return Samples(
            self._inputs(start, stop), self._loss, self._targets(start, stop), self._weights(start, stop)
        )

    def known_by(self) -> Iterator[NDArray[Any]]:
        """What is in memory, and of what is not some rows from all over it."""
        yield from self._in_memory
        n = self.n_samples
        for row in sorted({n * i // (KNOWN_BY - 1) for i in range(KNOWN_BY - 1)} | {n - 1}):
            yield from self.read(row, row + 1).arrays

    def blocks(self) -> Iterator[Samples]:
        """All samples in order."""
        height = self.block_rows()
        for start in range(0, self.n_samples, height):
            yield self.read(start, min(start + height, self.n_samples))


class ArraySource:
    """Batches of samples in memory; shuffled or as they lie."""

    replayed = False
    seconds = 0.0

    def __init__(
        self, data: Samples, batch_size: int, shuffle: bool, rng: np.random.Generator
    ):
        self.data, self.n_samples = data, data.n_samples
        self.batch_size = min(batch_size, self.n_samples)
        self.steps_per_epoch = -(-self.n_samples // self.batch_size)
        self.shuffle, self.rng = shuffle, rng
        self._whole = ((0, self.n_samples),)

    def batches(self, run: Run) -> Iterable[tuple[int, int]]:
        """As `Source` says. Where one batch holds all samples, they are taken as they lie."""
        if self.steps_per_epoch == 1:
            return self._whole
        if self.shuffle:
            run.engine.set_order(self.rng.permutation(self.n_samples))
        n, size = self.n_samples, self.batch_size
        return zip(range(0, n, size), chain(range(size, n, size), (n,)), strict=True)

    def known_by(self) -> Iterable[NDArray[Any]]:
        """All of them."""
        return self.data.arrays


class RowSource:
    """Batches of what a Reader reads, from a pool of some blocks; see above how they are shuffled.

    Without shuffling they are those of arrays in memory. What a pool leaves, less than a batch, goes into the next.
    """

    replayed = False

    def __init__(self, reader: Reader, batch_size: int, shuffle: bool, rng: np.random.Generator):
        self.reader, self.n_samples = reader, reader.n_samples
        self.batch_size = min(batch_size, self.n_samples)
        self.steps_per_epoch = -(-self.n_samples // self.batch_size)
        self.shuffle, self.rng = shuffle, rng
        self.seconds = 0.0
        self.block_rows = reader.block_rows(self.batch_size)
        # Of the blocks, and of what the pool before has left; no more than there are.
        self._pool = reader.empty(
            min(POOL_BLOCKS * self.block_rows + self.batch_size - 1, self.n_samples)
        )
        self.data = self._pool.part(0, 0)

    def batches(self, run: Run) -> Iterator[tuple[int, int]]:
        """As `Source` says."""
        starts = np.arange(0, self.n_samples, self.block_rows)
        if self.shuffle:
            starts = self.rng.permutation(starts)
        filled, counted = 0, False
        for first in range(0, len(starts), POOL_BLOCKS):
            began = time.perf_counter()
            for start in starts[first : first + POOL_BLOCKS].tolist():
                samples = self.reader.read(start, min(start + self.block_rows, self.n_samples))
                stop = filled + samples.n_samples
                for array, part in zip(self._pool.arrays, samples.arrays, strict=True):
                    array[filled:stop] = part
                counted = counted or samples.weights is None or bool(samples.weights.any())
                filled = stop
                del samples, part  # before the next block is there
            order = self.rng.permutation(filled) if self.shuffle else None
            run.take(self._pool.part(0, filled), order)
            self.seconds += time.perf_counter() - began
            last = first + POOL_BLOCKS >= len(starts)
            stop = filled if last else filled - filled % self.batch_size
            for start in range(0, stop, self.batch_size):
                yield start, min(start + self.batch_size, stop)
            left = np.arange(stop, filled) if order is None else order[stop:]
            for array in self._pool.arrays:
                array[: len(left)] = array[left]
            filled = len(left)
        if not counted:
            raise ValueError("sample_weight: expected weights ≥ 0, not all 0")

    def known_by(self) -> Iterable[NDArray[Any]]:
        """As the Reader says."""
        return self.reader.known_by()


def check_batch(net: Network, batch: Any, loss: Loss, number: int, name: str = "X") -> Samples:
    """The samples of the batch of this number, from 1.

    Raises
    ------
    TypeError, ValueError
        It is not (X, y) or (X, y, sample_weight), or one of these does not fit the network.
    """
    parts: tuple[Any, ...] = tuple(batch) if isinstance(batch, tuple | list) else ()
    # A row of samples, where y was forgotten, may have two or three numbers, too.
    numbers = len(parts) > 0 and all(isinstance(part, Real) for part in parts)
    if len(parts) not in (2, 3) or numbers:
        length = f" of {len(parts)}" + " numbers" * numbers if isinstance(batch, tuple | list) else ""
        raise TypeError(
            f"{name}: expected samples with y, or an iterable of batches (X, y) or (X, y, sample_weight), "
            f"got a {type(batch).__name__}{length} as batch {number}"
        )
    X, y, weight = (*parts, None)[:3]
    n_in, n_out, dtype = net.sizes[0], net.sizes[-1], net.dtype
    place = f" of batch {number}" if name == "X" else f" of {name}, batch {number}"
    inputs = check_inputs(X, n_in, dtype, net.uint8_scale, name=f"X{place}")
    n = len(inputs.array)
    if n == 0:
        raise ValueError(f"X{place}: expected at least one sample, got none")
    targets = check_targets(y, loss, n, n_out, dtype, name=f"y{place}")
    weights = check_sample_weight(weight, n, dtype, name=f"sample_weight{place}", part=True)
    return Samples(inputs, loss, targets, weights)


def validation_batches(net: Network, batches: Any, loss: Loss) -> Callable[[], Iterator[Samples]]:
    """What gives the samples of an iterable of batches for validation, each time anew.

    Raises
    ------
    TypeError
        It is no iterable, or one that can be iterated once only.
    """
    if not is_iterable_of_batches(batches) or isinstance(batches, Iterator):
        raise TypeError(
            "validation: expected a pair (X, y), or an iterable of batches (X, y) or (X, y, sample_weight) that can be iterated "
            f"again and again, got {type(batches).__name__}"
        )

    def samples() -> Iterator[Samples]:
        number = 0
        for number, batch in enumerate(batches, 1):
            yield check_batch(net, batch, loss, number, "validation")
        if number == 0:
            raise ValueError("validation: expected batches each time that it is iterated, got none")

    return samples


class BatchSource:
    """Batches as an iterable gives them.

    Parameters
    ----------
    net : Network
    batches : iterable of (X, y) or (X, y, sample_weight)
        Iterated anew each epoch; an iterator, which can't be, goes on.
    loss : Loss
    steps_per_epoch : int, optional
        By default the iterable's length.
    n_sampled : int
        Samples of the first batches that are copied to `Run.sampled`, for what looks at a sample of the data.

    Raises
    ------
    TypeError, ValueError
        The number of batches is not known, there is none, or the first is not as it should be.
    """

    replayed = True

    def __init__(
        self, net: Network, batches: Iterable[Batch], loss: Loss, steps_per_epoch: int | None, n_sampled: int
    ):
        self._net, self._loss, self._dtype = net, loss, net.dtype
        n_in = net.sizes[0]
        if steps_per_epoch is None:
            try:
                steps_per_epoch = len(batches)  # type: ignore[arg-type]
            except TypeError:
                raise ValueError(
                    "steps_per_epoch: expected the number of batches in an epoch with an iterable that has no length, got None"
                ) from None
            if steps_per_epoch == 0:
                raise ValueError("X: expected at least one batch, got none")
        self.steps_per_epoch = count("steps_per_epoch", steps_per_epoch)
        self.seconds = 0.0
        self.n_samples = self._n_taken = 0
        self._batches = batches
        self._iterator = iter(batches)
        self._one_shot = self._iterator is batches
        self._first: Samples | None = self._next()
        self.data = self._first
        self.batch_size = self.data.n_samples
        self._sample: Samples | None = None
        self._n_kept, self._room = 0, 0
        if n_sampled > 0:
            self._room = max(1, min(n_sampled, SAMPLE_BYTES // (n_in * self._dtype.itemsize)))
            targets = self.data.targets
            self._sample = Samples(
                Inputs(np.empty((self._room, n_in), self._dtype), CODES[self._dtype], 1.0),
                loss,
                np.empty((self._room, *targets.shape[1:]), targets.dtype),
                np.ones(self._room, self._dtype),
            )

    def _next(self) -> Samples:
        """The next batch, checked."""
        try:
            batch = next(self._iterator)
        except StopIteration:
            raise ValueError(
                f"X: expected {self.steps_per_epoch} batches in an epoch, got no more after "
                f"{self._n_taken} step{'s' * (self._n_taken != 1)}"
            ) from None
        self._n_taken += 1
        return check_batch(self._net, batch, self._loss, self._n_taken)

    def _keep(self, samples: Samples, run: Run) -> None:
        """Copies rows to the sample while there is room."""
        sample, start = self._sample, self._n_kept
        n = min(samples.n_samples, self._room - start)
        if sample is None or n == 0 or samples.targets.dtype != sample.targets.dtype:
            return
        part = sample.part(start, start + n)
        assert part.weights is not None
        np.multiply(
            samples.inputs.array[:n],
            self._dtype.type(samples.inputs.scale),
            out=part.inputs.array,
            casting="same_kind",
        )
        part.targets[...] = samples.targets[:n]
        if samples.weights is not None:
            part.weights[...] = samples.weights[:n]
        self._n_kept += n
        run.sampled = sample.part(0, self._n_kept)

    def batches(self, run: Run) -> Iterator[tuple[int, int]]:
        """As `Source` says."""
        samples, self._first = self._first, None
        n_samples = 0
        for step in range(self.steps_per_epoch):
            began = time.perf_counter()
            if step == 0 and samples is None and not self._one_shot:
                self._iterator = iter(self._batches)
            if samples is None:
                samples = self._next()
            n = samples.n_samples
            run.take(samples, None, largest=n)
            self._keep(samples, run)
            samples = None  # so that it can go when the next is there
            self.seconds += time.perf_counter() - began
            n_samples += n
            yield 0, n
        self.n_samples = n_samples

    def known_by(self) -> Iterable[NDArray[Any]]:
        """The first batch, before it is taken."""
        assert self._first is not None
        return self._first.arrays
