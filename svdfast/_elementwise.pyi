# SPDX-License-Identifier: BSD-3-Clause
"""Types of what Python sees of src/_elementwise.pyx."""

INSTRUCTION_SETS: tuple[str, ...]

def available_instruction_sets() -> tuple[str, ...]: ...
def selected_instruction_set() -> str: ...
