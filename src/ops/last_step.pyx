# SPDX-License-Identifier: BSD-3-Clause
"""The last step's rows, of rows that lie step by step. sizes: how many columns, from the left, have the last step at the end; of the others
it comes first."""

from cython cimport floating
from libc.string cimport memcpy, memset

from svdfast.ops.operation cimport Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef:
        Py_ssize_t i, m = op.m, left = op.sizes[0]
        const floating* first = <const floating*> tile.X
        const floating* last = first + tile.p * (op.rows_per_sample - 1) * m
    for i in range(tile.p):
        memcpy(<floating*> tile.Y + i * m, last + i * m, left * sizeof(floating))
        memcpy(<floating*> tile.Y + i * m + left, first + i * m + left, (m - left) * sizeof(floating))


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef:
        Py_ssize_t i, m = op.m, left = op.sizes[0]
        floating* first = <floating*> tile.dX
        floating* last = first + tile.p * (op.rows_per_sample - 1) * m
    if tile.dX == NULL:
        return
    memset(tile.dX, 0, tile.rows * m * sizeof(floating))
    for i in range(tile.p):
        memcpy(last + i * m, <const floating*> tile.dY + i * m, left * sizeof(floating))
        memcpy(first + i * m + left, <const floating*> tile.dY + i * m + left, (m - left) * sizeof(floating))


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL, NULL)
KIND = capsule(kinds)
