# SPDX-License-Identifier: BSD-3-Clause
"""A weight as the product of two factors, W ≈ W1·W2, by truncated SVD (the paper, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg

from svdfast._process.checks import count
from svdfast.model.products import product, sum_of_squares
from svdfast.model.program import Program, Tensor
from svdfast.model.structures.structure import Array, Fit, Moment, Structure
from svdfast.model.svd import leading_directions, restricted_svd, shares, singular_values

__all__ = ["LowRank"]


@dataclass(frozen=True)
class LowRank(Structure):
    """W1 (n_out, rank) and W2 (rank, n_in).

    Examples
    --------
    >>> import numpy as np
    >>> from svdfast.model.structures import LowRank
    >>> structure = LowRank(2, 2, 1)
    >>> W1, W2 = structure.fit(np.diag([4.0, 1.0])).tensors
    >>> abs(structure.matrix([W1, W2]))
    array([[4., 0.],
           [0., 0.]])
    """

    def __post_init__(self) -> None:
        count("rank", self.rank)

    @property
    def _l(self) -> int:
        assert self.rank is not None
        return self.rank

    def tensors(self) -> tuple[tuple[str, tuple[int, int]], ...]:
        return (("W1", (self.n_out, self._l)), ("W2", (self._l, self.n_in)))

    def emit(self, program: Program, x: int, tensors: Sequence[Tensor]) -> int:
        W1, W2 = tensors
        return program.product(program.product(x, W2), W1)

    def matrix(self, t: Sequence[Array]) -> Array:
        W1, W2 = t
        return W1 @ W2

    def fit(
        self, W: Array, *, directions: Array | None = None, svd: Literal["exact", "randomized"] = "exact",
        split: str = "balanced",
    ) -> Fit:  # fmt: skip
        U = leading_directions(W, self._l, method=svd) if directions is None else directions[:, : self._l]
        U, s, Vt = restricted_svd(W, U)
        if not np.isfinite(s[0]):
            raise np.linalg.LinAlgError(f"the weight's norm is too large for {W.dtype}")
        left, right = shares(s, W.shape, split)
        W1, W2 = U * left, right[:, np.newaxis] * Vt
        return Fit((W1, W2), s, _distance(W, U, s, Vt))

    def pullback(self, M: Array, t: Sequence[Array]) -> tuple[Array, ...]:
        # With W = W1·W2, a gradient M of W gives the gradients M·W2ᵀ of W1 and W1ᵀ·M of W2.
        W1, W2 = t
        return M @ W2.T, W1.T @ M

    def lift(self, kind: Moment, moments: Sequence[Array], t: Sequence[Array]) -> Array:
        """M is the matrix of least norm that has the given moments.

        The moments determine only sums of V over rows and columns. V is the product of these sums,
        as in N. Shazeer and M. Stern, "Adafactor", ICML 2018.
        """
        (M1, M2), (W1, W2) = moments, t
        if kind == "square":
            # Means of V over each row and each column, from  Σⱼ V1 = V·(W2∘W2)ᵀ·1  with  (W2∘W2)ᵀ·1 ≈ ‖W2‖²/m.
            norm1, norm2 = float((W1 * W1).sum()), float((W2 * W2).sum())
            rows = M1.sum(axis=1) / norm2 if norm2 > 0 else np.zeros(len(M1), M1.dtype)
            columns = M2.sum(axis=0) / norm1 if norm1 > 0 else np.zeros(M2.shape[1], M2.dtype)
            whole = np.sqrt(rows.mean() * columns.mean())
            product: Array = np.outer(rows, columns / whole if whole > 0 else columns)
            return product
        # P·M = W1·(W1ᵀW1)⁻¹·M2 and M·Q = M1·(W2W2ᵀ)⁻¹·W2, with projections P and Q onto the
        # factors' ranges. P·M + (M - P·M)·Q has the least norm.
        PM = W1 @ _solve(W1.T @ W1, M2)
        M: Array = PM + _solve(W2 @ W2.T, (M1 - PM @ W2.T).T).T @ W2
        return M

    def decay(self, t: Sequence[Array], amount: float) -> None:
        """A step of weight decay on the product, in place.

        The gradients are λ·W1·(W2·W2ᵀ) and λ·(W1ᵀ·W1)·W2: Gram matrices (l×l) replace the product
        (n×m). The step is implicit in each factor, so that no amount overshoots. Both factors use
        the former W1 and W2:

            W1 ← W1·(I + c·W2·W2ᵀ)⁻¹      W2 ← (I + c·W1ᵀ·W1)⁻¹·W2      c = η·λ

        A singular value σ of balanced factors falls by about 2·c·σ². With L2 on the factors it
        would fall by about 2·c·σ. So large values fall more, and small ones almost stay.

        Raises
        ------
        FloatingPointError
            The Gram matrices are not finite; nothing was changed.
        """
        W1, W2 = t
        with np.errstate(over="ignore", invalid="ignore"):
            right, left = amount * (W2 @ W2.T), amount * (W1.T @ W1)
        if not (np.isfinite(right).all() and np.isfinite(left).all()):
            raise FloatingPointError(f"the factors are too large for their product to decay in {W1.dtype}")
        for gram in (right, left):
            gram[np.diag_indices_from(gram)] += 1
        W1[...] = scipy.linalg.solve(right, W1.T, assume_a="pos", check_finite=False).T
        W2[...] = scipy.linalg.solve(left, W2, assume_a="pos", check_finite=False)

    @property
    def decay_multiplications(self) -> int:
        # Two Gram matrices, each with its factorisation and a solution for all rows or columns of
        # the other factor.
        return 2 * self._l**2 * (self.n_in + self.n_out) + self._l**3

    def relative_scale(self, t: Sequence[Array]) -> float:
        W1, W2 = (tensor.astype(np.float64) for tensor in t)
        squares = float(np.sqrt((W1 * W1).mean() * (W2 * W2).mean()))
        # ‖W1·W2‖² is the sum of (W1ᵀ·W1)∘(W2·W2ᵀ).
        product = float(((W1.T @ W1) * (W2 @ W2.T)).sum()) / (self.n_out * self.n_in)
        return float(np.sqrt(squares / product)) if product > 0 else 1.0

    def singular_values(self, t: Sequence[Array]) -> Array:
        # W1·W2 = Q1·(R1·R2ᵀ)·Q2ᵀ has the singular values of R1·R2ᵀ. The product itself would have
        # further ones, from rounding only.
        R1, R2 = (scipy.linalg.qr(factor.astype(np.float64), mode="economic")[1] for factor in (t[0], t[1].T))
        with np.errstate(over="ignore", invalid="ignore"):
            W = R1 @ R2.T
        if not np.isfinite(W).all():
            raise np.linalg.LinAlgError("the product of the factors is not finite")
        return singular_values(W)


def _distance(W: Array, U: Array, s: Array, Vt: Array) -> float:
    """‖W − U·diag(s)·Vt‖_F, where U·Uᵀ·W = U·diag(s)·Vt."""
    # Scaled, so that no square overflows.
    scale = s[0] if s[0] > 0 else s.dtype.type(1)

    whole = sum_of_squares(W / scale)
    rest = whole - float(np.square(s / scale, dtype=np.float64).sum())
    if not rest > 0.1 * whole:  # the difference has too few digits
        rest = sum_of_squares(W / scale - product(U * (s / scale), Vt))
    return float(scale) * math.sqrt(rest)


def _solve(gram: Array, right: Array) -> Array:
    """Solves with a Gram matrix, which may be nearly singular.

    A small ridge keeps the solution small in directions that hardly count.
    """
    G = gram.astype(np.float64)
    G[np.diag_indices_from(G)] += 1e-6 * max(np.trace(G) / len(G), np.finfo(np.float32).tiny)
    return np.linalg.solve(G, right).astype(gram.dtype)
