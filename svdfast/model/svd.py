# SPDX-License-Identifier: BSD-3-Clause
"""Truncated singular value decomposition, and the two factors of a weight that it gives.

This file is linear algebra on one matrix. It does not know layers, networks or training:
`svdfast.model.truncation` decides which weights are factored and when.
"""

import logging
import math
import numbers
from collections.abc import Callable
from typing import Any, Literal, SupportsIndex, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import scipy.linalg

from svdfast._process.checks import count, one_of
from svdfast._process.runtime import single_threaded_blas
from svdfast.model.products import gram, largest, product

__all__ = [
    "Outputs", "exponent", "factorize", "leading_directions", "resolve_rank", "restricted_svd", "shares", "singular_values",
    "truncated_svd",
]  # fmt: skip

logger = logging.getLogger("svdfast")

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Method: TypeAlias = Literal["exact", "randomized"]
# ε of the ridge, as a share of the mean square of an input, summed over the sample.
RIDGE = 1e-2
# Up to the first number of outputs, their Gram matrix is decomposed whole. Above the second number
# it may not even be formed.
_FEW_OUTPUTS = 128
_MANY_OUTPUTS = 1024
# A direction stands apart if its eigenvalue is larger than the next by this share, and smaller than
# the one before by this share. It is found when the share of others mixed into it is below _ENOUGH.
_GAP = 0.2
_ENOUGH = 3e-5
# Vectors beyond the rank.
_OVERSAMPLES = 16
# From so many elements on, products and a small decomposition are faster than LAPACK's
# decompositions of the whole matrix.
_LARGE = 1 << 14
Split: TypeAlias = Literal["balanced", "left", "right"]


