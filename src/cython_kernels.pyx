# SPDX-License-Identifier: BSD-3-Clause
"""One layer over p rows of samples: dense and factored, forward and backward, on plain pointers.

Symbols and shapes are defined in cython_kernels.pxd. Elsewhere: networks, whose engine has
operations of its own (src/ops), and checks of arguments (svdfast/kernels.py).

Design
- Samples lie in rows, so a layer Z = W·X + b of column samples reads Z = X·Wᵀ + b here: the same memory.
- Each kernel is products and one pass over their result. Bias and activation share the pass of the forward product; the
  activation's derivative has the pass before the backward products, the bias's gradient one of its own.
- The factored backward forms D = ∂Z·W1 once, for ∂W2 and ∂X, and takes H = X·W2ᵀ from the forward kernel.
"""

from cython cimport floating
from libc.string cimport memset

from svdfast._blas cimport gemm
from svdfast._elementwise cimport elementwise

from svdfast._elementwise import ACTIVATIONS as _ACTIVATIONS


cdef int activation_code(str name) except -1:
    if name not in _ACTIVATIONS:
        raise ValueError(f"name: expected one of {', '.join(_ACTIVATIONS)}, got {name!r}")
    return _ACTIVATIONS[name]


cdef void dense_forward(
        const floating* X, const floating* W, const floating* b, floating* Z, floating* A,
        Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, int activation, double parameter, int bfloat16) noexcept nogil:
    # Z (p×n) = X (p×m) · W (n×m)ᵀ
    gemm[floating](bfloat16, False, True, p, n, m, X, m, W, m, False, Z, n)
    # A = f(Z + b)
    elementwise(sizeof(floating)).bias_activation(activation, parameter, p, n, b, Z, A)


cdef void activation_gradient(
        const floating* Z, const floating* A, floating* dZ, floating* db,
        Py_ssize_t p, Py_ssize_t n, int activation, double parameter,
        bint accumulate) noexcept nogil:
    # dZ = dA * f'(Z)
    elementwise(sizeof(floating)).activation_backward(activation, parameter, p, n, Z, A, dZ)
    # db (n) = or += the sum over rows of dZ (p×n)
    if not accumulate and n > 0:  # a pointer of an empty array is NULL
        memset(db, 0, n * sizeof(floating))
    elementwise(sizeof(floating)).add_rows(p, n, dZ, n, db)


cdef void dense_backward(
        const floating* X, const floating* W, const floating* Z, const floating* A, floating* dZ,
        floating* dW, floating* db, floating* dX,
        Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, int activation, double parameter,
        bint accumulate, int bfloat16) noexcept nogil:
    activation_gradient[floating](Z, A, dZ, db, p, n, activation, parameter, accumulate)
    if dX != NULL:
        # dX (p×m) = dZ (p×n) · W (n×m)
        gemm[floating](bfloat16, False, False, p, m, n, dZ, n, W, m, False, dX, m)
    # dW (n×m) = dZ (p×n)ᵀ · X (p×m)
    gemm[floating](bfloat16, True, False, n, m, p, dZ, n, X, m, accumulate, dW, m)


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


cdef void factored_backward(
        const floating* X, const floating* H, const floating* W1, const floating* W2,
        const floating* Z, const floating* A, floating* dZ, floating* D,
        floating* dW1, floating* dW2, floating* db, floating* dX,
        Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, Py_ssize_t l, int activation, double parameter,
        bint accumulate, int bfloat16) noexcept nogil:
    activation_gradient[floating](Z, A, dZ, db, p, n, activation, parameter, accumulate)
    # D (p×l) = dZ (p×n) · W1 (n×l)
    gemm[floating](bfloat16, False, False, p, l, n, dZ, n, W1, l, False, D, l)
    if dX != NULL:
        # dX (p×m) = D (p×l) · W2 (l×m)
        gemm[floating](bfloat16, False, False, p, m, l, D, l, W2, m, False, dX, m)
    # dW1 (n×l) = dZ (p×n)ᵀ · H (p×l), dW2 (l×m) = D (p×l)ᵀ · X (p×m)
    gemm[floating](bfloat16, True, False, n, l, p, dZ, n, H, l, accumulate, dW1, l)
    gemm[floating](bfloat16, True, False, l, m, p, D, l, X, m, accumulate, dW2, m)


# The same for arrays, called by kernels.py, which has checked types and shapes. A pointer to the first element of an empty array
# is never read.

cdef floating* of(const floating[:, ::1] a) noexcept nogil:
    """The first element; NULL of None. The caller knows whether it may be written to."""
    return <floating*> &a[0, 0] if a is not None and a.shape[0] > 0 and a.shape[1] > 0 else NULL


def run_dense_forward(const floating[:, ::1] X, const floating[:, ::1] W, const floating[:, ::1] b,
                      floating[:, ::1] Z, floating[:, ::1] A, int activation, double parameter, bint bfloat16):
    with nogil:
        dense_forward[floating](
            of[floating](X), of[floating](W), of[floating](b), of[floating](Z), of[floating](A),
            X.shape[0], X.shape[1], W.shape[0], activation, parameter, bfloat16)


def run_dense_backward(const floating[:, ::1] X, const floating[:, ::1] W, const floating[:, ::1] Z,
                       const floating[:, ::1] A, floating[:, ::1] dZ, floating[:, ::1] dW, floating[:, ::1] db,
                       floating[:, ::1] dX, int activation, double parameter, bint bfloat16):
    with nogil:
        dense_backward[floating](
            of[floating](X), of[floating](W), of[floating](Z), of[floating](A), of[floating](dZ),
            of[floating](dW), of[floating](db), of[floating](dX),
            X.shape[0], X.shape[1], W.shape[0], activation, parameter, False, bfloat16)


def run_factored_forward(const floating[:, ::1] X, const floating[:, ::1] W1, const floating[:, ::1] W2,
                         const floating[:, ::1] b, floating[:, ::1] H, floating[:, ::1] Z, floating[:, ::1] A,
                         int activation, double parameter, bint bfloat16):
    with nogil:
        factored_forward[floating](
            of[floating](X), of[floating](W1), of[floating](W2), of[floating](b),
            of[floating](H), of[floating](Z), of[floating](A),
            X.shape[0], X.shape[1], W1.shape[0], W2.shape[0], activation, parameter, bfloat16)


def run_factored_backward(const floating[:, ::1] X, const floating[:, ::1] H, const floating[:, ::1] W1,
                          const floating[:, ::1] W2, const floating[:, ::1] Z, const floating[:, ::1] A,
                          floating[:, ::1] dZ, floating[:, ::1] D, floating[:, ::1] dW1, floating[:, ::1] dW2,
                          floating[:, ::1] db, floating[:, ::1] dX, int activation, double parameter, bint bfloat16):
    with nogil:
        factored_backward[floating](
            of[floating](X), of[floating](H), of[floating](W1), of[floating](W2),
            of[floating](Z), of[floating](A), of[floating](dZ), of[floating](D),
            of[floating](dW1), of[floating](dW2), of[floating](db), of[floating](dX),
            X.shape[0], X.shape[1], W1.shape[0], W2.shape[0],
            activation, parameter, False, bfloat16)
