# SPDX-License-Identifier: BSD-3-Clause
"""The factor between scikit-learn's losses and the library's (model/losses.py)."""

from __future__ import annotations

from svdfast.model.heads import CLASSES, NUMBERS, head_of
from svdfast.model.network import Network

__all__ = ["loss_scale"]


def loss_scale(net: Network) -> float:
    """c: the library's loss is c times scikit-learn's, which halves squares and sums over outputs."""
    head, n_out = head_of(net.layers[-1].activation), net.sizes[-1]
    if head is CLASSES:
        return 1.0
    return (2 if head is NUMBERS else 1) / n_out