@single_threaded_blas.held()
def truncated_svd(
    W: npt.ArrayLike,
    rank: SupportsIndex,
    method: Method = "exact",
    *,
    n_oversamples: SupportsIndex = 10,
    n_iterations: SupportsIndex = 4,
    seed: int | np.random.Generator = 0,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Keep the ``rank`` largest singular values of a matrix: W ≈ U·diag(s)·Vt.

    No matrix of rank l is nearer to W in the Frobenius or the spectral norm than the exact one
    (Eckart and Young, 1936). The paper, section 3.3.1, factors a weight with it; this is step 2 in
    section 3.3.2.

    Parameters
    ----------
    W : array_like of shape (n, m)
        Real matrix in any memory layout; it is not modified. ``float32`` and ``float64`` are the
        dtypes of the computation; integers and booleans are computed as ``float64``.
    rank : int
        Singular values to keep, l, from 1 to min(n, m).
    method : {"exact", "randomized"}, default "exact"
        "exact" decomposes W whole by LAPACK. "randomized" looks for the range of W with
        ``rank + n_oversamples`` random vectors. It is faster for a rank far below min(n, m), and
        close to the exact result if the singular values fall off.
    n_oversamples : int, default 10
        Random vectors beyond ``rank``; "randomized" only.
    n_iterations : int, default 4
        Power iterations, which make the leading directions stand out; "randomized" only.
    seed : int or numpy.random.Generator, default 0
        Seed for the random vectors; "randomized" only.

    Returns
    -------
    U : ndarray of shape (n, rank)
        Left singular vectors, orthonormal columns.
    s : ndarray of shape (rank,)
        Singular values, largest first, never negative.
    Vt : ndarray of shape (rank, m)
        Right singular vectors, orthonormal rows.
        All three have the dtype of the computation, are C-contiguous and own their memory.

    Raises
    ------
    TypeError
        `W` is not real ``float32``, ``float64``, integer or boolean; or `rank`,
        `n_oversamples` or `n_iterations` is not an integer.
    ValueError
        `W` is not two-dimensional, is empty or holds NaN or infinity; `rank` is out of range;
        `n_oversamples` or `n_iterations` is negative; `method` is unknown.
    numpy.linalg.LinAlgError
        None of the methods below converged.

    Notes
    -----
    LAPACK's gesdd (divide and conquer) comes first. If it does not converge, gesvd (plain QR
    iteration) is tried, and then the randomized decomposition. Each time, a warning is logged to
    "svdfast".

    "exact" has a faster method for a float32 W of at least 128 rows and columns and a rank of at
    most half of them. It computes `rank` eigenvectors of the Gram matrix, G = W·Wᵀ = U·Σ²·Uᵀ (the
    smaller of W·Wᵀ and Wᵀ·W), in float64. Rounding disturbs G by about ε₆₄·σ₁², and Vt = Σ⁻¹·Uᵀ·W
    loses its orthogonality by ε₆₄·(σ₁/σ_l)². This is below the resolution of float32, unless σ_l is
    thousands of times smaller than σ₁. LAPACK's SVD is used then, and in all other cases.

    "randomized" is algorithm 4.4 with 5.1 of N. Halko, P. G. Martinsson, J. A. Tropp, "Finding
    structure with randomness", SIAM Review 53, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from svdfast.model.svd import truncated_svd
    >>> W = np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    >>> U, s, Vt = truncated_svd(W, 2)
    >>> s
    array([3., 2.])
    >>> np.abs(U * s @ Vt)
    array([[3., 0., 0.],
           [0., 2., 0.],
           [0., 0., 0.]])
    """
    matrix = _as_matrix(W)
    rank = count("rank", rank, maximum=min(matrix.shape))
    oversamples = count("n_oversamples", n_oversamples, minimum=0)
    iterations = count("n_iterations", n_iterations, minimum=0)
    one_of("method", method, get_args(Method))

    if method == "exact":
        U, s, Vt = _leading_svd(matrix, rank) or _full_svd(matrix, rank)
    else:
        rng = np.random.default_rng(seed)
        U, s, Vt = _randomized_svd(matrix, rank + oversamples, iterations, rng)
    # LAPACK returns Fortran order, and a slice would keep the whole decomposition alive.
    return (
        np.array(U[:, :rank], order="C"),
        np.array(s[:rank]),
        np.array(Vt[:rank], order="C"),
    )


def factorize(
    W: npt.ArrayLike,
    rank: SupportsIndex,
    split: Split = "balanced",
    method: Method = "exact",
    seed: int | np.random.Generator = 0,
) -> tuple[FloatArray, FloatArray]:
    """Factor a weight into two thin ones by truncated SVD: W ≈ W1·W2.

    W1·W2 = U_l·Σ_l·V_lᵀ (the paper, section 3.3.1). The paper does not say which factor takes Σ_l;
    `split` does. The product is the same for every split, but the training that follows differs.
    "balanced" starts both factors at the same norm, so that neither learns much faster than the
    other. In directions in which W is zero, only W1 is zero: zeros in both would never be trained.

    Parameters
    ----------
    W : array_like of shape (n, m)
        Weight, (outputs, inputs). See `truncated_svd` for the dtypes.
    rank : int
        The l-value, from 1 to min(n, m).
    split : {"balanced", "left", "right"}, default "balanced"
        The factor that takes the singular values: both (their square roots), W1, or W2.
    method : {"exact", "randomized"}, default "exact"
        As in `truncated_svd`.
    seed : int or numpy.random.Generator, default 0
        As in `truncated_svd`.

    Returns
    -------
    W1 : ndarray of shape (n, rank)
    W2 : ndarray of shape (rank, m)
        Both C-contiguous, ``float32`` for a ``float32`` W, else ``float64``.

    Raises
    ------
    TypeError, ValueError
        As `truncated_svd`; ValueError also for an unknown `split`.

    Examples
    --------
    >>> import numpy as np
    >>> from svdfast.model.svd import factorize
    >>> W = np.outer([1.0, 2.0, 2.0], [3.0, 4.0])
    >>> W1, W2 = factorize(W, 1)
    >>> W1.shape, W2.shape
    ((3, 1), (1, 2))
    >>> bool(np.allclose(W1 @ W2, W))
    True
    """
    one_of("split", split, get_args(Split))
    U, s, Vt = truncated_svd(W, rank, method, seed=seed)
    left, right = shares(s, (len(U), Vt.shape[1]), split)
    return U * left, right[:, np.newaxis] * Vt


def shares(s: FloatArray, shape: tuple[int, ...], split: str) -> tuple[FloatArray, FloatArray]:
    """Multipliers of the columns of U and the rows of Vt, so that W1·W2 = U·diag(s)·Vt.

    `shape` is the shape of W. Balanced factors would both be zero in a direction whose singular
    value is zero, and no gradient would ever change that. In such a direction W1 is zero, and the
    row of W2 is as large as its other rows, or of length 1 in a zero matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from svdfast.model.svd import shares
    >>> shares(np.array([4.0, 0.0]), (2, 3), "balanced")
    (array([2., 0.]), array([2., 2.]))
    """
    one = np.ones_like(s)
    if split == "left":
        return s, one
    if split == "right":
        return one, s
    zero = s <= s[0] * np.finfo(s.dtype).eps * math.sqrt(sum(shape))
    left = np.where(zero, 0, np.sqrt(s)).astype(s.dtype)
    return left, np.where(zero, math.sqrt(s[~zero].mean()) if not zero.all() else 1, left).astype(s.dtype)


@single_threaded_blas.held()
def leading_directions(
    W: FloatArray, rank: int, outputs: FloatArray | None = None, ridge: float = 0.0, method: Method = "exact"
) -> FloatArray:
    """Orthonormal directions of a layer's outputs, the most important first.

    W is truncated to rank l as P = U·Uᵀ·W. Without `outputs`, U are left singular vectors of W, and
    no P of rank l has a smaller ‖W − P‖_F. With the outputs Z = X·Wᵀ over a sample (in rows),
    truncation minimises their change, ‖X·(W − P)ᵀ‖_F ("activation-aware"): U are left singular
    vectors of B = [Zᵀ, √ε·W]. The ridge ε adds directions that the sample does not have.

    Parameters
    ----------
    W : ndarray (n, m)
    rank : int
        l.
    outputs : ndarray (n_samples, n), optional
        Z.
    ridge : float
        ε.
    method : {"exact", "randomized"}
        As in `truncated_svd`; with `outputs`, see the notes.

    Returns
    -------
    U : ndarray (n, rank)

    Raises
    ------
    numpy.linalg.LinAlgError
        Z is not finite, or no method to decompose B converged.

    Notes
    -----
    U are eigenvectors of B·Bᵀ = ZᵀZ + ε·W·Wᵀ (n×n), summed and decomposed in float64. It contains
    squares of singular values, so rounding disturbs directions whose singular value is below 1e-7
    of the largest.

    Subspace iteration is several times faster for few of many directions: more than 128 outputs,
    and a rank of at most a third of them. It is always used in float32, and in float64 with
    "randomized". It continues until all directions whose eigenvalues stand apart by a fifth are
    correct to 1e-4, for at most 30 steps. Directions without gaps between them are as good as
    others near them. For flat spectra, truncation to them loses up to 15 % more (of squares) than
    the best one over the sample, and about 7 % more over other samples.

    References
    ----------
    P. Chen, H.-F. Yu, I. Dhillon, C.-J. Hsieh, "DRONE: Data-aware low-rank compression for large NLP models", NeurIPS 2021.

    N. Halko, P. G. Martinsson, J. A. Tropp, "Finding structure with randomness", SIAM Review 53, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from svdfast.model.svd import leading_directions
    >>> W = np.diag([3.0, 2.0])
    >>> abs(leading_directions(W, 1)).round(2) + 0.0
    array([[1.],
           [0.]])
    >>> X = np.array([[1.0, 3.0]])
    >>> abs(leading_directions(W, 1, X @ W.T)).round(2) + 0.0
    array([[0.45],
           [0.89]])
    """
    if outputs is None:
        return truncated_svd(W, rank, method)[0]
    sample = Outputs(W, rank, len(outputs), method, by_inputs=False)
    sample.add(outputs)
    return sample.directions(ridge)


class Outputs:
    """A layer's outputs over a sample, added part by part.

    It keeps only what their leading directions need.

    Parameters
    ----------
    W : ndarray (n, m)
    rank : int
    n_samples : int
        Number of samples in all parts together.
    method : {"exact", "randomized"}
    by_inputs : bool
        If True, parts may be inputs X (n_samples, m) instead of outputs X·Wᵀ.

    Attributes
    ----------
    by_inputs : bool
        True if parts must be inputs.
    """

    def __init__(self, W: FloatArray, rank: int, n_samples: int, method: Method = "exact", *, by_inputs: bool = True):
        n, m = W.shape
        self.rank, self.method, self.dtype = rank, method, W.dtype
        # Scales W so that squares of its elements neither overflow nor vanish.
        self.shift = exponent(largest(W))
        self.W = np.ldexp(W, -self.shift) if self.shift else W
        self.iterates = n > _FEW_OUTPUTS and 3 * rank <= n and (W.dtype == np.float32 or method == "randomized")
        # True if products with X, W and their transposes cost less than forming the Gram matrix.
        self.by_inputs = by_inputs and self.iterates and n > _MANY_OUTPUTS and n_samples <= 2 * n
        self.whole = self.by_inputs or n > n_samples + m
        self.parts: list[FloatArray] = []
        self.gram: FloatArray | None = None

    def add(self, part: FloatArray) -> None:
        """Adds inputs if `by_inputs`, else outputs. The array must not change afterwards."""
        if not self.by_inputs:
            if not np.isfinite(largest(part)):
                raise scipy.linalg.LinAlgError(f"the norm of W over the inputs is too large for {self.dtype}")
            part = np.ldexp(part, -self.shift) if self.shift else part
        if self.whole:
            self.parts.append(part)
        else:
            here = gram(part, dtype=self.dtype if self.iterates else np.float64)
            self.gram = here if self.gram is None else self.gram + here

    def directions(self, ridge: float) -> FloatArray:
        """See `leading_directions`."""
        W, rng = self.W, np.random.default_rng(0)
        n, m = W.shape
        k = min(self.rank + _OVERSAMPLES, n)
        if self.whole:
            (part,) = self.parts if len(self.parts) == 1 else (np.concatenate(self.parts),)
            if not self.by_inputs:
                B = np.hstack([part.T, W * W.dtype.type(math.sqrt(ridge))])
                return truncated_svd(B, self.rank, self.method)[0]
            root = self.dtype.type(ridge)

            def apply(Q: FloatArray) -> FloatArray:
                T = product(W.T, Q)
                inner = product(part.T, product(part, T))
                inner += root * T
                return product(W, inner)

            # Outputs of some samples are as good a start as random combinations, and cheaper.
            sketch = self.dtype.type(math.sqrt(ridge)) * _random(rng, (m, k), self.dtype)
            n_some = min(k, len(part))
            sketch[:, :n_some] += part[np.arange(n_some) * len(part) // n_some].T
            return _subspace(apply, product(W, sketch), self.rank, 1, 12)
        assert self.gram is not None
        G = self.gram
        G += G.dtype.type(ridge) * gram(W.T, dtype=G.dtype)
        if self.iterates:
            return _subspace(lambda Q: product(G, Q), product(G, _random(rng, (n, k), self.dtype)), self.rank, 4, 30)
        return np.array(_eigen(G, self.rank)[1], self.dtype, order="C")


def _random(rng: np.random.Generator, shape: tuple[int, int], dtype: np.dtype[Any]) -> FloatArray:
    """Columns of mean 0 and equal variance, drawn several times faster than normal ones."""
    drawn: FloatArray = rng.random(shape, np.float32 if dtype == np.float32 else np.float64)
    drawn -= dtype.type(0.5)
    return drawn


def _subspace(
    apply: Callable[[FloatArray], FloatArray], Y: FloatArray, rank: int, least: int, most: int
) -> FloatArray:
    """Leading eigenvectors of a matrix M with eigenvalues ≥ 0, by subspace iteration from the columns of Y.

    `apply` gives M·Q. It is called at least `least` times, and then at most `most` times, until all
    directions whose eigenvalues stand apart are found.
    """
    k, n_steps, done = Y.shape[1], least, 0
    while True:
        Q = _orthonormal(Y)
        Y = apply(Q)
        done += 1
        if done < n_steps:
            continue
        H = gram(Q, Y)
        values, E = _eigen((H + H.T) / 2, k)
        # Each step reduces the remainder of later directions by the ratio of eigenvalues.
        gaps = -np.diff(values[: rank + 1], append=0) > _GAP * values[: rank + 1]
        apart = np.flatnonzero(gaps[:rank] & np.r_[True, gaps[: rank - 1]])
        ratio = values[(rank + k) // 2] / values[apart[-1]] if k > rank and len(apart) > 0 else 0.0
        if 0 < ratio < 1:
            n_steps = min(math.ceil(math.log(_ENOUGH) / math.log(ratio) - 0.5), most)
        if n_steps <= done:
            return np.ascontiguousarray(_orthonormal(product(Y, E[:, :rank].astype(Y.dtype))))


@single_threaded_blas.held()
def restricted_svd(W: FloatArray, U: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The singular value decomposition of U·Uᵀ·W, W (n, m) projected onto orthonormal directions U (n, l).

    Returns
    -------
    U, s, Vt : ndarray (n, l), (l,), (l, m)

    Raises
    ------
    numpy.linalg.LinAlgError
        Uᵀ·W is not finite, or no method to decompose it converged.

    Examples
    --------
    >>> import numpy as np
    >>> from svdfast.model.svd import restricted_svd
    >>> restricted_svd(np.diag([3.0, 2.0]), np.eye(2)[:, 1:])[1]
    array([2.])
    """
    projected = product(U.T, W)
    # LAPACK might never return.
    if not np.isfinite(largest(projected)):
        raise scipy.linalg.LinAlgError(f"the norm of W is too large for {W.dtype}")
    left, s, Vt = _wide_svd(projected) or _full_svd(projected)
    return product(U, left), s, Vt


