# SPDX-License-Identifier: BSD-3-Clause
"""The truncation of one layer's weight, on its device: W ≈ W1·W2, and ranks by singular values.

Elsewhere: which layers are truncated (factorize.py).
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from svdfast.model import ranks as rules
from svdfast.model.svd import RIDGE, shares, singular_values, truncated_svd
from svdfast.torch.kinds import kind_of
from svdfast.torch.layers import Factored
from svdfast.torch.places import sides, tensors
from svdfast.torch.products import computed_in, product, without_autocast

__all__ = ["Decomposed", "check_weight", "factors", "product", "ranks_by_rule", "truncate", "weight_matrix"]

logger = logging.getLogger("svdfast")

# Below this size the whole SVD takes no longer.
_FEW = 128

_NotConverged: type[Exception] = getattr(torch.linalg, "LinAlgError", RuntimeError)  # torch's types leave it out


def check_weight(part: nn.Module, name: str) -> None:
    """Refuses a weight that can't be decomposed."""
    if any(tensor.device.type == "meta" for tensor in tensors(part)):
        raise ValueError(f"module: {name!r}: expected a weight with numbers, got one on the device meta")
    if not bool(torch.isfinite(weight_matrix(part)).all()):
        raise ValueError(f"module: {name!r}: expected a finite weight, got NaN or infinity in it")


def weight_matrix(part: nn.Module) -> Tensor:
    """W (n_out, n_in), in at least float32."""
    if isinstance(part, Factored):
        return product(*part.matrices())
    kind = kind_of(part)
    assert kind is not None
    W = kind.matrix(part, [weight.detach() for weight in kind.weights(part)])
    return W.to(computed_in(W.dtype))


def ranks_by_rule(ranks: str, parts: Collection[nn.Module], rows: Mapping[nn.Module, int] | None = None) -> list[int]:
    """The rank of each layer by "energy:E" or "budget:B".

    `rows` is how often a layer's weight is multiplied with a vector: once for each token or
    position. Without it, each layer counts once.
    """
    if not parts:
        return []
    rule = rules.named_rule(ranks)
    squares = [np.square(_singular_values(weight_matrix(part)), dtype=np.float64) for part in parts]
    # One rank costs m + n multiplications where W costs m·n, forward and backward alike.
    times = [max(1, (rows or {}).get(part, 1)) for part in parts]
    costs = [n * sum(sides(part)) for n, part in zip(times, parts, strict=True)]
    whole = sum(n * math.prod(sides(part)) for n, part in zip(times, parts, strict=True))
    return rule.of_squares(squares, costs, whole)


def truncate(part: nn.Module, name: str, rank: int, method: str, gram: Tensor | None = None) -> tuple[Factored, float]:
    """The factored layer and ‖W − W1·W2‖_F.

    With the Gram matrix of its inputs, the truncation preserves the outputs.
    """
    return Decomposed(part, name, rank, method, gram).truncate(rank)


class Decomposed:
    """A layer's weight, decomposed once for all ranks up to one.

    Parameters
    ----------
    part : torch.nn.Module
        The layer.
    name : str
        For errors.
    rank : int
        The largest rank.
    method : {"exact", "randomized"}
    gram : Tensor, optional
        Gram matrix of its inputs.
    """

    @torch.no_grad()
    def __init__(self, part: nn.Module, name: str, rank: int, method: str, gram: Tensor | None = None):
        self.part, self.name = part, name
        self.W = weight_matrix(part)
        with self._named():
            self._sides = _decomposed(self.W, rank, method, gram)

    @torch.no_grad()
    def truncate(self, rank: int) -> tuple[Factored, float]:
        """The factored layer of this rank and ‖W − W1·W2‖_F. With rank 0, its factors are zeros of rank 1."""
        part, W = self.part, self.W
        if rank:
            with self._named():
                W1, W2 = self._sides(rank)
        else:
            W1, W2 = W.new_zeros(len(W), 1), W.new_zeros(1, W.shape[1])
        dtype = tensors(part)[0].dtype
        W1, W2 = W1.to(dtype), W2.to(dtype)
        # Scaled, so that no square overflows.
        scale = float(W.abs().max()) or 1.0
        dropped = scale * float(torch.linalg.norm((W - product(W1, W2)) / scale))
        kind = kind_of(part)
        assert kind is not None
        return kind.factored(part.dense() if isinstance(part, Factored) else part, W1, W2), dropped

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except np.linalg.LinAlgError as error:
            raise np.linalg.LinAlgError(f"module: {self.name!r}: {error}") from error
        except ValueError as error:
            raise ValueError(f"module: {self.name!r}: {error}") from error


