# SPDX-License-Identifier: BSD-3-Clause
"""Decay of the product of two factors: a penalty on ‖W1·W2‖_F², not on the factors' own norms.

Not here: L1 and L2 (arguments of `train`) and AdamW's decay (optimizers.py), which are for parameters as they lie, one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from svdfast.model.counting import count_multiplications
from svdfast.model.network import Network

__all__ = ["decay_product", "interval"]

# A decay may cost this share of the multiplications of the steps between two; and so many steps are between two at most.
SHARE = 0.02
LONGEST = 100


def decay_product(W1: NDArray[Any], W2: NDArray[Any], amount: float) -> None:
    """A step against (λ/2)·‖W1·W2‖_F², in place.

    The gradients are λ·W1·(W2·W2ᵀ) and λ·(W1ᵀ·W1)·W2: Gram matrices (l×l) instead of the product (n×m). The step is implicit in each
    factor, so that no amount overshoots:

        W1 ← W1·(I + c·W2·W2ᵀ)⁻¹      W2 ← (I + c·W1ᵀ·W1)⁻¹·W2      c = η·λ, both from the former W1 and W2

    A singular value σ of balanced factors falls by about 2·c·σ², where L2 on the factors takes c·σ from it: large ones fall more, small
    ones are left.

    Parameters
    ----------
    W1 : ndarray (n, l)
    W2 : ndarray (l, m)
        Of the same dtype; changed.
    amount : float
        c ≥ 0.

    Raises
    ------
    FloatingPointError
        The Gram matrices are not finite; nothing was changed.

    References
    ----------
    M. Khodak, N. Tenenholtz, L. Mackey, N. Fusi, "Initialization and regularization of factorized neural layers", ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from svdfast.training.decay import decay_product
    >>> W1, W2 = np.array([[2.0]]), np.array([[2.0]])
    >>> decay_product(W1, W2, 0.25)
    >>> W1, W2
    (array([[1.]]), array([[1.]]))
    """
    with np.errstate(over="ignore", invalid="ignore"):
        right, left = amount * (W2 @ W2.T), amount * (W1.T @ W1)
    if not (np.isfinite(right).all() and np.isfinite(left).all()):
        raise FloatingPointError(f"the factors are too large for their product to decay in {W1.dtype}")
    for gram in (right, left):
        gram[np.diag_indices_from(gram)] += 1
    W1[...] = scipy.linalg.solve(right, W1.T, assume_a="pos", check_finite=False).T
    W2[...] = scipy.linalg.solve(left, W2, assume_a="pos", check_finite=False)


def interval(net: Network, batch_size: int) -> int:
    """Steps between two decays of a factored network, so that they cost next to nothing."""
    cost = 0
    for layer in net.layers:
        if layer.rank is not None:
            # Two Gram matrices, and a solution for each with all rows or columns of the other factor, and its own factorisation.
            cost += 2 * layer.rank**2 * (layer.n_in + layer.n_out) + layer.rank**3
    step = count_multiplications(net).total * batch_size
    return max(1, min(LONGEST, round(cost / (SHARE * step))))
