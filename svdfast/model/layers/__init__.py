# SPDX-License-Identifier: BSD-3-Clause
"""Layers: ways to write a program, each in a file of its own."""

from typing import TypeAlias

from svdfast.model.layers.linear import Linear
from svdfast.model.layers.scan import Scan
from svdfast.model.layers.steps import Step

__all__ = ["Linear", "Scan", "Step", "WeightLayer"]

WeightLayer: TypeAlias = Linear | Scan
