# SPDX-License-Identifier: BSD-3-Clause
"""Which rows count: those that have a number other than `parameter`. The input goes through; the mask, 1 or 0 for each row, is the other
value, which a loop's cell reads (cell.pyx)."""

from cython cimport floating
from libc.string cimport memcpy

from svdfast.ops.operation cimport Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef:
        Py_ssize_t i, j, m = op.m
        const floating* X = <const floating*> tile.X
        floating* mask = <floating*> tile.others[0]
        floating value = <floating> op.parameter
    for i in range(tile.rows):
        mask[i] = 0
        for j in range(m):
            if X[i * m + j] != value:
                mask[i] = 1
                break
    if tile.Y != tile.X:
        memcpy(tile.Y, X, tile.rows * m * sizeof(floating))


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    if tile.dX != NULL and tile.dX != tile.dY:
        memcpy(tile.dX, tile.dY, tile.rows * op.m * sizeof(floating))


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL, NULL)
KIND = capsule(kinds)
