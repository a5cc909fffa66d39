# SPDX-License-Identifier: BSD-3-Clause
"""The product of two factors, in a precision that does not depend on the caller's training.

Elsewhere: how the factors are found (truncate.py).
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

__all__ = ["computed_in", "product", "without_autocast"]


def product(W1: Tensor, W2: Tensor) -> Tensor:
    """W1·W2, in at least float32."""
    dtype = computed_in(W1.dtype)
    with without_autocast(W1.device):
        return W1.to(dtype) @ W2.to(dtype)


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """The type in which weights of this type are decomposed and multiplied."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """A context without autocast, which would round a product's operands."""
    if device.type == "meta":
        return contextlib.nullcontext()
    off: contextlib.AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
    return off
