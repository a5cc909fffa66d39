# SPDX-License-Identifier: BSD-3-Clause
"""Dropout: in a training's steps each number is 0 with probability q, else divided by 1 - q (Srivastava et al. 2014). parameter: q.
sizes: whether rows lie step by step, and a number of its own for each such operation.

The key, the sample's place in the batch and the number's place in the sample decide what is dropped.
A training makes the key of its seed and the step. So threads, tiles and checkpoints change nothing.
Nothing is kept for the way back. Outside of training (tile.key 0) numbers stay as they are.
"""

from cython cimport floating
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from svdfast.ops.operation cimport Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds


cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    """The finaliser of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9UL
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebUL
    return x ^ (x >> 31)


cdef void drop(const Operation* op, const Tile* tile, const floating* X, floating* Y) noexcept nogil:
    cdef:
        Py_ssize_t i, j, m = op.m, r = op.rows_per_sample, sample, row
        uint64_t key, limit = <uint64_t> (op.parameter * 4294967296.0)
        floating scale = <floating> (1 / (1 - op.parameter))
    if tile.key == 0:
        if X != Y:
            memcpy(Y, X, tile.rows * m * sizeof(floating))
        return
    for i in range(tile.rows):
        sample, row = (i % tile.p, i // tile.p) if op.sizes[0] else (i // r, i % r)
        key = mixed(mixed(tile.key + 0x9e3779b97f4a7c15UL * <uint64_t> op.sizes[1]) + <uint64_t> ((tile.first + sample) * r + row))
        for j in range(m):
            Y[i * m + j] = X[i * m + j] * scale if <uint32_t> mixed(key + <uint64_t> j) >= limit else 0


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    drop[floating](op, tile, <const floating*> tile.X, <floating*> tile.Y)


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    if tile.dX != NULL:
        drop[floating](op, tile, <const floating*> tile.dY, <floating*> tile.dX)


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL, NULL)
KIND = capsule(kinds)
