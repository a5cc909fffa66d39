# SPDX-License-Identifier: BSD-3-Clause
"""Product with a weight: Y = X·Wᵀ. Not here: bias and activation (bias_activation.pyx)."""

from cython cimport floating

from svdfast._blas cimport gemm, pack as pack_operand, packed_size as operand_size
from svdfast.ops.operation cimport Gradient, Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    # Y (p·r×n) = X (p·r×m) · W (n×m)ᵀ
    gemm[floating](tile.bfloat16, False, True, tile.rows, op.n, op.m,
                   <const floating*> tile.X, op.m, W, op.m, False, <floating*> tile.Y, op.n)


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


# X·Wᵀ takes Wᵀ (m×n), dY·W takes W (n×m).

cdef Py_ssize_t packed_size(const Operation* op, bint backward) noexcept nogil:
    return operand_size(op.m, op.n) if backward else operand_size(op.n, op.m)


cdef void pack(const Operation* op, bint backward, const float* W, int i, int count, float* packed) noexcept nogil:
    if backward:
        pack_operand(False, op.m, op.n, W, op.m, i, count, packed)
    else:
        pack_operand(True, op.n, op.m, W, op.m, i, count, packed)


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], <Gradient> gradient[float], packed_size, pack)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], <Gradient> gradient[double], NULL, NULL)
KIND = capsule(kinds)
