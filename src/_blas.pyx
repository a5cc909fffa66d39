# SPDX-License-Identifier: BSD-3-Clause
"""Row-major products over SciPy's BLAS, and over our own for float where the CPU has AVX2 or AVX-512.

The only file that cimports SciPy, and the only one that branches on float and double. Not here: checks of arguments, which
are the callers' work, and anything elementwise.

Our own products (product.c) are as fast as OpenBLAS's or faster at the shapes of tiles, more so on CPUs for which OpenBLAS picks
narrower kernels, at few rows and at few columns; bench/test_bench_kernels.py has both. SVDFAST_PRODUCTS=blas gives all products to BLAS.
"""

import os

from cython cimport floating
from scipy.linalg.cython_blas cimport dgemm, sgemm


cdef extern from "product.h" nogil:
    int svdfast_product_select(const char* name)
    void svdfast_product(int transpose_A, int transpose_B, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
                         const float* A, Py_ssize_t lda, const float* B, Py_ssize_t ldb,
                         int accumulate, float* C, Py_ssize_t ldc)

cdef extern from "timing.h" nogil:
    enum:
        SVDFAST_PRODUCTS
    double svdfast_clock()
    void svdfast_add_time(int kind, double start, double operations)
    void svdfast_reset_times()
    double svdfast_total_seconds(int kind)
    double svdfast_total_operations()

cdef bint own_products = False
cdef bint measuring = False


cdef void gemm(bint transpose_A, bint transpose_B, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
               floating alpha, const floating* A, Py_ssize_t lda, const floating* B, Py_ssize_t ldb,
               floating beta, floating* C, Py_ssize_t ldc) noexcept nogil:
    """C := alpha op(A) op(B) + beta C, with op(A) (m×k), op(B) (k×n), C (m×n), rows lda, ldb, ldc elements apart.

    BLAS has columns where we have rows, so its view of each matrix is the transpose, and Cᵀ = op(B)ᵀ op(A)ᵀ is what it
    is asked for. Every size must fit BLAS's int.
    """
    cdef:
        char* ta = b"T" if transpose_A else b"N"
        char* tb = b"T" if transpose_B else b"N"
        int m_ = <int> m
        int n_ = <int> n
        int k_ = <int> k
        int lda_ = <int> (lda if lda > 0 else 1)
        int ldb_ = <int> (ldb if ldb > 0 else 1)
        int ldc_ = <int> (ldc if ldc > 0 else 1)
        double start = 0
    if m == 0 or n == 0:
        return
    if measuring:
        start = svdfast_clock()
    if floating is float:
        if own_products and alpha == 1 and (beta == 0 or beta == 1):
            svdfast_product(transpose_A, transpose_B, m, n, k, A, lda, B, ldb, beta == 1, C, ldc)
        else:
            sgemm(tb, ta, &n_, &m_, &k_, &alpha, <float*> B, &ldb_, <float*> A, &lda_, &beta, C, &ldc_)
    else:
        dgemm(tb, ta, &n_, &m_, &k_, &alpha, <double*> B, &ldb_, <double*> A, &lda_, &beta, C, &ldc_)
    if start != 0:
        svdfast_add_time(SVDFAST_PRODUCTS, start, 2.0 * m * n * k)


def multiply(const floating[:, ::1] A, const floating[:, ::1] B, floating[:, ::1] C, bint transpose_A=False,
             bint transpose_B=False, double alpha=1.0, double beta=0.0):
    """`gemm` on arrays: C := alpha op(A) op(B) + beta C. For tests; checks shapes only."""
    cdef:
        Py_ssize_t m = A.shape[1] if transpose_A else A.shape[0]
        Py_ssize_t k = A.shape[0] if transpose_A else A.shape[1]
        Py_ssize_t n = B.shape[0] if transpose_B else B.shape[1]
        const floating* a
        const floating* b
    if (B.shape[1] if transpose_B else B.shape[0]) != k or C.shape[0] != m or C.shape[1] != n:
        raise ValueError("the shapes of op(A), op(B) and C do not fit")
    if m == 0 or n == 0:
        return
    a = &A[0, 0] if k > 0 else NULL
    b = &B[0, 0] if k > 0 else NULL
    with nogil:
        gemm[floating](transpose_A, transpose_B, m, n, k, <floating> alpha, a, A.shape[1], b, B.shape[1],
                       <floating> beta, &C[0, 0], n)


def measure(bint on):
    """Begins to time the products and to count their operations, from 0, or ends it. For svdfast/_timing.py, which sees to it
    that it ends."""
    global measuring
    if on:
        svdfast_reset_times()
    measuring = on


def measured():
    """Seconds of all threads in products, and operations, 2·m·n·k each."""
    return svdfast_total_seconds(SVDFAST_PRODUCTS), int(svdfast_total_operations())


def float32_products():
    """Whose products of float32 matrices are used: "svdfast" or "BLAS"."""
    return "svdfast" if own_products else "BLAS"


def use_own_products(bint wanted, str instruction_set=None):
    """Chooses between our own products of float matrices and BLAS's, for all threads. Returns whether ours are used now.

    `instruction_set`: "avx2" or "avx512" instead of the best that the CPU has.
    """
    global own_products
    cdef const char* name = NULL
    if instruction_set is not None:
        encoded = instruction_set.encode()
        name = encoded
    own_products = wanted and svdfast_product_select(name)
    return own_products


def _choose():
    wanted = os.environ.get("SVDFAST_PRODUCTS", "")
    if wanted not in ("", "blas", "svdfast"):
        raise ImportError(f"SVDFAST_PRODUCTS={wanted!r}: expected blas or svdfast")
    if not use_own_products(wanted != "blas") and wanted == "svdfast":
        raise ImportError("SVDFAST_PRODUCTS='svdfast': this CPU or this build has neither AVX2 nor AVX-512")


_choose()
