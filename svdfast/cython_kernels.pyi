# SPDX-License-Identifier: BSD-3-Clause
"""Types of what Python sees of src/cython_kernels.pyx: the kernels on arrays, called by kernels.py.

All arrays are matrices in C order, of one type, float32 or float64; a vector is a matrix of one
row. Nothing is checked. What Cython code sees stands in cython_kernels.pxd.
"""

from typing import Any

from numpy.typing import NDArray

def run_dense_forward(
    X: NDArray[Any],
    W: NDArray[Any],
    b: NDArray[Any],
    Z: NDArray[Any],
    A: NDArray[Any],
    activation: int,
    parameter: float,
    bfloat16: bool,
) -> None: ...
def run_dense_backward(
    X: NDArray[Any],
    W: NDArray[Any],
    Z: NDArray[Any],
    A: NDArray[Any],
    dZ: NDArray[Any],
    dW: NDArray[Any],
    db: NDArray[Any],
    dX: NDArray[Any] | None,
    activation: int,
    parameter: float,
    bfloat16: bool,
) -> None: ...
def run_factored_forward(
    X: NDArray[Any],
    W1: NDArray[Any],
    W2: NDArray[Any],
    b: NDArray[Any],
    H: NDArray[Any],
    Z: NDArray[Any],
    A: NDArray[Any],
    activation: int,
    parameter: float,
    bfloat16: bool,
) -> None: ...
def run_factored_backward(
    X: NDArray[Any],
    H: NDArray[Any],
    W1: NDArray[Any],
    W2: NDArray[Any],
    Z: NDArray[Any],
    A: NDArray[Any],
    dZ: NDArray[Any],
    D: NDArray[Any],
    dW1: NDArray[Any],
    dW2: NDArray[Any],
    db: NDArray[Any],
    dX: NDArray[Any] | None,
    activation: int,
    parameter: float,
    bfloat16: bool,
) -> None: ...
