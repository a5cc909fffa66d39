# SPDX-License-Identifier: BSD-3-Clause
"""Row-major products over SciPy's BLAS, and over our own for float where the CPU has AVX2 or AVX-512; of float rounded to bfloat16.

The only file that cimports SciPy, and the only one that branches on float and double. Elsewhere: checks of
arguments, which are the callers' work, and elementwise loops.

Our own products (product.c) are as fast as OpenBLAS's or faster at the shapes of tiles, more so on CPUs for which OpenBLAS picks
narrower kernels, at few rows and at few columns; bench/test_bench_kernels.py has both. SVDFAST_PRODUCTS=blas gives all products to BLAS.

For bfloat16 BLAS has no product. Where the CPU has no instruction for it, operands are rounded, block by block, and multiplied as floats:
the same products, added in another order, and not faster than float.
"""

import os

from cython cimport floating, view
from scipy.linalg.cython_blas cimport dgemm, sgemm

from svdfast._elementwise cimport svdfast_window


cdef extern from "product.h" nogil:
    int svdfast_product_select(const char* name)
    void svdfast_few_rows_apart(int apart) nogil
    void svdfast_product(int transpose_A, int transpose_B, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
                         const float* A, Py_ssize_t lda, const float* B, Py_ssize_t ldb,
                         int accumulate, float* C, Py_ssize_t ldc)
    int svdfast_convolution_fits(const svdfast_window* w, Py_ssize_t c)
    int svdfast_convolution_back_pays(const svdfast_window* w, Py_ssize_t c, Py_ssize_t n)
    void svdfast_convolution(const svdfast_window* w, Py_ssize_t p, Py_ssize_t c, Py_ssize_t n, const float* X, const float* W, float* Y)
    void svdfast_convolution_back(const svdfast_window* w, Py_ssize_t p, Py_ssize_t c, Py_ssize_t n, const float* dY, const float* W,
                                  float* dX)
    void svdfast_convolution_gradient(const svdfast_window* w, Py_ssize_t p, Py_ssize_t c, Py_ssize_t n, const float* X, const float* dY,
                                      Py_ssize_t first, Py_ssize_t stop, int accumulate, float* g)
    int svdfast_bfloat16_select()
    void svdfast_bfloat16_product(int transpose_A, int transpose_B, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
                                  const float* A, Py_ssize_t lda, const float* B, Py_ssize_t ldb,
                                  int accumulate, float* C, Py_ssize_t ldc)
    enum:
        SVDFAST_PACKED
    Py_ssize_t svdfast_packed_size(Py_ssize_t n, Py_ssize_t k)
    void svdfast_pack(int transpose_B, Py_ssize_t n, Py_ssize_t k, const float* B, Py_ssize_t ldb, int i, int count,
                      float* packed)
    void svdfast_round_bfloat16(Py_ssize_t rows, Py_ssize_t columns, const float* X, Py_ssize_t ldx, float* out)

cdef extern from "timing.h" nogil:
    enum:
        SVDFAST_PRODUCTS
    double svdfast_clock()
    void svdfast_add_time(int kind, double start, double operations)
    void svdfast_reset_times()
    double svdfast_total_seconds(int kind)
    double svdfast_total_operations()

cdef bint own_products = False
cdef bint bfloat16_instructions = False
cdef bint measuring = False


cdef void multiply_exactly(bint transpose_A, bint transpose_B, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
                           const floating* A, Py_ssize_t lda, const floating* B, Py_ssize_t ldb,
                           bint accumulate, floating* C, Py_ssize_t ldc) noexcept nogil:
    """BLAS has columns where we have rows, so its view of each matrix is the transpose, and Cᵀ = op(B)ᵀ op(A)ᵀ is what it is asked
    for."""
    cdef:
        char* ta = b"T" if transpose_A else b"N"
        char* tb = b"T" if transpose_B else b"N"
        int m_ = <int> m
        int n_ = <int> n
        int k_ = <int> k
        int lda_ = <int> (lda if lda > 0 else 1)
        int ldb_ = <int> (ldb if ldb > 0 else 1)
        int ldc_ = <int> (ldc if ldc > 0 else 1)
        floating alpha = 1
        floating beta = accumulate
    if floating is float:
        if own_products:
            svdfast_product(transpose_A, transpose_B, m, n, k, A, lda, B, ldb, accumulate, C, ldc)
        else:
            sgemm(tb, ta, &n_, &m_, &k_, &alpha, <float*> B, &ldb_, <float*> A, &lda_, &beta, C, &ldc_)
    else:
        dgemm(tb, ta, &n_, &m_, &k_, &alpha, <double*> B, &ldb_, <double*> A, &lda_, &beta, C, &ldc_)


