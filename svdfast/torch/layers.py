# SPDX-License-Identifier: BSD-3-Clause
"""Layers of PyTorch with their weights as two factors.

Not here: how a layer is cut (cut.py); the modules that networks of svdfast need in PyTorch (modules.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor, nn

__all__ = ["FactoredLinear", "Part"]


class FactoredLinear(nn.Module):
    """A Linear layer with its weight as two factors: y = x·W2ᵀ·W1ᵀ + b.

    Parameters
    ----------
    W1 : torch.nn.Parameter (n_out, rank)
    W2 : torch.nn.Parameter (rank, n_in)
    bias : torch.nn.Parameter (n_out,), optional
        All three are taken as they are, not copied. In a ``state_dict`` they are "W1", "W2" and "bias".

    Raises
    ------
    TypeError, ValueError
        Something is not a parameter; the shapes do not fit each other.

    Examples
    --------
    >>> import torch
    >>> from svdfast.torch import FactoredLinear
    >>> W1, W2 = torch.nn.Parameter(torch.rand(512, 64)), torch.nn.Parameter(torch.rand(64, 784))
    >>> layer = FactoredLinear(W1, W2)
    >>> layer
    FactoredLinear(in_features=784, out_features=512, rank=64, bias=False)
    >>> layer(torch.rand(10, 784)).shape
    torch.Size([10, 512])
    """

    if TYPE_CHECKING:  # TorchScript would not understand it
        bias: nn.Parameter | None

    def __init__(self, W1: nn.Parameter, W2: nn.Parameter, bias: nn.Parameter | None = None):
        super().__init__()
        for name, tensor in {"W1": W1, "W2": W2, "bias": bias}.items():
            if not isinstance(tensor, nn.Parameter) and not (name == "bias" and tensor is None):
                raise TypeError(f"{name}: expected a torch.nn.Parameter, got {type(tensor).__name__}")
        if W1.ndim != 2 or W2.ndim != 2 or W1.shape[1] != W2.shape[0] or 0 in (*W1.shape, *W2.shape):
            raise ValueError(
                f"W1, W2: expected shapes (n_out, rank) and (rank, n_in), got {tuple(W1.shape)} and {tuple(W2.shape)}"
            )
        if bias is not None and bias.shape != W1.shape[:1]:
            raise ValueError(f"bias: expected shape ({len(W1)},), got {tuple(bias.shape)}")
        self.W1 = W1
        self.W2 = W2
        self.register_parameter("bias", bias)

    @property
    def in_features(self) -> int:
        return self.W2.shape[1]

    @property
    def out_features(self) -> int:
        return self.W1.shape[0]

    @property
    def rank(self) -> int:
        return self.W1.shape[1]

    @property
    def weight(self) -> Tensor:
        """W1·W2, for what reads a Linear's weight itself; formed anew each time, and no parameter."""
        return self.W1 @ self.W2

    def forward(self, x: Tensor) -> Tensor:
        """x (..., n_in) to (..., n_out)."""
        return nn.functional.linear(nn.functional.linear(x, self.W2), self.W1, self.bias)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"bias={self.bias is not None}"
        )


Part: TypeAlias = nn.Linear | FactoredLinear
