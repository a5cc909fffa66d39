# SPDX-License-Identifier: BSD-3-Clause
"""The layers that networks are written with. They are defined in svdfast/model/describe.py."""

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
