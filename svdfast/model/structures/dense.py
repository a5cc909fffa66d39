# SPDX-License-Identifier: BSD-3-Clause
"""A weight as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from svdfast.model.program import Program, Tensor
from svdfast.model.structures.structure import Array, Fit, Moment, Structure

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense(Structure):
    """W itself."""

    rank: int | None = field(default=None, init=False)

    factored: ClassVar[bool] = False

    def tensors(self) -> tuple[tuple[str, tuple[int, int]], ...]:
        return (("W", (self.n_out, self.n_in)),)

    def emit(self, program: Program, x: int, tensors: Sequence[Tensor]) -> int:
        return program.product(x, tensors[0])

    def matrix(self, t: Sequence[Array]) -> Array:
        return t[0]

    def fit(self, W: Array, **how: Any) -> Fit:
        return Fit((W,), np.empty(0, W.dtype), 0.0)

    def pullback(self, M: Array, t: Sequence[Array]) -> tuple[Array, ...]:
        return (M,)

    def lift(self, kind: Moment, moments: Sequence[Array], t: Sequence[Array]) -> Array:
        return moments[0]

    def relative_scale(self, t: Sequence[Array]) -> float:
        return 1.0

    def __str__(self) -> str:
        return "dense"

    @property
    def note(self) -> str:
        return ""
