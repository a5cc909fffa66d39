# SPDX-License-Identifier: BSD-3-Clause
"""The fully connected layer: A = f(X·Wᵀ + b), W in some structure, of every row of X. With `Patches` before it, a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from svdfast.model.activations import Activation
from svdfast.model.layers.steps import Step, emit_all
from svdfast.model.layers.weighted import Weighted
from svdfast.model.program import Program, Tensor, Value
from svdfast.model.structures import Structure

__all__ = ["Linear"]


@dataclass(frozen=True)
class Linear(Weighted):
    """A fully connected layer's shape, no numbers.

    Attributes
    ----------
    structure : Structure
        Of its weight.
    activation : Activation
    steps : tuple of Step
        Before it.
    """

    structure: Structure
    activation: Activation
    steps: tuple[Step, ...] = ()

    @property
    def width(self) -> int:
        """Of its outputs."""
        return self.structure.n_out

    @property
    def name(self) -> str:
        return self.activation.name

    def emit(self, program: Program, x: int, weights: Sequence[Tensor], b: Tensor) -> int:
        """Writes the layer; returns the value of its output."""
        x = emit_all(self.steps, program, x)
        z = self.structure.emit(program, x, weights)
        made, expected = program.values[z], Value(self.n_out, program.values[x].rows_per_sample)
        if replace(made, view_of=None) != expected:
            raise ValueError(f"{type(self.structure).__name__}.emit: expected {expected}, got {made}")
        return program.bias_activation(z, b, self.activation)
