# SPDX-License-Identifier: BSD-3-Clause
"""Sparse samples in memory (scipy.sparse), which the compiled core reads row by row.

They are batched, shuffled and shared out like dense samples in memory (arrays.py), in the same
order with the same generator. Sparse targets are not supported. Elsewhere: dense samples
(checks.py).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdfast._process.checks import real_dtype
from svdfast.data.checks import (
    CODES,
    NAMES,
    Samples,
    check_inputs_shape,
    check_sample_weight,
    check_some,
    check_targets,
    check_tokens,
)
from svdfast.data.spec import Spec

__all__ = ["SparseInputs", "is_sparse", "sparse_samples", "with_own_indices"]

# If at most this share of the numbers is stored, products go entry by entry; above it, dense rows
# are faster (bench/sparse.py).
FEW = 1 / 8


class SparseInputs:
    """Samples in the rows of a CSR matrix in canonical form.

    It also has the code of their element type, and the factor that scales them.

    Attributes
    ----------
    n_samples, n_stored : int
        Number of rows, and of stored values.
    values, columns, begins : ndarray
        The matrix as the compiled core reads it: values of the element type, their columns (int32),
        and the begin of each row's values (int64), followed by the end of the last row.
    """

    is_sparse = True

    def __init__(self, matrix: Any, code: int, scale: float):
        self.matrix, self.code, self.scale = matrix, code, scale
        self.n_samples: int = matrix.shape[0]
        self.values: NDArray[Any] = np.require(matrix.data, None, ["C", "A"])
        self.columns: NDArray[np.int32] = np.require(matrix.indices, np.int32, ["C", "A"])
        self.begins: NDArray[np.int64] = np.require(matrix.indptr, np.int64, ["C", "A"])

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """The arrays that identify the inputs."""
        return [self.matrix.data, self.matrix.indices, self.matrix.indptr]

    @property
    def n_columns(self) -> int:
        return int(self.matrix.shape[1])

    @property
    def n_stored(self) -> int:
        return int(self.matrix.nnz)

    @property
    def by_entries(self) -> bool:
        """True if so few numbers are stored that products should go entry by entry."""
        n_samples, n_in = self.matrix.shape
        return bool(self.matrix.nnz <= FEW * n_samples * n_in)

    def most_entries(self, n_rows: int) -> int:
        """The most stored numbers in so many rows."""
        sizes = np.diff(self.begins)
        if n_rows < len(sizes):
            sizes = np.partition(sizes, len(sizes) - n_rows)[len(sizes) - n_rows :]
        return int(sizes.sum())

    def take(self, rows: Any) -> SparseInputs:
        """Copies of these rows."""
        return SparseInputs(self.matrix[rows], self.code, self.scale)

    def part(self, start: int, stop: int) -> SparseInputs:
        """Rows start .. stop."""
        return self.take(slice(start, stop))

    def rows(self, rows: Any) -> Any:
        """These rows, as a sparse array."""
        return self.matrix[rows]

    def dense(self) -> NDArray[Any]:
        """All rows as an array."""
        found: NDArray[Any] = self.matrix.toarray()
        return found


def is_sparse(value: Any) -> bool:
    """True for a sparse array or matrix of SciPy. None exists before scipy.sparse is imported."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(value))


def with_own_indices(name: str, X: Any) -> Any:
    """The same matrix with a copy of its indices, which are valid. Its values are shared if possible.

    SciPy's conversions and the compiled core trust indices, and the caller may change his own.

    Raises
    ------
    ValueError
        Its indices are out of bounds, or do not fit its values.
    """
    from scipy import sparse

    try:
        if X.format not in ("csr", "csc", "bsr", "coo"):
            X = X.tocoo()
        parts = [np.array(part) for part in (X.coords if X.format == "coo" else (X.indices, X.indptr))]
        if any(part.dtype.kind not in "iu" for part in parts):
            raise ValueError("indices should be integers")
        given = (X.data, tuple(parts)) if X.format == "coo" else (X.data, *parts)
        own = getattr(sparse, f"{X.format}_array")(given, shape=X.shape)
        if own.format != "coo":  # SciPy has looked at the lengths
            n = own.shape[0] if own.format == "csc" else own.shape[-1] // (own.blocksize[1] if own.format == "bsr" else 1)
            if own.indices.size and not 0 <= own.indices.min() <= own.indices.max() < n:
                raise ValueError(f"indices should be from 0 to {n - 1}")
            if (np.diff(own.indptr) < 0).any():
                raise ValueError("index pointers should not decrease")
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected a valid sparse matrix: {error}") from None
    return own


def _check_matrix(X: Any, spec: Spec, name: str) -> Any:
    """`X` as a csr_array in canonical form, which shares the memory of its values if possible.

    Raises
    ------
    TypeError
        Its numbers are not real.
    ValueError
        Its columns are not as many as the inputs, its indices are out of bounds, or (if the spec
        says so) a number is not finite.
    """
    check_inputs_shape(X.shape, spec.n_inputs, name)
    own = with_own_indices(name, X)
    real_dtype(name, own.dtype)
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


def sparse_samples(X: Any, y: Any, sample_weight: Any, spec: Spec, names: tuple[str, str, str] = NAMES) -> Samples:
    """Sparse samples, checked as a whole, with targets and weights if there are any.

    Raises
    ------
    TypeError, ValueError
        The data do not fit `spec`, or there is no sample.
    """
    matrix = _check_matrix(X, spec, names[0])
    n_samples = matrix.shape[0]
    check_some(n_samples, spec, names[0])
    targets = None if spec.targets is None else check_targets(y, spec, n_samples, name=names[1])
    weights = check_sample_weight(sample_weight, n_samples, spec.target_dtype, name=names[2], steps=spec.steps)
    scale = spec.uint8_scale if matrix.dtype == np.uint8 else 1.0
    return Samples(SparseInputs(matrix, CODES[matrix.dtype], scale), spec.targets, targets, weights)
