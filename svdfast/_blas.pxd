# SPDX-License-Identifier: BSD-3-Clause
"""Products of row-major matrices. See src/products/_blas.pyx."""

from cython cimport floating


cdef bint by_blas(bint is_double) noexcept nogil

cdef Py_ssize_t packed_size(Py_ssize_t n, Py_ssize_t k) noexcept nogil

cdef void pack(bint transpose_B, Py_ssize_t n, Py_ssize_t k, const float* B, Py_ssize_t ldb, int i, int count,
               float* packed) noexcept nogil

cdef void gemm(int bfloat16, bint transpose_A, bint transpose_B, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
               const floating* A, Py_ssize_t lda, const floating* B, Py_ssize_t ldb,
               bint accumulate, floating* C, Py_ssize_t ldc) noexcept nogil
