# SPDX-License-Identifier: BSD-3-Clause
"""One layer over p rows of samples: dense and factored, forward and backward, on plain pointers.

Symbols and shapes stand in cython_kernels.pxd. Not here: networks, threads, losses and updates (_engine.pyx), and checks of
arguments (svdfast/kernels.py).

Design
- Samples lie in rows, so a layer Z = W·X + b of column samples reads Z = X·Wᵀ + b here: the same memory.
- Each kernel is products and one pass over their result. Bias and activation share the pass of the forward product; the
  activation's derivative has the pass before the backward products, the bias's gradient one of its own, which the engine does otherwise.
- The factored backward forms D = ∂Z·W1 once, for ∂W2 and ∂X, and takes H = X·W2ᵀ from the forward kernel.
- Backward has two halves. The deltas (∂Z, D, ∂X) are of rows of samples, the weights' gradients of rows of weights; the engine splits
  each over threads by its own rows.
"""

from cython cimport floating
from libc.string cimport memset

from svdfast._blas cimport gemm
from svdfast._elementwise cimport elementwise

from svdfast._elementwise import ACTIVATIONS


cdef int activation_code(str name) except -1:
    if name not in ACTIVATIONS:
        raise ValueError(f"name: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


cdef void dense_forward(
        const floating* X, const floating* W, const floating* b, floating* Z, floating* A,
        Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, int activation, double parameter, int bfloat16) noexcept nogil:
    # Z (p×n) = X (p×m) · W (n×m)ᵀ
    gemm[floating](bfloat16, False, True, p, n, m, X, m, W, m, False, Z, n)
    # A = f(Z + b)
    elementwise(sizeof(floating)).bias_activation(activation, parameter, p, n, b, Z, A)


cdef void bias_gradient(const floating* dZ, floating* db, Py_ssize_t p, Py_ssize_t n, bint accumulate) noexcept nogil:
    """db (n) = or += the sum over rows of dZ (p×n); nothing where db is NULL."""
    if db != NULL:
        if not accumulate:
            memset(db, 0, n * sizeof(floating))
        elementwise(sizeof(floating)).add_rows(p, n, dZ, n, db)


cdef void dense_backward_deltas(
        const floating* W, const floating* Z, const floating* A, floating* dZ, floating* db, floating* dX,
        Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, int activation, double parameter,
        bint accumulate, int bfloat16) noexcept nogil:
    # dZ = dA * f'(Z)
    elementwise(sizeof(floating)).activation_backward(activation, parameter, p, n, Z, A, dZ)
    bias_gradient[floating](dZ, db, p, n, accumulate)
    if dX != NULL:
        # dX (p×m) = dZ (p×n) · W (n×m)
        gemm[floating](bfloat16, False, False, p, m, n, dZ, n, W, m, False, dX, m)


cdef void weight_gradient(
        const floating* X, const floating* dZ, floating* dW,
        Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, Py_ssize_t first, Py_ssize_t stop,
        bint accumulate, int bfloat16) noexcept nogil:
    # dW (n×m) = dZ (p×n)ᵀ · X (p×m)
    gemm[floating](bfloat16, True, False, stop - first, m, p, dZ + first, n, X, m, accumulate, dW, m)


cdef void dense_backward(
        const floating* X, const floating* W, const floating* Z, const floating* A, floating* dZ,
        floating* dW, floating* db, floating* dX,
        Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, int activation, double parameter,
        bint accumulate, int bfloat16) noexcept nogil:
    dense_backward_deltas[floating](W, Z, A, dZ, db, dX, p, m, n, activation, parameter, accumulate, bfloat16)
    weight_gradient[floating](X, dZ, dW, p, m, n, 0, n, accumulate, bfloat16)


cdef void factored_forward(
        const floating* X, const floating* W1, const floating* W2, const floating* b,
        floating* H, floating* Z, floating* A,
        Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, Py_ssize_t l, int activation, double parameter, int bfloat16) noexcept nogil:
    # H (p×l) = X (p×m) · W2 (l×m)ᵀ
    gemm[floating](bfloat16, False, True, p, l, m, X, m, W2, m, False, H, l)
    # Z (p×n) = H (p×l) · W1 (n×l)ᵀ
    gemm[floating](bfloat16, False, True, p, n, l, H, l, W1, l, False, Z, n)
    # A = f(Z + b)
    elementwise(sizeof(floating)).bias_activation(activation, parameter, p, n, b, Z, A)


cdef void factored_backward_deltas(
        const floating* W1, const floating* W2, const floating* Z, const floating* A,
        floating* dZ, floating* D, floating* db, floating* dX,
        Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, Py_ssize_t l, int activation, double parameter,
        bint accumulate, int bfloat16) noexcept nogil:
    # dZ = dA * f'(Z)
    elementwise(sizeof(floating)).activation_backward(activation, parameter, p, n, Z, A, dZ)
    bias_gradient[floating](dZ, db, p, n, accumulate)
    # D (p×l) = dZ (p×n) · W1 (n×l)
    gemm[floating](bfloat16, False, False, p, l, n, dZ, n, W1, l, False, D, l)
    if dX != NULL:
        # dX (p×m) = D (p×l) · W2 (l×m)
        gemm[floating](bfloat16, False, False, p, m, l, D, l, W2, m, False, dX, m)


cdef void factored_backward(
        const floating* X, const floating* H, const floating* W1, const floating* W2,
        const floating* Z, const floating* A, floating* dZ, floating* D,
        floating* dW1, floating* dW2, floating* db, floating* dX,
        Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, Py_ssize_t l, int activation, double parameter,
        bint accumulate, int bfloat16) noexcept nogil:
    factored_backward_deltas[floating](W1, W2, Z, A, dZ, D, db, dX, p, m, n, l, activation, parameter, accumulate, bfloat16)
    weight_gradient[floating](H, dZ, dW1, p, l, n, 0, n, accumulate, bfloat16)
    weight_gradient[floating](X, D, dW2, p, m, l, 0, l, accumulate, bfloat16)


# The same for arrays, called by kernels.py, which has checked types and shapes. A pointer to the first element of an empty array
# is never read.

cdef const floating* first_of(const floating[:, ::1] a) noexcept:
    return &a[0, 0] if a.shape[0] > 0 and a.shape[1] > 0 else NULL


cdef floating* first_to_write(floating[:, ::1] a) noexcept:
    return &a[0, 0] if a.shape[0] > 0 and a.shape[1] > 0 else NULL


def run_dense_forward(const floating[:, ::1] X, const floating[:, ::1] W, const floating[:, ::1] b,
                      floating[:, ::1] Z, floating[:, ::1] A, int activation, double parameter, bint bfloat16):
    cdef:
        const floating* X_ = first_of[floating](X)
        const floating* W_ = first_of[floating](W)
        const floating* b_ = first_of[floating](b)
        floating* Z_ = first_to_write[floating](Z)
        floating* A_ = first_to_write[floating](A)
        Py_ssize_t p = X.shape[0], m = X.shape[1], n = W.shape[0]
    with nogil:
        dense_forward[floating](X_, W_, b_, Z_, A_, p, m, n, activation, parameter, bfloat16)


def run_dense_backward(const floating[:, ::1] X, const floating[:, ::1] W, const floating[:, ::1] Z,
                       const floating[:, ::1] A, floating[:, ::1] dZ, floating[:, ::1] dW, floating[:, ::1] db,
                       floating[:, ::1] dX, int activation, double parameter, bint bfloat16):
    cdef:
        const floating* X_ = first_of[floating](X)
        const floating* W_ = first_of[floating](W)
        const floating* Z_ = first_of[floating](Z)
        const floating* A_ = first_of[floating](A)
        floating* dZ_ = first_to_write[floating](dZ)
        floating* dW_ = first_to_write[floating](dW)
        floating* db_ = first_to_write[floating](db)
        floating* dX_ = NULL if dX is None else first_to_write[floating](dX)
        Py_ssize_t p = X.shape[0], m = X.shape[1], n = W.shape[0]
    with nogil:
        dense_backward[floating](X_, W_, Z_, A_, dZ_, dW_, db_, dX_, p, m, n, activation, parameter, False, bfloat16)


def run_factored_forward(const floating[:, ::1] X, const floating[:, ::1] W1, const floating[:, ::1] W2,
                         const floating[:, ::1] b, floating[:, ::1] H, floating[:, ::1] Z, floating[:, ::1] A,
                         int activation, double parameter, bint bfloat16):
    cdef:
        const floating* X_ = first_of[floating](X)
        const floating* W1_ = first_of[floating](W1)
        const floating* W2_ = first_of[floating](W2)
        const floating* b_ = first_of[floating](b)
        floating* H_ = first_to_write[floating](H)
        floating* Z_ = first_to_write[floating](Z)
        floating* A_ = first_to_write[floating](A)
        Py_ssize_t p = X.shape[0], m = X.shape[1], n = W1.shape[0], l = W2.shape[0]
    with nogil:
        factored_forward[floating](X_, W1_, W2_, b_, H_, Z_, A_, p, m, n, l, activation, parameter, bfloat16)


def run_factored_backward(const floating[:, ::1] X, const floating[:, ::1] H, const floating[:, ::1] W1,
                          const floating[:, ::1] W2, const floating[:, ::1] Z, const floating[:, ::1] A,
                          floating[:, ::1] dZ, floating[:, ::1] D, floating[:, ::1] dW1, floating[:, ::1] dW2,
                          floating[:, ::1] db, floating[:, ::1] dX, int activation, double parameter, bint bfloat16):
    cdef:
        const floating* X_ = first_of[floating](X)
        const floating* H_ = first_of[floating](H)
        const floating* W1_ = first_of[floating](W1)
        const floating* W2_ = first_of[floating](W2)
        const floating* Z_ = first_of[floating](Z)
        const floating* A_ = first_of[floating](A)
        floating* dZ_ = first_to_write[floating](dZ)
        floating* D_ = first_to_write[floating](D)
        floating* dW1_ = first_to_write[floating](dW1)
        floating* dW2_ = first_to_write[floating](dW2)
        floating* db_ = first_to_write[floating](db)
        floating* dX_ = NULL if dX is None else first_to_write[floating](dX)
        Py_ssize_t p = X.shape[0], m = X.shape[1], n = W1.shape[0], l = W2.shape[0]
    with nogil:
        factored_backward[floating](X_, H_, W1_, W2_, Z_, A_, dZ_, D_, dW1_, dW2_, db_, dX_, p, m, n, l, activation,
                                    parameter, False, bfloat16)
