# SPDX-License-Identifier: BSD-3-Clause
"""The recurrent part of a recurrent layer: at each step hₜ = cell(zₜ, U·hₜ₋₁ + b).

U has some structure. h₀ is 0, or the state that the previous batch left. zₜ is the input's part of
the cell's gates: the output of a `Linear` layer before the scan, whose weight is the input's. A
user's recurrent layer is therefore two layers here, and its two weights are truncated separately.
Gates are stacked as in PyTorch. The formulas of the cells are in src/loops/cells.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svdfast._elementwise import CELLS
from svdfast.model import activations
from svdfast.model.activations import Activation
from svdfast.model.layers.steps import Step, emit_all
from svdfast.model.layers.weighted import Weighted
from svdfast.model.program import Operation, Other, Program, Tensor, Value
from svdfast.model.structures import Structure
from svdfast.ops.cell import KIND as CELL
from svdfast.ops.join import KIND as JOIN
from svdfast.ops.state import KIND as STATE

__all__ = ["GATES", "Scan"]

# Number of gates of each cell.
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Scan(Weighted):
    """The shape of a scan, without numbers.

    Attributes
    ----------
    structure : Structure
        Structure of the state's weight, (gates·n, n).
    cell : {"rnn_tanh", "rnn_relu", "gru", "lstm"}
    half : {0, 1, 2}
        0 is a scan by itself. A bidirectional layer has two scans: 1 runs forward from the first
        step and takes the left half of z; 2 runs backward from the last step and takes the right
        half. The outputs of 2 follow those of 1.
    steps : tuple of Step
        Steps before it.
    """

    structure: Structure
    cell: str
    half: int = 0
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if self.cell not in GATES:
            raise ValueError(f"cell: expected one of {', '.join(GATES)}, got {self.cell!r}")
        if self.half not in (0, 1, 2):
            raise ValueError(f"half: expected 0, 1 or 2, got {self.half!r}")
        if self.structure.n_out != GATES[self.cell] * self.structure.n_in:
            raise ValueError(f"structure: expected {GATES[self.cell]} gates of {self.structure.n_in}, got {self.structure.n_out} rows")

    @property
    def width(self) -> int:
        """Number of its outputs."""
        return self.structure.n_in * (2 if self.half == 2 else 1)

    @property
    def activation(self) -> Activation:
        return activations.relu() if self.cell == "rnn_relu" else activations.tanh()

    @property
    def name(self) -> str:
        return self.cell.removesuffix("_tanh").replace("_", " ")

    def check(self, before: object, after: Sequence[object]) -> None:
        """Raises an error unless its input's weight, or its other half, is beside the scan."""
        if self.half == 2:
            if not isinstance(before, Scan) or (before.half, before.cell, before.n_in) != (1, self.cell, self.n_in):
                raise ValueError(f"{self.cell}: expected the scan from the first step on before it")
        elif before is None or isinstance(before, Scan):
            raise ValueError(f"{self.cell}: expected the weight of its input before it")
        if self.half == 1 and not (after and isinstance(after[0], Scan) and after[0].half == 2):
            raise ValueError(f"{self.cell}: expected the scan from the last step back after it")

    def emit(self, program: Program, x: int, weights: Sequence[Tensor], b: Tensor) -> int:
        """Writes the scan. Returns the value of its outputs at every step."""
        x = emit_all(self.steps, program, x)
        n, reverse = self.n_in, self.half == 2
        # The second scan takes the z that the first one took.
        z = self._inputs_of(program, x) if reverse else x
        steps, wide = program.values[z].rows_per_sample, self.n_out * (2 if self.half else 1)
        if program.values[z].width != wide:
            raise ValueError(f"{self.cell}: expected {wide} inputs, {GATES[self.cell]} gates of {n}, got {program.values[z].width}")
        with_memory, masked = self.cell == "lstm", program.mask is not None
        # A bidirectional layer takes no state from the previous batch: its second scan starts at
        # the last step.
        carried = () if self.half else tuple(program.carried_state(n) for _ in range(1 + with_memory))
        state = Operation(STATE, x, len(program.values), sizes=(int(reverse),), reads_output=False, carried=carried[:1])
        s = program.add(state, Value(n, steps))
        carry = program.scratch(2 * n if with_memory and masked else n)
        more = [program.scratch(n, steps)] if with_memory else []
        if program.mask is not None:
            if program.values[program.mask].rows_per_sample != steps:
                raise ValueError(f"{self.cell}: expected a mask of {steps} steps")
            more.append(program.mask)
        with program.loop(steps, reverse=reverse):
            r = self.structure.emit(program, s, weights)
            if self.cell != "gru" and not self.half:
                program.share_delta(r, z)
            r = program.bias_activation(r, b, activations.identity())
            others = Other(z), Other(z, True), Other(s), Other(s, True), Other(carry), *map(Other, more)
            sizes = wide, self.n_out if reverse else 0, int(with_memory), int(masked)
            made = Operation(CELL, r, len(program.values), code=CELLS[self.cell], sizes=sizes, others=others, carried=carried)
            h = program.add(made, Value(n, steps))
        if not reverse:
            return h
        beside = Operation(JOIN, h, len(program.values), others=(Other(x), Other(x, True)), reads_output=False)
        return program.add(beside, Value(2 * n, steps))

    def _inputs_of(self, program: Program, x: int) -> int:
        """The z of the scan whose output is x."""
        made = [o for o in program.operations if o.output == x and o.kind is CELL]
        if not made:
            raise ValueError(f"{self.cell}: expected the scan from the first step on before it")
        return made[0].others[0].value
