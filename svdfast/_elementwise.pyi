# SPDX-License-Identifier: BSD-3-Clause
"""Types of what Python sees of src/loops/_elementwise.pyx."""

from typing import Any, Literal

from numpy.typing import NDArray

INSTRUCTION_SETS: tuple[str, ...]
ACTIVATIONS: dict[str, int]
CELLS: dict[str, int]
LOSSES: dict[str, int]
UPDATES: dict[str, int]
ELEMENT_TYPES: dict[str, int]
BACKWARD_READS: dict[str, Literal["A", "Z"] | None]

def available_instruction_sets() -> tuple[str, ...]: ...
def selected_instruction_set() -> str: ...
def measure(on: bool) -> None: ...
def measured() -> tuple[float, float, float]: ...
def update(
    rule: Any, learning_rate: float, t: int, g: NDArray[Any], w: NDArray[Any],
    m: NDArray[Any] | None = None, v: NDArray[Any] | None = None, l1: float = 0, l2: float = 0,
) -> float: ...
