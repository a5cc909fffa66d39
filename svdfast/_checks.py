# SPDX-License-Identifier: BSD-3-Clause
"""Checks of plain arguments: numbers and counts. Each names the argument, what was expected and what came.

Arrays are checked where they are used: data.py (samples and targets), kernels.py, svd.py.
"""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any


def positive_number(name: str, value: Any, *, or_zero: bool = False) -> float:
    """A finite number > 0 (or ≥ 0) as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not or_zero):
        bound = "≥ 0" if or_zero else "> 0"
        raise ValueError(f"{name}: expected a finite number {bound}, got {value!r}")
    return float(value)


def fraction(name: str, value: Any, *, below_one: bool = False) -> float:
    """A number from 0 to 1 (or below 1) as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number from 0 to 1, got {type(value).__name__}")
    if not 0 <= value <= 1 or (below_one and value == 1):
        bound = "from 0 to below 1" if below_one else "from 0 to 1"
        raise ValueError(f"{name}: expected a number {bound}, got {value!r}")
    return float(value)


def count(name: str, value: Any, *, minimum: int = 1, maximum: int | None = None) -> int:
    """An integer within bounds, of any integer type, as an int."""
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if number < minimum or (maximum is not None and number > maximum):
        bound = f"≥ {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"{name}: expected an integer {bound}, got {number}")
    return number