@torch.no_grad()
def factors(W: Tensor, rank: int, method: str, gram: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """W1 (n, rank) and W2 (rank, m), in W's type. Both share the singular values.

    Without `gram`, W1·W2 is the best approximation of W. With C, the Gram matrix of the inputs, it
    is the best one in the norm of the outputs, ‖(W − W1·W2)·C^½‖_F.
    """
    return _decomposed(W, rank, method, gram)(rank)


def _decomposed(W: Tensor, most: int, method: str, gram: Tensor | None) -> Callable[[int], tuple[Tensor, Tensor]]:
    """W1 and W2 by rank, up to `most`."""
    if gram is None:
        whole = _leading_svd(W, most, method)

        def triplets(rank: int) -> tuple[Tensor, Tensor, Tensor]:
            return whole
    else:
        scale = float(W.abs().max()) or 1.0
        directions = _output_directions(W / scale, most, method, gram)

        def triplets(rank: int) -> tuple[Tensor, Tensor, Tensor]:
            # The SVD of U·UᵀW, the best W1·W2 for these inputs.
            U = directions[:, :rank]
            with without_autocast(W.device):
                inner, s, Vh = _leading_svd(U.T @ (W / scale), rank, "exact")
                return U @ inner, s * scale, Vh

    def sides_of(rank: int) -> tuple[Tensor, Tensor]:
        U, s, Vh = triplets(rank)
        if not bool(torch.isfinite(s).all()):
            raise ValueError(f"its norm is too large for {W.dtype}")
        left, right = (torch.from_numpy(side).to(W.device) for side in shares(s[:rank].numpy(force=True), W.shape, "balanced"))
        return (U[:, :rank] * left).contiguous(), (right[:, None] * Vh[:rank]).contiguous()

    return sides_of


def _output_directions(W: Tensor, rank: int, method: str, gram: Tensor) -> Tensor:
    """The leading directions U of the outputs W·C^½.

    A share of the identity is added to C, as elsewhere in `svdfast`. So C has a Cholesky factor for
    any sample, and directions that the sample lacks count a little.
    """
    m = W.shape[1]
    C = gram.to(W.dtype)
    size = float(C.diagonal().mean())
    C = C / size if size > 0 and math.isfinite(size) else torch.eye(m, dtype=W.dtype, device=W.device)
    C = C + RIDGE * torch.eye(m, dtype=W.dtype, device=W.device)
    with without_autocast(W.device):
        root, failed = torch.linalg.cholesky_ex(C)
        if int(failed):  # rounding made it indefinite
            values, vectors = torch.linalg.eigh(C)
            root = vectors * values.clamp(min=RIDGE / 2).sqrt()
        return _leading_svd(W @ root, rank, method)[0][:, :rank]


def _leading_svd(W: Tensor, rank: int, method: str) -> tuple[Tensor, Tensor, Tensor]:
    """At least the first `rank` triplets."""
    if method != "exact":
        return _randomized_svd(W, rank)
    return _svd_by_gram(W, rank) or _svd(W)


def _svd_by_gram(W: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """The first triplets of a float32 matrix by the Gram matrix of its smaller side, in float64.

    It does as `svdfast.svd` does, and returns None if another way is better or needed.
    """
    smaller = min(W.shape)
    few = rank <= smaller // 2 or (rank == smaller and 4 * smaller <= max(W.shape))
    if W.dtype != torch.float32 or smaller < _FEW or not few or W.device.type == "mps":
        return None
    scale = float(W.abs().max()) or 1.0
    if not math.isfinite(scale):
        return None
    A = (W if W.shape[0] <= W.shape[1] else W.T).double() / scale
    with without_autocast(W.device):
        try:
            squares, U = torch.linalg.eigh(A @ A.T)
        except _NotConverged:
            return None
        squares, U = squares[-rank:].flip(0), U[:, -rank:].flip(1)
        # The accuracy that squaring costs must not show in float32.
        enough = smaller * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        if not bool(squares[-1] > enough * squares[0]):
            return None
        s = squares.sqrt()
        Vh = (U.T @ A) / s[:, None]
    U, s, Vh = U.float(), (s * scale).float(), Vh.float()
    return (U, s, Vh) if W.shape[0] <= W.shape[1] else (Vh.T, s, U.T)


def _svd(W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The whole SVD. If torch's does not converge, `svdfast.truncated_svd` computes it."""
    try:
        U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    except _NotConverged:
        logger.warning("torch.linalg.svd did not converge on a matrix of shape %s: SciPy's is taken instead", tuple(W.shape))
        found = truncated_svd(W.numpy(force=True), min(W.shape))
        U, s, Vh = (torch.from_numpy(part).to(W.device) for part in found)
    return U, s, Vh


def _singular_values(W: Tensor) -> NDArray[Any]:
    """All singular values, largest first, with the same fallback as `_svd`."""
    try:
        values: NDArray[Any] = torch.linalg.svdvals(W).numpy(force=True)
    except _NotConverged:
        logger.warning("torch.linalg.svdvals did not converge on a matrix of shape %s: SciPy's is taken instead", tuple(W.shape))
        values = singular_values(W.numpy(force=True))
    return values


def _randomized_svd(W: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The randomized SVD of `svdfast.svd`: 10 vectors beyond the rank, 4 power iterations.

    It has its own generator and leaves torch's alone.
    """
    n, m = W.shape
    k = min(rank + 10, n, m)
    scale = float(W.abs().max()) or 1.0
    W = W / scale
    generator = torch.Generator(W.device).manual_seed(0)
    sketch = torch.randn(m, k, generator=generator, dtype=W.dtype, device=W.device)
    with without_autocast(W.device):
        Q, _ = torch.linalg.qr(W @ sketch)
        for _ in range(4):
            # Without the QR in between, every column would turn to the first singular vector.
            Q, _ = torch.linalg.qr(W.T @ Q)
            Q, _ = torch.linalg.qr(W @ Q)
        U, s, Vh = _svd(Q.T @ W)
        return Q @ U, s * scale, Vh
