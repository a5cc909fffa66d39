# SPDX-License-Identifier: BSD-3-Clause
"""The recurrent part of a recurrent layer: at each step hₜ = cell(zₜ, U·hₜ₋₁ + b), U in some structure, h₀ = 0.

zₜ is what the input gives to the cell's gates: the output of a `Linear` layer before it, whose weight is the input's. So a recurrent
layer of users is two here, and its two weights are cut separately. Gates are stacked as in PyTorch.
Not here: the formulas of the cells (src/loops/cells.h).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svdfast._elementwise import CELLS
from svdfast.model import activations
from svdfast.model.activations import Activation
from svdfast.model.layers.steps import Step, emit_all
from svdfast.model.program import Operation, Other, Program, Tensor, Value
from svdfast.model.structures import Structure
from svdfast.ops.cell import KIND as CELL
from svdfast.ops.state import KIND as STATE

__all__ = ["GATES", "Scan"]

# Of each cell.
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Scan:
    """A scan's shape, no numbers.

    Attributes
    ----------
    structure : Structure
        Of the state's weight, (gates·n, n).
    cell : {"rnn_tanh", "rnn_relu", "gru", "lstm"}
    reverse : bool
        Whether the last step comes first.
    steps : tuple of Step
        Before it.
    """

    structure: Structure
    cell: str
    reverse: bool = False
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if self.cell not in GATES:
            raise ValueError(f"cell: expected one of {', '.join(GATES)}, got {self.cell!r}")
        if self.structure.n_out != GATES[self.cell] * self.structure.n_in:
            raise ValueError(f"structure: expected {GATES[self.cell]} gates of {self.structure.n_in}, got {self.structure.n_out} rows")

    @property
    def n_in(self) -> int:
        return self.structure.n_in

    @property
    def n_out(self) -> int:
        return self.structure.n_out

    @property
    def width(self) -> int:
        """Of its outputs."""
        return self.structure.n_in

    @property
    def rank(self) -> int | None:
        return self.structure.rank

    @property
    def activation(self) -> Activation:
        return activations.relu() if self.cell == "rnn_relu" else activations.tanh()

    @property
    def name(self) -> str:
        return self.cell.removesuffix("_tanh").replace("_", " ")

    def emit(self, program: Program, x: int, weights: Sequence[Tensor], b: Tensor) -> int:
        """Writes the scan; returns the value of its outputs, of every step."""
        z = emit_all(self.steps, program, x)
        n, before = self.width, program.values[z]
        if before.width != self.n_out:
            raise ValueError(f"{self.cell}: expected {self.n_out} inputs, {GATES[self.cell]} gates of {n}, got {before.width}")
        steps = before.rows_per_sample
        state = Operation(STATE, z, len(program.values), sizes=(int(self.reverse),), reads_output=False)
        s = program.add(state, Value(n, steps))
        carry = program.scratch(n)
        memory = (Other(program.scratch(n, steps)),) if self.cell == "lstm" else ()
        with program.loop(steps, reverse=self.reverse):
            r = self.structure.emit(program, s, weights)
            if self.cell != "gru":
                program.share_delta(r, z)
            r = program.bias_activation(r, b, activations.identity())
            others = Other(z), Other(z, True), Other(s), Other(s, True), Other(carry), *memory
            made = Operation(CELL, r, len(program.values), code=CELLS[self.cell], others=others)
            return program.add(made, Value(n, steps))