cdef void multiply_rounded(bint transpose_A, bint transpose_B, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
                           const float* A, Py_ssize_t lda, const float* B, Py_ssize_t ldb,
                           bint accumulate, float* C, Py_ssize_t ldc) noexcept nogil:
    """The product of operands rounded to bfloat16, without an instruction for it.

    It works in blocks of 128×128, which fit on the stack.
    """
    cdef:
        Py_ssize_t i, j, p, m_, n_, k_, block
        # Nearly equal: a product of few rows would be taken another way, in other bits.
        Py_ssize_t n_blocks = (m + 127) // 128
        float[128 * 128] a
        float[128 * 128] b
    # Once also where k is 0, for C's sake.
    for p in range(0, max(k, 1), 128):
        k_ = min(k - p, 128)
        for block in range(n_blocks):
            i = block * m // n_blocks
            m_ = (block + 1) * m // n_blocks - i
            if transpose_A:
                svdfast_round_bfloat16(k_, m_, A + p * lda + i, lda, a)
            else:
                svdfast_round_bfloat16(m_, k_, A + i * lda + p, lda, a)
            for j in range(0, n, 128):
                n_ = min(n - j, 128)
                if transpose_B:
                    svdfast_round_bfloat16(n_, k_, B + j * ldb + p, ldb, b)
                else:
                    svdfast_round_bfloat16(k_, n_, B + p * ldb + j, ldb, b)
                multiply_exactly[float](transpose_A, transpose_B, m_, n_, k_, a, m_ if transpose_A else k_,
                                        b, k_ if transpose_B else n_, accumulate or p > 0, C + i * ldc + j, ldc)


