# SPDX-License-Identifier: BSD-3-Clause
"""Reads data on disk (an h5py.Dataset, a zarr.Array) in blocks, which form a pool for batches.

How well a row source is shuffled: each epoch takes all blocks in a new random order, up to
POOL_BLOCKS of them at a time, and their rows in a new random order. Each sample comes once an
epoch, and a batch is drawn from as many places as the pool has blocks. Data sorted into more
stretches than that (by class, by time) are shuffled less well than in memory. Smaller blocks would
shuffle better and be read more slowly: at about 1 MiB, the seek time of a disk no longer matters.
Elsewhere: arrays in memory (arrays.py), iterables of batches (batches.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from numbers import Integral
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import real_array, real_dtype, room
from svdfast.data.arrays import Stretch, bounds, permutation
from svdfast.data.checks import (
    CODES,
    NAMES,
    Inputs,
    Samples,
    check_inputs,
    check_sample_weight,
    check_samples_shape,
    check_some,
    check_targets,
    check_targets_shape,
)
from svdfast.data.spec import Spec

__all__ = ["Reader", "RowSource", "Rows", "is_row_source", "read_if_small"]

# Bytes of a pool of rows, and its number of blocks. A data set that fits in the pool is read only
# once and kept.
POOL_BYTES = 64 * 2**20
POOL_BLOCKS = 64
# Blocks of a pool if rows are taken in order, and the fewest if the file's chunks enlarge blocks.
FEWEST_BLOCKS = 8
# The number of rows that identify rows on disk.
KNOWN_BY = 64


class Rows(Protocol):
    """Data that are read row by row, such as an h5py.Dataset or a zarr.Array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


# Attributes of objects whose numbers are in memory (or on a device), or whose slices of rows are
# not arrays.
_IN_MEMORY = ("__array_interface__", "__cuda_array_interface__", "__dlpack__", "iloc", "toarray")


def is_row_source(value: Any, as_they_lie: Collection[Any] = CODES) -> bool:
    """True if this is read block by block.

    That holds for rows on disk, and for a mapped file whose rows would have to be converted.

    Parameters
    ----------
    value : object
    as_they_lie : collection of dtype
        Types whose contiguous rows need no conversion.
    """
    if value is None:
        return False
    if isinstance(value, np.memmap) and getattr(value, "_mmap", None) is not None:
        if value.ndim < 2:
            return False
        return not (value.dtype in as_they_lie and value[:1].flags.c_contiguous and value.flags.aligned)
    if isinstance(value, np.ndarray | np.generic) or any(hasattr(value, a) for a in _IN_MEMORY):
        return False
    shape = getattr(value, "shape", None)
    return (
        hasattr(value, "__getitem__")
        and isinstance(shape, tuple)
        and all(isinstance(n, Integral) for n in shape)
        and isinstance(getattr(value, "dtype", None), np.dtype)
    )


class _Steady:
    """A row source whose rows must keep the shape and dtype that it had at first.

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
            The rows have another shape or dtype than at first.
        """
        array = real_array(self.name, self.rows[start:stop])
        expected = (stop - start, *self.shape[1:])
        if array.shape != expected or array.dtype != self.dtype:
            raise ValueError(
                f"{self.name}: expected rows {start} to {stop} to be an array of shape {expected} and dtype {self.dtype}, "
                f"got shape {array.shape} and dtype {array.dtype}"
            )
        return array