def _wide_svd(A: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """The SVD of a float32 matrix by A·Aᵀ in float64; None if another method is better."""
    if A.dtype != np.float32 or A.size < _LARGE:
        return None
    squares, vectors = _eigen(gram(A.T), len(A))
    # Rows of Vt are orthogonal up to float32's rounding times the ratio of singular values.
    if not squares[-1] > 1e-6 * squares[0]:
        return None
    s = np.sqrt(squares).astype(A.dtype)
    left = np.ascontiguousarray(vectors, A.dtype)
    Vt = product(left.T, A)
    Vt /= s[:, np.newaxis]
    return left, s, Vt


def singular_values(W: FloatArray) -> FloatArray:
    """All singular values of a finite matrix, largest first.

    Raises
    ------
    numpy.linalg.LinAlgError
        No method to find them converged.

    Examples
    --------
    >>> import numpy as np
    >>> from svdfast.model.svd import singular_values
    >>> singular_values(np.array([[0.0, 2.0], [3.0, 0.0]]))
    array([3., 2.])
    """
    return _full_svd(W, vectors=False)[1]


def resolve_rank(rank_fraction: float, n_in: SupportsIndex, n_out: SupportsIndex) -> int:
    """Give the rank of a layer for a scale α: l = ⌊α·min(m, n)⌋, at least 1.

    See the paper, section 3.3.5, which uses α = 1/2, 1/4, 1/8.

    Parameters
    ----------
    rank_fraction : float
        α, above 0 and at most 1.
    n_in, n_out : int
        Inputs m and outputs n of the layer, each at least 1.

    Returns
    -------
    int
        The rank, from 1 to min(n_in, n_out).

    Raises
    ------
    TypeError
        `rank_fraction` is not a number, or `n_in` or `n_out` is not an integer.
    ValueError
        `rank_fraction` is outside (0, 1], or `n_in` or `n_out` is below 1.

    Examples
    --------
    >>> from svdfast.model.svd import resolve_rank
    >>> resolve_rank(0.25, 784, 512)
    128
    >>> resolve_rank(0.25, 2, 20)
    1
    """
    if isinstance(rank_fraction, bool) or not isinstance(rank_fraction, numbers.Real):
        raise TypeError(
            f"rank_fraction: expected a number, got {type(rank_fraction).__name__}"
        )
    if not 0.0 < rank_fraction <= 1.0:
        raise ValueError(
            f"rank_fraction: expected a number above 0 and at most 1, got {rank_fraction!r}"
        )
    smaller = min(count("n_in", n_in), count("n_out", n_out))
    # 0.29 · 100 is 28.999999999999996 in floating point, and means 29.
    return max(1, math.floor(rank_fraction * smaller + 1e-9))


def _as_matrix(W: npt.ArrayLike) -> FloatArray:
    """Check W and give it in the native dtype of the computation, if possible without a copy."""
    array = np.asarray(W)
    if array.dtype.kind in "iub":
        dtype: np.dtype[Any] = np.dtype(np.float64)
    elif array.dtype.newbyteorder("=") in (np.float32, np.float64):
        dtype = array.dtype.newbyteorder("=")
    else:
        raise TypeError(f"W: expected float32, float64, integer or boolean, got {array.dtype}")
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"W: expected a matrix with at least one entry, got shape {array.shape}")
    matrix: FloatArray = array.astype(dtype, copy=False)
    if not np.isfinite(matrix).all():
        raise ValueError("W: expected finite numbers, got NaN or infinity in it")
    return matrix


