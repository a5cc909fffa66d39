# SPDX-License-Identifier: BSD-3-Clause
"""Two values beside each other: Y (p·r, a + b) = [A, X], X (p·r, b) the input, A (p·r, a) the first of the other values, its delta the
second."""

from cython cimport floating
from libc.string cimport memcpy

from svdfast.ops.operation cimport Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef Py_ssize_t i, a = op.n - op.m, b = op.m
    for i in range(tile.rows):
        memcpy(<floating*> tile.Y + i * op.n, <const floating*> tile.others[0] + i * a, a * sizeof(floating))
        memcpy(<floating*> tile.Y + i * op.n + a, <const floating*> tile.X + i * b, b * sizeof(floating))


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef Py_ssize_t i, a = op.n - op.m, b = op.m
    for i in range(tile.rows):
        memcpy(<floating*> tile.others[1] + i * a, <const floating*> tile.dY + i * op.n, a * sizeof(floating))
        memcpy(<floating*> tile.dX + i * b, <const floating*> tile.dY + i * op.n + a, b * sizeof(floating))


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL, NULL)
KIND = capsule(kinds)
