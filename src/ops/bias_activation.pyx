# SPDX-License-Identifier: BSD-3-Clause
"""Bias and activation: Y = f(X + b), b a row of n. X becomes X + b. Elsewhere: the functions f (src/loops)."""

from cython cimport floating
from libc.string cimport memset

from svdfast._elementwise cimport elementwise
from svdfast.ops.operation cimport Gradient, Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds


cdef void forward(const Operation* op, const Tile* tile, const floating* b) noexcept nogil:
    elementwise(sizeof(floating)).bias_activation(op.code, op.parameter, tile.rows, op.n, b, tile.X, tile.Y)


cdef void backward(const Operation* op, const Tile* tile, const floating* b) noexcept nogil:
    # dX = dY * f'(X + b), in place
    elementwise(sizeof(floating)).activation_backward(op.code, op.parameter, tile.rows, op.n, tile.X, tile.Y,
                                                      tile.dY)


cdef void gradient(const Operation* op, const Tile* tile, Py_ssize_t first, Py_ssize_t stop, bint accumulate,
                   floating* g) noexcept nogil:
    # db (n) = the sum over rows of dX (p·r×n)
    if not accumulate:
        memset(g, 0, (stop - first) * sizeof(floating))
    elementwise(sizeof(floating)).add_rows(tile.rows, stop - first, <const floating*> tile.dY + first, op.n, g)


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], <Gradient> gradient[float], NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], <Gradient> gradient[double], NULL, NULL)
KIND = capsule(kinds)
