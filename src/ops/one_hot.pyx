# SPDX-License-Identifier: BSD-3-Clause
"""Tokens as rows of zeros with a one: X (p·r, 1) numbers from 0 to n - 1, Y (p·r, n). Others, and what is no whole number, give zeros.

A product with Y gives a row of the weight's transpose for each token: an embedding.
"""

from cython cimport floating
from libc.string cimport memset

from svdfast.ops.operation cimport Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef:
        const floating* X = <const floating*> tile.X
        floating* Y = <floating*> tile.Y
        Py_ssize_t i, token
    memset(Y, 0, tile.rows * op.n * sizeof(floating))
    for i in range(tile.rows):
        if 0 <= X[i] < op.n:
            token = <Py_ssize_t> X[i]
            if X[i] == token:
                Y[i * op.n + token] = 1


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    if tile.dX != NULL:
        memset(tile.dX, 0, tile.rows * sizeof(floating))


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL, NULL)
KIND = capsule(kinds)
