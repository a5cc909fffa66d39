# SPDX-License-Identifier: BSD-3-Clause
"""Products of row-major matrices. See src/products/_blas.pyx."""

from cython cimport floating

from svdfast._elementwise cimport svdfast_window


cdef bint by_blas(bint is_double) noexcept nogil

cdef Py_ssize_t packed_size(Py_ssize_t n, Py_ssize_t k) noexcept nogil

cdef void pack(bint transpose_B, Py_ssize_t n, Py_ssize_t k, const float* B, Py_ssize_t ldb, int i, int count,
               float* packed) noexcept nogil

cdef void gemm(int bfloat16, bint transpose_A, bint transpose_B, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
               const floating* A, Py_ssize_t lda, const floating* B, Py_ssize_t ldb,
               bint accumulate, floating* C, Py_ssize_t ldc) noexcept nogil

cdef void few_rows_apart(bint apart) noexcept nogil

cdef bint convolves(const svdfast_window* w, Py_ssize_t c) noexcept nogil

cdef bint convolves_back(const svdfast_window* w, Py_ssize_t c, Py_ssize_t n) noexcept nogil

cdef void convolution(const svdfast_window* w, Py_ssize_t p, Py_ssize_t c, Py_ssize_t n, const float* X, const float* W,
                      float* Y) noexcept nogil

cdef void convolution_back(const svdfast_window* w, Py_ssize_t p, Py_ssize_t c, Py_ssize_t n, const float* dY, const float* W,
                           float* dX) noexcept nogil

cdef void convolution_gradient(const svdfast_window* w, Py_ssize_t p, Py_ssize_t c, Py_ssize_t n, const float* X, const float* dY,
                               Py_ssize_t first, Py_ssize_t stop, bint accumulate, float* g) noexcept nogil
