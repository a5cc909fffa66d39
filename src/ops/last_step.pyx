# SPDX-License-Identifier: BSD-3-Clause
"""The last step's rows, of rows that lie step by step. sizes: whether the last step comes first."""

from cython cimport floating
from libc.string cimport memcpy, memset

from svdfast.ops.operation cimport Gradient, Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds


cdef inline Py_ssize_t place(const Operation* op, const Tile* tile) noexcept nogil:
    return 0 if op.sizes[0] else tile.p * (op.rows_per_sample - 1) * op.m


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    memcpy(tile.Y, <const floating*> tile.X + place(op, tile), tile.p * op.m * sizeof(floating))


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    if tile.dX != NULL:
        memset(tile.dX, 0, tile.rows * op.m * sizeof(floating))
        memcpy(<floating*> tile.dX + place(op, tile), tile.dY, tile.p * op.m * sizeof(floating))


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL)
KIND = capsule(kinds)
