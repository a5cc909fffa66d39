# SPDX-License-Identifier: BSD-3-Clause
"""The cut of one layer's weight, where it lies: W ≈ W1·W2, and ranks by singular values.

Not here: which layers are cut (factorize.py).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from svdfast.model import ranks as rules
from svdfast.model.svd import shares, singular_values, truncated_svd
from svdfast.torch.layers import FactoredLinear, Part
from svdfast.torch.places import is_trained, tensors

__all__ = ["check_weight", "cut", "product", "ranks_by_rule"]

logger = logging.getLogger("svdfast")

_NotConverged: type[Exception] = vars(torch.linalg)["LinAlgError"]  # torch's types leave it out


def check_weight(part: Part, name: str) -> None:
    """Refuses a weight that can't be decomposed."""
    if next(part.parameters()).device.type == "meta":
        raise ValueError(f"module: {name!r}: expected a weight with numbers, got one on the device meta")
    if not bool(torch.isfinite(_weight(part)).all()):
        raise ValueError(f"module: {name!r}: expected a finite weight, got NaN or infinity in it")


def _weight(part: Part) -> Tensor:
    """W (n_out, n_in), in at least float32."""
    if isinstance(part, FactoredLinear):
        return product(part.W1, part.W2)
    return part.weight.to(_computed_in(part.weight.dtype))


def product(W1: Tensor, W2: Tensor) -> Tensor:
    """W1·W2, in at least float32."""
    dtype = _computed_in(W1.dtype)
    with _without_autocast(W1.device):
        return W1.to(dtype) @ W2.to(dtype)


def _computed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _without_autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Autocast, where the caller has it on, would round a product's operands."""
    if device.type == "meta":
        return contextlib.nullcontext()
    off: contextlib.AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
    return off


def ranks_by_rule(ranks: str, parts: Collection[Part]) -> list[int]:
    """The rank of each layer by "energy:E" or "budget:B"."""
    if not parts:
        return []
    rule = rules.named_rule(ranks)
    squares = [np.square(_singular_values(_weight(part)), dtype=np.float64) for part in parts]
    # A rank costs m + n for a product with W's m·n, forward and backward alike.
    costs = [part.in_features + part.out_features for part in parts]
    whole = sum(part.in_features * part.out_features for part in parts)
    return rule.of_squares(squares, costs, whole)


def cut(part: Part, name: str, rank: int, method: str) -> tuple[FactoredLinear, float]:
    """The factored layer and ‖W − W1·W2‖_F."""
    W = _weight(part)
    try:
        U, s, Vh = _svd(W) if method == "exact" else _randomized_svd(W, rank)
    except np.linalg.LinAlgError as error:
        raise np.linalg.LinAlgError(f"module: {name!r}: {error}") from error
    if not bool(torch.isfinite(s).all()):
        raise ValueError(f"module: {name!r}: its norm is too large for {W.dtype}")
    left, right = (torch.from_numpy(side).to(W.device) for side in shares(s[:rank].numpy(force=True), W.shape, "balanced"))
    dtype = tensors(part)[0].dtype
    W1 = (U[:, :rank] * left).to(dtype).contiguous()
    W2 = (right[:, None] * Vh[:rank]).to(dtype).contiguous()
    # Scaled, so that no square overflows.
    scale = float(W.abs().max()) or 1.0
    dropped = scale * float(torch.linalg.norm((W - product(W1, W2)) / scale))
    trained = is_trained(part)
    made = FactoredLinear(nn.Parameter(W1, trained), nn.Parameter(W2, trained), part.bias)
    return made.train(part.training), dropped


def _svd(W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The whole SVD; where torch's does not converge, by the ways of `svdfast.svd`."""
    try:
        U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    except _NotConverged:
        logger.warning("torch.linalg.svd did not converge on a matrix of shape %s: SciPy's is taken instead", tuple(W.shape))
        found = truncated_svd(W.numpy(force=True), min(W.shape))
        U, s, Vh = (torch.from_numpy(part).to(W.device) for part in found)
    return U, s, Vh


def _singular_values(W: Tensor) -> NDArray[Any]:
    """All, largest first; falling back as `_svd` does."""
    try:
        values: NDArray[Any] = torch.linalg.svdvals(W).numpy(force=True)
    except _NotConverged:
        logger.warning("torch.linalg.svdvals did not converge on a matrix of shape %s: SciPy's is taken instead", tuple(W.shape))
        values = singular_values(W.numpy(force=True))
    return values


def _randomized_svd(W: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `svdfast.svd` has it: 10 vectors more than the rank, 4 power iterations; torch's own generator is left alone."""
    n, m = W.shape
    k = min(rank + 10, n, m)
    scale = float(W.abs().max()) or 1.0
    W = W / scale
    generator = torch.Generator(W.device).manual_seed(0)
    sketch = torch.randn(m, k, generator=generator, dtype=W.dtype, device=W.device)
    with _without_autocast(W.device):
        Q, _ = torch.linalg.qr(W @ sketch)
        for _ in range(4):
            # Without the QR in between, every column would turn to the first singular vector.
            Q, _ = torch.linalg.qr(W.T @ Q)
            Q, _ = torch.linalg.qr(W @ Q)
        U, s, Vh = _svd(Q.T @ W)
        return Q @ U, s * scale, Vh
