# SPDX-License-Identifier: BSD-3-Clause
"""Bias and activation: Y = f(X + b), b a row of n. X becomes X + b. Elsewhere: the functions f (src/loops)."""

from cython cimport floating
from libc.string cimport memset

from svdfast._elementwise cimport SVDFAST_SOFTMAX, elementwise
from svdfast.ops.operation cimport Gradient, Kind, Operation, Part, Pass, Tile, capsule

cdef Kind[2] kinds


cdef void forward(const Operation* op, const Tile* tile, const floating* b) noexcept nogil:
    elementwise(sizeof(floating)).bias_activation(op.code, op.parameter, tile.rows, op.n, b, tile.X, tile.Y)


cdef void part(const Operation* op, const Tile* tile, const floating* b, Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
    cdef Py_ssize_t i
    if op.code == SVDFAST_SOFTMAX:  # of whole rows
        if first == 0:
            forward(op, tile, b)
        return
    for i in range(tile.rows):
        elementwise(sizeof(floating)).bias_activation(op.code, op.parameter, 1, stop - first, b + first,
                                                      <floating*> tile.X + i * op.n + first, <floating*> tile.Y + i * op.n + first)


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


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], <Gradient> gradient[float], NULL, NULL, <Part> part[float])
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], <Gradient> gradient[double], NULL, NULL, <Part> part[double])
KIND = capsule(kinds)
