# SPDX-License-Identifier: BSD-3-Clause
"""Types of what Python sees of src/cython_kernels.pyx: the kernels on arrays, called by kernels.py.

All arrays are matrices in C order, of one type, float32 or float64; a vector is a matrix of one
row. Nothing is checked. What Cython code sees stands in cython_kernels.pxd.
"""

from typing import Any

from numpy.typing import NDArray

_M = NDArray[Any]

def run_dense_forward(
    X: _M, W: _M, b: _M, Z: _M, A: _M, activation: int, parameter: float, bfloat16: bool
) -> None: ...
def run_dense_backward(
    X: _M, W: _M, Z: _M, A: _M, dZ: _M, dW: _M, db: _M, dX: _M | None,
    activation: int, parameter: float, bfloat16: bool,
) -> None: ...
def run_factored_forward(
    X: _M, W1: _M, W2: _M, b: _M, H: _M, Z: _M, A: _M,
    activation: int, parameter: float, bfloat16: bool,
) -> None: ...
def run_factored_backward(
    X: _M, H: _M, W1: _M, W2: _M, Z: _M, A: _M, dZ: _M, D: _M,
    dW1: _M, dW2: _M, db: _M, dX: _M | None,
    activation: int, parameter: float, bfloat16: bool,
) -> None: ...
