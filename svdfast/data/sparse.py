# SPDX-License-Identifier: BSD-3-Clause
"""Sparse samples in memory (scipy.sparse): rows are made dense as a batch, or a block, needs them.

Training shuffles them row by row, in the order that dense samples have with the same generator, so both give the same network.
Not here: dense samples (arrays.py), rows on disk (rows.py), sparse targets, which nothing here takes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from copy import copy
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import real_dtype, room
from svdfast.data.arrays import Stretch, bounds
from svdfast.data.checks import (
    CODES,
    NAMES,
    Inputs,
    Samples,
    check_inputs_shape,
    check_sample_weight,
    check_some,
    check_targets,
    check_tokens,
)
from svdfast.data.spec import Spec

if TYPE_CHECKING:
    from svdfast._engine import Engine

__all__ = ["SparseSamples", "SparseSource", "is_sparse"]

# Bytes of the dense rows that exist at a time: of a stretch of batches, or of a block.
DENSE_BYTES = 64 * 2**20
# Bytes of the dense rows that a look at a sample of the data may take.
SAMPLE_BYTES = 256 * 2**20

Rows: TypeAlias = slice | NDArray[np.int64]


def is_sparse(value: Any) -> bool:
    """Whether this is a sparse array or matrix of SciPy. None exists before scipy.sparse is imported."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(value))


def _check_matrix(X: Any, spec: Spec, name: str) -> Any:
    """A csr_array of `X` in canonical form, which shares its memory where it can.

    Raises
    ------
    TypeError
        Its numbers are not real.
    ValueError
        It has not as many columns as inputs, its indices are out of bounds, or (if the spec says so) a number is not finite.
    """
    from scipy.sparse import csc_array, csr_array

    real_dtype(name, X.dtype)
    check_inputs_shape(X.shape, spec.n_inputs, name)
    own = csc_array(X) if X.format == "csc" else csr_array(X)
    try:
        # SciPy's conversions trust the indices.
        own.check_format(full_check=True)
    except ValueError as error:
        raise ValueError(f"{name}: expected a valid sparse matrix: {error}") from None
    matrix = own.tocsr()
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    if matrix.dtype not in CODES:
        matrix = matrix.astype(spec.dtype)
    check_tokens(name, matrix.data, spec)
    if spec.finite and matrix.dtype.kind == "f":
        with np.errstate(over="ignore"):
            finite = np.isfinite(matrix.data.astype(spec.dtype, copy=False))
        if not finite.all():
            place = int(np.argmin(finite))
            row = int(np.searchsorted(matrix.indptr, place, side="right")) - 1
            raise ValueError(
                f"{name}: expected finite numbers of {spec.dtype}, got {matrix.data[place]} at {row}, {matrix.indices[place]}"
            )
    return matrix


class SparseSamples:
    """Checked samples of a sparse matrix, with targets and weights where there are any.

    Attributes
    ----------
    n_samples : int
    loss, targets, weights
        As in `Samples`.
    """

    def __init__(
        self, X: Any, y: Any, sample_weight: Any, spec: Spec, names: tuple[str, str, str] = NAMES
    ):
        self.matrix = _check_matrix(X, spec, names[0])
        self.n_samples: int = self.matrix.shape[0]
        check_some(self.n_samples, spec, names[0])
        self.loss = spec.targets
        self.targets: Any = None
        if self.loss is not None:
            self.targets = check_targets(y, spec, self.n_samples, name=names[1])
        self.weights = check_sample_weight(
            sample_weight, self.n_samples, spec.target_dtype, name=names[2], steps=spec.steps
        )
        dtype = self.matrix.dtype
        self.scale = spec.uint8_scale if dtype == np.uint8 else 1.0
        self.row_bytes = max(1, spec.n_inputs * dtype.itemsize)

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """The arrays that the samples consist of."""
        matrix = self.matrix
        parts = (matrix.data, matrix.indices, matrix.indptr, self.targets, self.weights)
        return [a for a in parts if a is not None]

    def take(self, rows: Rows, out: NDArray[Any] | None = None) -> Samples:
        """The samples of these rows, dense; their inputs in `out` where it is given."""
        dtype = self.matrix.dtype
        return Samples(
            Inputs(self.matrix[rows].toarray(out=out), CODES[dtype], self.scale),
            self.loss,
            None if self.targets is None else self.targets[rows],
            None if self.weights is None else self.weights[rows],
        )

    def bind_rows(self, engine: Engine, rows: NDArray[np.int64]) -> None:
        """Gives an engine the samples of these rows, in their order."""
        self.take(rows).bind(engine)
        engine.set_order(None)

    def blocks(self) -> Iterator[Samples]:
        """All samples in order, dense, in blocks of DENSE_BYTES."""
        height = max(1, DENSE_BYTES // self.row_bytes)
        for start in range(0, max(1, self.n_samples), height):
            yield self.take(slice(start, start + height))

    def some(self, n: int) -> SparseSamples:
        """So many of these samples, the same random ones each time."""
        rows = np.random.default_rng(0).choice(self.n_samples, n, replace=False)
        part = copy(self)
        part.matrix, part.n_samples = self.matrix[rows], n
        part.targets = None if self.targets is None else self.targets[rows]
        part.weights = None if self.weights is None else self.weights[rows]
        return part


class SparseSource:
    """Batches of sparse samples; shuffled or as they lie, in the order of `ArraySource`.

    Parameters
    ----------
    samples : SparseSamples
    batch_size : int
    shuffle : bool
    rng : numpy.random.Generator
    n_sampled : int
        Samples that a look at the data takes at most.
    """

    replayed = False

    def __init__(
        self, samples: SparseSamples, batch_size: int, shuffle: bool, rng: np.random.Generator,
        n_sampled: int,
    ):  # fmt: skip
        self.samples, self.n_samples = samples, samples.n_samples
        self.batch_size = min(batch_size, self.n_samples)
        self.steps_per_epoch = -(-self.n_samples // self.batch_size)
        self.shuffle, self.rng = shuffle, rng
        self.seconds = 0.0
        most = max(1, SAMPLE_BYTES // samples.row_bytes)
        self.sampled = samples if min(n_sampled, self.n_samples) <= most else samples.some(most)
        # A stretch holds whole batches.
        n_batches = max(1, DENSE_BYTES // samples.row_bytes // self.batch_size)
        self._height = min(n_batches * self.batch_size, self.n_samples)
        room("batch_size", self._height * samples.row_bytes)
        self._dense = np.empty((self._height, samples.matrix.shape[1]), samples.matrix.dtype)
        self.data = samples.take(slice(0, 0))

    def batches(self) -> Iterator[Stretch]:
        """As `Source` says."""
        n, height = self.n_samples, self._height
        # One batch of all samples is taken as it lies, as that of dense samples is.
        shuffled = self.shuffle and self.steps_per_epoch > 1
        order = self.rng.permutation(n) if shuffled else None
        for start in range(0, n, height):
            began = time.perf_counter()
            stop = min(start + height, n)
            rows = slice(start, stop) if order is None else order[start:stop]
            samples = self.samples.take(rows, self._dense[: stop - start])
            self.seconds += time.perf_counter() - began
            yield samples, None, bounds(stop - start, self.batch_size)

    def known_by(self) -> Iterable[NDArray[Any]]:
        """All numbers and their places."""
        return self.samples.arrays