def _leading_svd(W: FloatArray, rank: int) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """The first `rank` triplets by the Gram matrix in float64.

    None if another method is better, or needed. On the loss of accuracy by squaring, see
    G. H. Golub, C. F. Van Loan, Matrix Computations, 4th edition, section 8.6.3.
    """
    smaller = min(W.shape)
    if W.dtype != np.float32 or smaller < 128 or rank > smaller // 2:
        return None
    A = W.astype(np.float64)
    if W.shape[0] > W.shape[1]:
        A = A.T
    # Eigenvalues come smallest first.
    try:
        squares, U = scipy.linalg.eigh(
            A @ A.T, subset_by_index=[smaller - rank, smaller - 1], check_finite=False,
            overwrite_a=True,
        )  # fmt: skip
    except scipy.linalg.LinAlgError:
        logger.warning("eigh did not converge on the Gram matrix of a matrix of shape %s: its SVD is taken instead", W.shape)
        return None
    squares, U = squares[::-1], U[:, ::-1]
    # Rounding disturbs G by about n·ε₆₄·σ₁². That must not show in float32 in uᵢᵀ·G·uⱼ/(σᵢ·σⱼ).
    enough = smaller * np.finfo(np.float64).eps / np.finfo(np.float32).eps
    if not squares[-1] > enough * squares[0]:
        return None
    s = np.sqrt(squares)
    Vt = (U.T @ A) / s[:, np.newaxis]
    with np.errstate(over="ignore"):  # a norm beyond float32 is infinite, as LAPACK has it
        U, s, Vt = (part.astype(np.float32) for part in (U, s, Vt))
    return (U, s, Vt) if W.shape[0] <= W.shape[1] else (Vt.T, s, U.T)


