# SPDX-License-Identifier: BSD-3-Clause
"""The state before each step of a loop: room for it, and before the first what the batch before left, or zeros. sizes: whether the last
step comes first.

Its input is the input of the loop's cell, which it does not read. Elsewhere: the cell, which writes
the other states (cell.pyx).
"""

from cython cimport floating
from libc.string cimport memcpy, memset

from svdfast.ops.operation cimport Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef:
        floating* first = <floating*> tile.Y + (tile.p * (op.rows_per_sample - 1) * op.n if op.sizes[0] else 0)
        size_t size = tile.p * op.n * sizeof(floating)
    if op.n_carried > 0 and tile.carried[0] != NULL:
        memcpy(first, tile.carried[0], size)
    else:
        memset(first, 0, size)


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    pass


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL, NULL)
KIND = capsule(kinds)
