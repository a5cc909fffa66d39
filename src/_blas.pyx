# SPDX-License-Identifier: BSD-3-Clause
"""Row-major products over SciPy's BLAS.

The only file that cimports SciPy, and the only one that branches on float and double. Not here: checks of arguments, which
are the callers' work, and anything elementwise.
"""

from cython cimport floating
from scipy.linalg.cython_blas cimport dgemm, sgemm


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
    if m == 0 or n == 0:
        return
    if floating is float:
        sgemm(tb, ta, &n_, &m_, &k_, &alpha, <float*> B, &ldb_, <float*> A, &lda_, &beta, C, &ldc_)
    else:
        dgemm(tb, ta, &n_, &m_, &k_, &alpha, <double*> B, &ldb_, <double*> A, &lda_, &beta, C, &ldc_)


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