def _block_rows(pool_rows: int, n_blocks: int, steady: _Steady, batch_size: int) -> int:
    """Rows of a block, if a pool has n_blocks: whole chunks of the file, or whole batches.

    A chunk is read in parts only if it is larger than a block may be, as each part would decompress
    it again.
    """
    n = max(1, pool_rows // n_blocks)
    chunks = getattr(steady.rows, "chunks", None)
    chunk = chunks[0] if isinstance(chunks, tuple) and chunks and isinstance(chunks[0], int) else 0
    if n < chunk <= pool_rows // FEWEST_BLOCKS:
        return chunk
    for unit in (chunk, batch_size):
        if 0 < unit <= n:
            return n - n % unit
    return n


def read_if_small(name: str, rows: Any, as_they_lie: Collection[Any]) -> Any:
    """Reads a row source that fits in a pool. Everything else is returned unchanged."""
    small = (
        is_row_source(rows, as_they_lie)
        and len(rows.shape) > 0
        and math.prod(rows.shape) * rows.dtype.itemsize <= POOL_BYTES
    )
    return _Steady(name, rows).read(0, rows.shape[0]) if small else rows


class Reader:
    """Samples with at least one part (X, y, weights) in a row source, read block by block.

    Parts in memory are checked at once, and so are the shapes and types of the others. The rows of
    a row source are checked as they are read.

    Parameters
    ----------
    X, y, sample_weight : array_like or Rows
    spec : Spec
    names : tuple of str
    """

    def __init__(
        self, X: Any, y: Any, sample_weight: Any, spec: Spec, names: tuple[str, str, str] = NAMES
    ):
        n_in, n_out, dtype = spec.n_inputs, spec.n_outputs, spec.target_dtype
        # Functions that return rows start .. stop of each part.
        self._inputs: Callable[[int, int], Inputs]
        self._targets: Callable[[int, int], NDArray[Any] | None]
        self._weights: Callable[[int, int], NDArray[Any] | None]
        steady = []
        self.in_memory: list[NDArray[Any]] = []

        if is_row_source(X):
            X_rows = _Steady(names[0], X)
            steady.append(X_rows)
            check_samples_shape(X_rows.shape, spec, names[0])
            n = X_rows.shape[0]
            self._X_dtype = X_rows.dtype if X_rows.dtype in CODES else spec.dtype
            X_itemsize = max(self._X_dtype.itemsize, X_rows.dtype.itemsize)
            self._inputs = lambda start, stop: check_inputs(
                X_rows.read(start, stop), spec, name=names[0], first_row=start
            )
        else:
            inputs = check_inputs(X, spec, name=names[0])
            n, self._X_dtype, X_itemsize = len(inputs.array), inputs.array.dtype, inputs.array.itemsize
            self.in_memory.append(inputs.array)
            self._inputs = lambda start, stop: replace(inputs, array=inputs.array[start:stop])
        check_some(n, spec, names[0])
        self.n_samples: int = n

        classes = False
        if spec.targets is None:
            self._targets = lambda start, stop: None
        elif is_row_source(y, (dtype,)):
            y_rows = _Steady(names[1], y)
            steady.append(y_rows)
            classes = check_targets_shape(y_rows.shape, y_rows.dtype, spec, n, names[1])
            self._targets = lambda start, stop: check_targets(
                y_rows.read(start, stop), spec, stop - start, name=names[1], first_row=start
            )
        else:
            targets = check_targets(y, spec, n, name=names[1])
            classes = targets.dtype == np.int32
            self.in_memory.append(targets)
            self._targets = lambda start, stop: targets[start:stop]

        if is_row_source(sample_weight):
            w_rows = _Steady(names[2], sample_weight)
            steady.append(w_rows)
            if w_rows.shape not in ((n,), spec.per_target(n)):
                either = f"{(n,)} or {spec.per_target(n)}" if spec.steps else str((n,))
                raise ValueError(f"{names[2]}: expected shape {either}, got {w_rows.shape}")
            self._weights = lambda start, stop: check_sample_weight(
                w_rows.read(start, stop), stop - start, dtype, first_row=start, part=True, steps=spec.steps
            )
        else:
            weights = check_sample_weight(sample_weight, n, dtype, name=names[2], steps=spec.steps)
            self.in_memory += [] if weights is None else [weights]
            self._weights = lambda start, stop: None if weights is None else weights[start:stop]

        self._steady = steady[0]
        y_itemsize = 0 if spec.targets is None else 4 if classes else n_out * dtype.itemsize
        self._row_bytes = n_in * X_itemsize + y_itemsize * math.prod(spec.steps)
        self._spec, self._classes, self._weighted = spec, classes, sample_weight is not None

    def blocks_of_pool(self, n_blocks: int, batch_size: int = 1) -> tuple[int, int]:
        """Rows to read at a time, and how many times for a pool.

        That is about n_blocks times, fewer if the file's chunks are large. A pool has room for a
        batch.
        """
        pool_rows = self.pool_rows(batch_size)
        height = self.block_rows(pool_rows, n_blocks, batch_size)
        return height, max(1, pool_rows // height)

    def pool_rows(self, batch_size: int) -> int:
        """Rows of a pool, which has room for a batch."""
        rows: int = max(POOL_BYTES // max(1, self._row_bytes), batch_size)
        return rows

    def block_rows(self, pool_rows: int, n_blocks: int, batch_size: int) -> int:
        """Rows to read at a time, for a pool of so many rows and about so many blocks."""
        return _block_rows(pool_rows, n_blocks, self._steady, batch_size)

    def empty(self, n: int) -> Samples:
        """Uninitialised room for n samples."""
        spec, dtype = self._spec, self._spec.target_dtype
        room("batch_size", n * self._row_bytes)
        X = np.empty((n, spec.n_inputs), self._X_dtype)
        return Samples(
            check_inputs(X, spec._replace(finite=False, n_tokens=0)),
            spec.targets,
            np.empty(spec.per_target(n), np.int32) if self._classes else np.empty((*spec.per_target(n), spec.n_outputs), dtype),
            np.empty(spec.per_target(n), dtype) if self._weighted else None,
        )

    def read(self, start: int, stop: int) -> Samples:
        """Samples start .. stop, checked.

        Raises
        ------
        TypeError, ValueError
            A row does not fit the spec. The message names it.
        """
        return Samples(
            self._inputs(start, stop),
            self._spec.targets,
            self._targets(start, stop),
            self._weights(start, stop),
        )

    def known_by(self) -> Iterator[NDArray[Any]]:
        """The parts in memory, and some rows from all over the other parts."""
        yield from self.in_memory
        n = self.n_samples
        for row in sorted({n * i // (KNOWN_BY - 1) for i in range(KNOWN_BY - 1)} | {n - 1}):
            yield from self.read(row, row + 1).arrays

    def blocks(self) -> Iterator[Samples]:
        """All samples in order."""
        height, _ = self.blocks_of_pool(FEWEST_BLOCKS)
        for start in range(0, self.n_samples, height):
            yield self.read(start, min(start + height, self.n_samples))


class RowSource:
    """Batches of a Reader's rows, from a pool of some blocks.

    The top of this file describes the shuffling. Without shuffling, they are the same as for arrays
    in memory. The rest of a pool, less than a batch, goes into the next one.
    """

    replayed = False
    sampled: Samples | None = None

    def __init__(self, reader: Reader, batch_size: int, shuffle: bool, rng: np.random.Generator):
        self.reader, self.n_samples = reader, reader.n_samples
        self.batch_size = min(batch_size, self.n_samples)
        self.steps_per_epoch = -(-self.n_samples // self.batch_size)
        self.shuffle, self.rng = shuffle, rng
        self.seconds = 0.0
        n_blocks = POOL_BLOCKS if shuffle else FEWEST_BLOCKS
        self.block_rows, self.n_blocks = reader.blocks_of_pool(n_blocks, self.batch_size)
        if shuffle:  # all pools of an epoch have about as many blocks, so the last is mixed as well
            whole = -(-self.n_samples // self.block_rows)
            self.n_blocks = -(-whole // -(-whole // self.n_blocks))
        # Rows of the blocks and of the rest of the pool before, at most all rows.
        self._pool = reader.empty(min(self.n_blocks * self.block_rows + self.batch_size - 1, self.n_samples))
        self.data = self._pool.part(0, 0)

    def batches(self) -> Iterator[Stretch]:
        """See `Source`."""
        starts = np.arange(0, self.n_samples, self.block_rows)
        if self.shuffle:
            starts = starts[permutation(self.rng, len(starts))]
        filled, counted = 0, False
        for first in range(0, len(starts), self.n_blocks):
            began = time.perf_counter()
            for start in starts[first : first + self.n_blocks].tolist():
                samples = self.reader.read(start, min(start + self.block_rows, self.n_samples))
                stop = filled + samples.n_samples
                for array, part in zip(self._pool.arrays, samples.arrays, strict=True):
                    array[filled:stop] = part
                counted = counted or samples.weights is None or bool(samples.weights.any())
                filled = stop
                del samples, part  # free them before the next block is read
            order = permutation(self.rng, filled) if self.shuffle else None
            last = first + self.n_blocks >= len(starts)
            stop = filled if last else filled - filled % self.batch_size
            self.seconds += time.perf_counter() - began
            yield self._pool.part(0, filled), order, bounds(stop, self.batch_size)
            left = np.arange(stop, filled) if order is None else order[stop:]
            for array in self._pool.arrays:
                array[: len(left)] = array[left]
            filled = len(left)
        if not counted:
            raise ValueError("sample_weight: expected weights ≥ 0, not all 0")

    def known_by(self) -> Iterable[NDArray[Any]]:
        """See `Reader.known_by`."""
        return self.reader.known_by()


