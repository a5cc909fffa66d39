# SPDX-License-Identifier: BSD-3-Clause
"""Product with a weight: Y = X·Wᵀ. Elsewhere: bias and activation (bias_activation.pyx)."""

from cython cimport floating

from svdfast._blas cimport gemm
from svdfast.ops.operation cimport Gradient, Kind, Operation, Part, Pass, Tile, capsule
from svdfast.ops.packing cimport pack, packed_size

cdef Kind[2] kinds


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    # Y (p·r×n) = X (p·r×m) · W (n×m)ᵀ
    gemm[floating](tile.bfloat16, False, True, tile.rows, op.n, op.m,
                   <const floating*> tile.X, op.m, W, op.m, False, <floating*> tile.Y, op.n)


cdef void part(const Operation* op, const Tile* tile, const floating* W, Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
    gemm[floating](tile.bfloat16, False, True, tile.rows, stop - first, op.m,
                   <const floating*> tile.X, op.m, W + first * op.m, op.m, False, <floating*> tile.Y + first, op.n)


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    if tile.dX != NULL:
        # dX (p·r×m) = dY (p·r×n) · W (n×m)
        gemm[floating](tile.bfloat16, False, False, tile.rows, op.m, op.n,
                       <const floating*> tile.dY, op.n, W, op.m, False, <floating*> tile.dX, op.m)


cdef void gradient(const Operation* op, const Tile* tile, Py_ssize_t first, Py_ssize_t stop, bint accumulate,
                   floating* g) noexcept nogil:
    # dW (n×m) = dY (p·r×n)ᵀ · X (p·r×m)
    gemm[floating](tile.bfloat16, True, False, stop - first, op.m, tile.rows,
                   <const floating*> tile.dY + first, op.n, <const floating*> tile.X, op.m, accumulate, g, op.m)


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], <Gradient> gradient[float], packed_size, pack, <Part> part[float])
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], <Gradient> gradient[double], NULL, NULL, <Part> part[double])
KIND = capsule(kinds)
