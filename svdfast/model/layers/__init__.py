# SPDX-License-Identifier: BSD-3-Clause
"""Layers: ways to write a program, a file each."""

from svdfast.model.layers.linear import Linear

__all__ = ["Linear"]