def _eigen(G: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    """The n largest eigenvalues, largest first, and their vectors.

    G is symmetric and has no negative eigenvalues.
    """
    try:
        subset = None if n == len(G) else [len(G) - n, len(G) - 1]
        values, vectors = scipy.linalg.eigh(G, subset_by_index=subset, check_finite=False)
    except scipy.linalg.LinAlgError:
        logger.warning("eigh did not converge on a Gram matrix of shape %s: its SVD is taken instead", G.shape)
        vectors, values, _ = _full_svd(G, n)
        return values[:n], vectors[:, :n]
    return values[::-1], vectors[:, ::-1]  # they come smallest first


def _full_svd(
    W: FloatArray, rank: int | None = None, *, vectors: bool = True
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The whole SVD of a finite matrix. If LAPACK does not converge, at least `rank` triplets."""
    found = _lapack_svd(W, vectors)
    if found is None:
        logger.warning("no SVD of LAPACK converged on a matrix of shape %s: the randomized one is taken instead", W.shape)
        n_vectors = min(W.shape) if rank is None else rank + 10
        found = _randomized_svd(W, n_vectors, 4, np.random.default_rng(0))
    return found


def _lapack_svd(W: FloatArray, vectors: bool = True) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """The whole SVD of a finite matrix; None if nothing converges.

    The vectors are empty unless `vectors`.
    """
    # gesdd, divide and conquer, is several times faster. It sometimes fails to converge on a matrix
    # that gesvd, the plain QR iteration, still decomposes.
    for driver in ("gesdd", "gesvd"):
        try:
            found = scipy.linalg.svd(
                W, full_matrices=False, compute_uv=vectors, check_finite=False, lapack_driver=driver
            )
        except scipy.linalg.LinAlgError:
            logger.warning("%s did not converge on a matrix of shape %s", driver, W.shape)
        else:
            return found if vectors else (W[:, :0], found, W[:0])
    return None


def _randomized_svd(
    W: FloatArray, n_vectors: int, n_iterations: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    n, m = W.shape
    k = min(n_vectors, n, m)
    # LAPACK protects itself against overflow; the plain products here would not.
    scale = max(W.max(), -W.min())
    if scale > 0:
        W = W / scale
    sketch = rng.standard_normal((m, k), dtype=np.float64).astype(W.dtype)  # the same for both
    Q = _orthonormal(W @ sketch)  # (n×k) = (n×m)(m×k)
    for _ in range(n_iterations):
        # Without the QR in between, every column would turn to the first singular vector.
        Q = _orthonormal(W.T @ Q)  # (m×k) = (n×m)ᵀ(n×k)
        Q = _orthonormal(W @ Q)  # (n×k) = (n×m)(m×k)
    found = _lapack_svd(Q.T @ W)  # (k×m) = (n×k)ᵀ(n×m)
    if found is None:
        raise scipy.linalg.LinAlgError(f"no SVD of a matrix of shape {W.shape} converged: gesdd, gesvd, randomized")
    U, s, Vt = found
    return Q @ U, s * scale, Vt  # (n×k) = (n×k)(k×k)


def _orthonormal(A: FloatArray) -> FloatArray:
    """Orthonormal columns. The first j span the same space as the first j of A, for each j."""
    Q: FloatArray
    if A.dtype == np.float32 and A.size >= _LARGE:
        # A = Q·R with RᵀR = AᵀA. Squaring loses nothing in float64, and products are several times
        # faster than reflections.
        G = gram(A)
        norms = np.sqrt(np.diag(G))
        try:
            R = scipy.linalg.cholesky(G / np.outer(norms, norms), check_finite=False) if norms.min() > 0 else None
        except scipy.linalg.LinAlgError:
            R = None
        if R is not None and np.diag(R).min() > 1e-4:
            inverse, _ = scipy.linalg.lapack.dtrtri(R)
            Q = product(A, (inverse / norms[:, np.newaxis]).astype(A.dtype))
            return Q
    Q, _ = scipy.linalg.qr(A, mode="economic", overwrite_a=True, check_finite=False)
    return Q


def exponent(size: float) -> int:
    """The exponent e of a largest absolute value `size` = f·2ᵉ.

    It is 0 if squares are far from the limits of float32, or if `size` is 0.
    """
    e = math.frexp(size)[1]
    return 0 if abs(e) < 24 else e
