# SPDX-License-Identifier: BSD-3-Clause
"""Types of what Python sees of src/engine/_engine.pyx."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import DTypeLike, NDArray
from typing_extensions import disjoint_base

# Layouts, data, losses and rules of the packages above, which this module does not import.
_Layout = Any
_Inputs = Any
_Loss = Any
_Rule = Any

HAS_OPENMP: bool
TILE_ROWS: int
MANY_WEIGHTS: int
SUM_ROWS: int
TILE_BYTES: int
BATCH_BYTES: int

def aligned_zeros(size: int, dtype: DTypeLike) -> NDArray[Any]: ...
def max_threads() -> int: ...
def is_forked() -> bool: ...

@disjoint_base
class Engine:
    @property
    def tile_rows(self) -> int: ...
    @property
    def by_tiles(self) -> bool: ...
    @property
    def order(self) -> NDArray[Any] | None: ...
    def __init__(
        self,
        layout: _Layout,
        parameters: NDArray[Any],
        *,
        batch_size: int,
        n_threads: int,
        gradients: bool = True,
        bfloat16: bool = False,
        reproducible: bool = False,
        tile_rows: int | None = None,
        sum_rows: int | None = None,
    ) -> None: ...
    def bind(
        self,
        inputs: _Inputs,
        loss: _Loss | None = None,
        targets: NDArray[Any] | None = None,
        weights: NDArray[Any] | None = None,
    ) -> None: ...
    def set_order(self, rows: NDArray[Any] | None) -> None: ...
    def set_rate_scales(self, scales: Sequence[float]) -> None: ...
    def set_update(self, rule: _Rule, moments: Sequence[NDArray[Any]]) -> None: ...
    def predict(self, out: NDArray[Any]) -> None: ...
    def evaluate(self, n: int, out: NDArray[Any] | None = None) -> float: ...
    def gradient(
        self, start: int, stop: int, out: NDArray[Any], l1: float = 0.0, l2: float = 0.0, total: float | None = None
    ) -> float: ...
    def update(self, gradient: NDArray[Any], learning_rate: float, t: int, scale: float = 1.0) -> None: ...
    def norm(self, gradient: NDArray[Any]) -> float: ...
    def step(
        self,
        start: int,
        stop: int,
        learning_rate: float,
        t: int,
        l1: float = 0.0,
        l2: float = 0.0,
    ) -> float: ...
