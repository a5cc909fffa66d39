# SPDX-License-Identifier: BSD-3-Clause
"""Rows of a tile in another order: sample by sample, as samples come, or step by step, as loops need them. sizes: 1 if
step by step after it. Elsewhere: the work of each step (cell.pyx)."""

from cython cimport floating
from libc.string cimport memcpy

from svdfast.ops.operation cimport Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds


cdef void reorder(const floating* X, floating* Y, Py_ssize_t outer, Py_ssize_t inner, Py_ssize_t m) noexcept nogil:
    """Y (inner×outer rows of m) = X (outer×inner rows)."""
    cdef Py_ssize_t i, j
    for i in range(outer):
        for j in range(inner):
            memcpy(Y + (j * outer + i) * m, X + (i * inner + j) * m, m * sizeof(floating))


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef bint by_steps = op.sizes[0]
    reorder[floating](<const floating*> tile.X, <floating*> tile.Y, tile.p if by_steps else op.rows_per_sample,
                      op.rows_per_sample if by_steps else tile.p, op.m)


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef bint by_steps = op.sizes[0]
    if tile.dX != NULL:
        reorder[floating](<const floating*> tile.dY, <floating*> tile.dX, op.rows_per_sample if by_steps else tile.p,
                          tile.p if by_steps else op.rows_per_sample, op.m)


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL, NULL)
KIND = capsule(kinds)
