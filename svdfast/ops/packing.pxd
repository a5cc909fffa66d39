# SPDX-License-Identifier: BSD-3-Clause
"""How operations that multiply rows with a weight W (n×m) have it packed: X·Wᵀ takes Wᵀ (m×n), dY·W takes W (n×m)."""

from svdfast._blas cimport pack as pack_operand, packed_size as operand_size
from svdfast.ops.operation cimport Operation


cdef inline Py_ssize_t packed_size(const Operation* op, bint backward) noexcept nogil:
    return operand_size(op.m, op.n) if backward else operand_size(op.n, op.m)


cdef inline void pack(const Operation* op, bint backward, const float* W, int i, int count, float* packed) noexcept nogil:
    if backward:
        pack_operand(False, op.m, op.n, W, op.m, i, count, packed)
    else:
        pack_operand(True, op.n, op.m, W, op.m, i, count, packed)
