# SPDX-License-Identifier: BSD-3-Clause
"""The layers that users write networks with. They are defined in svdfast/model/describe.py."""

from typing import TYPE_CHECKING

from svdfast.model.describe import (
    GRU,
    LSTM,
    RNN,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Dropout,
    Embedding,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    Linear,
    Masking,
    MaxPool2d,
)

__all__ = [
    "GRU", "LSTM", "RNN", "AvgPool2d", "Conv1d", "Conv2d", "Dropout", "Embedding", "Flatten", "GlobalAvgPool", "LayerNorm", "Linear",
    "Masking", "MaxPool2d",
]  # fmt: skip


if not TYPE_CHECKING:

    def __getattr__(name: str) -> None:
        if "BatchNorm" in name:
            raise AttributeError(
                f"svdfast.layers has no {name}: a sample's output would depend on the other samples of its batch, and each tile of a batch "
                "goes through the whole network by itself; use LayerNorm, which normalises each sample"
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
