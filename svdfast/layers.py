# SPDX-License-Identifier: BSD-3-Clause
"""The layers that networks are written with. They are defined in svdfast/model/describe.py."""

from svdfast.model.describe import (
    GRU,
    LSTM,
    RNN,
    AvgPool2d,
    Conv2d,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool2d,
)

__all__ = ["GRU", "LSTM", "RNN", "AvgPool2d", "Conv2d", "Flatten", "GlobalAvgPool", "Linear", "MaxPool2d"]
