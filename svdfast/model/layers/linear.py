# SPDX-License-Identifier: BSD-3-Clause
"""The fully connected layer: A = f(X·Wᵀ + b) for every row of X, with W in some structure.

With `Patches` before it, it is a convolution.
"""

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
    """The shape of a fully connected layer, without numbers.

    Attributes
    ----------
    structure : Structure
        Structure of its weight.
    activation : Activation
    steps : tuple of Step
        Steps before it.
    """

    structure: Structure
    activation: Activation
    steps: tuple[Step, ...] = ()

    @property
    def width(self) -> int:
        """Number of its outputs."""
        return self.structure.n_out

    @property
    def name(self) -> str:
        return self.activation.name

    def emit(self, program: Program, x: int, weights: Sequence[Tensor], b: Tensor) -> int:
        """Writes the layer. Returns the value of its output."""
        x = emit_all(self.steps, program, x)
        z = self.structure.emit(program, x, weights)
        made, expected = program.values[z], Value(self.n_out, program.values[x].rows_per_sample)
        if replace(made, view_of=None) != expected:
            raise ValueError(f"{type(self.structure).__name__}.emit: expected {expected}, got {made}")
        return program.bias_activation(z, b, self.activation)
