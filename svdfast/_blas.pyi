# SPDX-License-Identifier: BSD-3-Clause
"""Types of what Python sees of src/products/_blas.pyx."""

from typing import Any

from numpy.typing import NDArray

def multiply(
    A: NDArray[Any],
    B: NDArray[Any],
    C: NDArray[Any],
    transpose_A: bool = False,
    transpose_B: bool = False,
    accumulate: bool = False,
    bfloat16: bool = False,
    n_parts: int = 0,
) -> None: ...
def measure(on: bool) -> None: ...
def measured() -> tuple[float, int]: ...
def float32_products() -> str: ...
def bfloat16_products() -> str: ...
def use_own_products(wanted: bool, instruction_set: str | None = None, bfloat16: bool = True) -> bool: ...