cdef Py_ssize_t packed_size(Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    """Floats that `pack` needs for an op(B) (k×n) that several products take; 0 where nothing is gained: without instructions."""
    return svdfast_packed_size(n, k) if bfloat16_instructions else 0


cdef void pack(bint transpose_B, Py_ssize_t n, Py_ssize_t k, const float* B, Py_ssize_t ldb, int i, int count,
               float* packed) noexcept nogil:
    """The i-th of `count` parts of op(B) (k×n), rounded to bfloat16, as `gemm` takes it where its B is packed."""
    cdef double start = svdfast_clock() if measuring else 0
    svdfast_pack(transpose_B, n, k, B, ldb, i, count, packed)
    if start != 0:
        svdfast_add_time(SVDFAST_PRODUCTS, start, 0)


cdef void gemm(int bfloat16, bint transpose_A, bint transpose_B, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
               const floating* A, Py_ssize_t lda, const floating* B, Py_ssize_t ldb,
               bint accumulate, floating* C, Py_ssize_t ldc) noexcept nogil:
    """C := op(A) op(B), or += where `accumulate`, with op(A) (m×k), op(B) (k×n), C (m×n), rows lda, ldb, ldc elements apart.

    Every size must fit BLAS's int. `bfloat16`, of float only: 1 of operands rounded to it, 2 also with B packed by `pack`.
    """
    cdef double start = 0
    if m == 0 or n == 0:
        return
    if measuring:
        start = svdfast_clock()
    if floating is float:
        if not bfloat16:
            multiply_exactly[float](transpose_A, transpose_B, m, n, k, A, lda, B, ldb, accumulate, C, ldc)
        elif bfloat16_instructions:
            svdfast_bfloat16_product(transpose_A, SVDFAST_PACKED if bfloat16 == 2 else transpose_B, m, n, k, A, lda, B, ldb,
                                     accumulate, C, ldc)
        else:
            multiply_rounded(transpose_A, transpose_B, m, n, k, A, lda, B, ldb, accumulate, C, ldc)
    else:
        multiply_exactly[double](transpose_A, transpose_B, m, n, k, A, lda, B, ldb, accumulate, C, ldc)
    if start != 0:
        svdfast_add_time(SVDFAST_PRODUCTS, start, 2.0 * m * n * k)


cdef void few_rows_apart(bint apart) noexcept nogil:
    """Whether products of this thread may go another, faster way for few rows, in other bits. Not at first."""
    svdfast_few_rows_apart(apart)


cdef bint convolves(const svdfast_window* w, Py_ssize_t c) noexcept nogil:
    """True if `convolution` and `convolution_gradient` may be called for images of c channels."""
    return own_products and svdfast_convolution_fits(w, c)


cdef bint convolves_back(const svdfast_window* w, Py_ssize_t c, Py_ssize_t n) noexcept nogil:
    """True if `convolution_back` may be called, and is faster than a product with W."""
    return own_products and svdfast_convolution_back_pays(w, c, n)


cdef void convolution(const svdfast_window* w, Py_ssize_t p, Py_ssize_t c, Py_ssize_t n, const float* X, const float* W,
                      float* Y) noexcept nogil:
    """Y := P·Wᵀ without P, the patches of p images X of c channels, with W (n, tall·wide·c)."""
    cdef double start = svdfast_clock() if measuring else 0
    svdfast_convolution(w, p, c, n, X, W, Y)
    if start != 0:
        svdfast_add_time(SVDFAST_PRODUCTS, start, operations(w, p, c, n))


cdef void convolution_back(const svdfast_window* w, Py_ssize_t p, Py_ssize_t c, Py_ssize_t n, const float* dY, const float* W,
                           float* dX) noexcept nogil:
    """dX := dY·W, each number added to the position of X that it belongs to."""
    cdef double start = svdfast_clock() if measuring else 0
    svdfast_convolution_back(w, p, c, n, dY, W, dX)
    if start != 0:
        svdfast_add_time(SVDFAST_PRODUCTS, start, operations(w, p, c, n))


cdef void convolution_gradient(const svdfast_window* w, Py_ssize_t p, Py_ssize_t c, Py_ssize_t n, const float* X, const float* dY,
                               Py_ssize_t first, Py_ssize_t stop, bint accumulate, float* g) noexcept nogil:
    """g (stop - first, tall·wide·c) := rows first .. stop of dYᵀ·P, or +=."""
    cdef double start = svdfast_clock() if measuring else 0
    svdfast_convolution_gradient(w, p, c, n, X, dY, first, stop, accumulate, g)
    if start != 0:
        svdfast_add_time(SVDFAST_PRODUCTS, start, operations(w, p, c, stop - first))


cdef inline double operations(const svdfast_window* w, Py_ssize_t p, Py_ssize_t c, Py_ssize_t n) noexcept nogil:
    return 2.0 * p * w.rows * w.columns * w.tall * w.wide * c * n


def multiply(const floating[:, ::1] A, const floating[:, ::1] B, floating[:, ::1] C, bint transpose_A=False,
             bint transpose_B=False, bint accumulate=False, bint bfloat16=False, int n_parts=0, bint apart=False):
    """`gemm` on arrays: C := op(A) op(B), or +=. For tests; checks little. `n_parts`, with bfloat16: B is packed before, in so many
    parts, where it can be. `apart`: see `few_rows_apart`."""
    cdef:
        Py_ssize_t m = A.shape[1] if transpose_A else A.shape[0]
        Py_ssize_t k = A.shape[0] if transpose_A else A.shape[1]
        Py_ssize_t n = B.shape[0] if transpose_B else B.shape[1]
        const floating* a
        const floating* b
        float[::1] packed
        int i
    if (B.shape[1] if transpose_B else B.shape[0]) != k or C.shape[0] != m or C.shape[1] != n:
        raise ValueError("the shapes of op(A), op(B) and C do not fit")
    if bfloat16 and floating is double:
        raise ValueError("bfloat16 is for float32")
    if m == 0 or n == 0:
        return
    a = &A[0, 0] if k > 0 else NULL
    b = &B[0, 0] if k > 0 else NULL
    if floating is float:
        if bfloat16 and n_parts > 0 and packed_size(n, k) > 0:
            packed = view.array((packed_size(n, k),), itemsize=sizeof(float), format="f")
            for i in range(n_parts):
                pack(transpose_B, n, k, b, B.shape[1], i, n_parts, &packed[0])
            gemm[float](2, transpose_A, transpose_B, m, n, k, a, A.shape[1], &packed[0], 0, accumulate, &C[0, 0], n)
            return
    with nogil:
        few_rows_apart(apart)
        gemm[floating](bfloat16, transpose_A, transpose_B, m, n, k, a, A.shape[1], b, B.shape[1], accumulate, &C[0, 0], n)
        few_rows_apart(False)


def measure(bint on):
    """Begins to time the products and to count their operations, from 0, or ends it. For svdfast/_process/timing.py, which sees to it
    that it ends."""
    global measuring
    if on:
        svdfast_reset_times()
    measuring = on


def measured():
    """Seconds of all threads in products, and operations, 2·m·n·k each."""
    return svdfast_total_seconds(SVDFAST_PRODUCTS), int(svdfast_total_operations())


cdef bint by_blas(bint is_double) noexcept nogil:
    """True if products of that type are BLAS's.

    Their rounding may depend on the number of rows in a call.
    """
    return is_double or not own_products


def float32_products():
    """Whose products of float32 matrices are used: "svdfast" or "BLAS"."""
    return "svdfast" if own_products else "BLAS"


def bfloat16_products():
    """How float32 matrices rounded to bfloat16 are multiplied: by the CPU's "instructions", or "emulated"."""
    return "instructions" if bfloat16_instructions else "emulated"


def use_own_products(bint wanted, str instruction_set=None, bint bfloat16=True):
    """Chooses between our own products of float matrices and BLAS's, for all threads. Returns whether ours are used now.

    `instruction_set`: "avx2" or "avx512" instead of the best that the CPU has. `bfloat16`: whether instructions for it may be used; they
    are not with "avx2", nor where all products are BLAS's.
    """
    global own_products, bfloat16_instructions
    cdef const char* name = NULL
    if instruction_set is not None:
        encoded = instruction_set.encode()
        name = encoded
    own_products = wanted and svdfast_product_select(name)
    bfloat16_instructions = own_products and bfloat16 and instruction_set != "avx2" and svdfast_bfloat16_select()
    return own_products


def _choose():
    wanted = os.environ.get("SVDFAST_PRODUCTS", "")
    if wanted not in ("", "blas", "svdfast"):
        raise ImportError(f"SVDFAST_PRODUCTS={wanted!r}: expected blas or svdfast")
    if not use_own_products(wanted != "blas") and wanted == "svdfast":
        raise ImportError("SVDFAST_PRODUCTS='svdfast': this CPU or this build has neither AVX2 nor AVX-512")


_choose()
