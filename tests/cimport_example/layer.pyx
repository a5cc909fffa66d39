# SPDX-License-Identifier: BSD-3-Clause
"""An example of another package's Cython code that calls the kernels: a layer's outputs and gradients.

The kernels check nothing: types and C order are seen to by the signatures here, shapes by `check`.
"""

import numpy as np

from cython cimport floating

from svdfast cimport cython_kernels as kernels


def check(X, weights, b, dA):
    """(p, m), weights of a layer from m to n in the order of their use, (n,) and (p, n); none empty."""
    n_in = X.shape[1]
    for W in weights:
        if W.shape[1] != n_in:
            raise ValueError(f"expected {n_in} columns, got {W.shape}")
        n_in = W.shape[0]
    if b.shape != (n_in,) or dA.shape != (X.shape[0], n_in):
        raise ValueError(f"expected {n_in} outputs, got {b.shape} and {dA.shape}")
    if min(*X.shape, *dA.shape, *weights[0].shape) == 0:
        raise ValueError("an empty array has no first element to point to")


def dense(const floating[:, ::1] X, const floating[:, ::1] W, const floating[::1] b, const floating[:, ::1] dA):
    """Outputs of a tanh layer, and (dX, dW, db) of dA."""
    cdef Py_ssize_t p = X.shape[0], m = X.shape[1], n = W.shape[0]
    check(np.asarray(X), [np.asarray(W)], np.asarray(b), np.asarray(dA))
    dtype = np.asarray(X).dtype
    cdef:
        floating[:, ::1] A = np.empty((p, n), dtype)
        floating[:, ::1] dZ = np.array(dA)
        floating[:, ::1] dX = np.empty((p, m), dtype)
        floating[:, ::1] dW = np.empty((n, m), dtype)
        floating[::1] db = np.empty(n, dtype)
        floating* Z = &A[0, 0]      # tanh's derivative needs A only: it may take Z's place
        int tanh = kernels.activation_code("tanh")
    with nogil:
        kernels.dense_forward[floating](&X[0, 0], &W[0, 0], &b[0], Z, &A[0, 0], p, m, n, tanh, 0, False)
        kernels.dense_backward[floating](&X[0, 0], &W[0, 0], Z, &A[0, 0], &dZ[0, 0], &dW[0, 0], &db[0], &dX[0, 0],
                                         p, m, n, tanh, 0, False, False)
    return np.asarray(A), np.asarray(dX), np.asarray(dW), np.asarray(db)


def factored(const floating[:, ::1] X, const floating[:, ::1] W1, const floating[:, ::1] W2, const floating[::1] b,
             const floating[:, ::1] dA):
    """Outputs of a GELU layer, and (dW1, dW2, db) of dA taken twice over: the second time is added to the first."""
    cdef Py_ssize_t p = X.shape[0], m = X.shape[1], n = W1.shape[0], l = W2.shape[0]
    check(np.asarray(X), [np.asarray(W2), np.asarray(W1)], np.asarray(b), np.asarray(dA))
    dtype = np.asarray(X).dtype
    cdef:
        floating[:, ::1] H = np.empty((p, l), dtype)
        floating[:, ::1] Z = np.empty((p, n), dtype)
        floating[:, ::1] A = np.empty((p, n), dtype)
        floating[:, ::1] dZ = np.empty((p, n), dtype)
        floating[:, ::1] D = np.empty((p, l), dtype)
        floating[:, ::1] dW1 = np.empty((n, l), dtype)
        floating[:, ::1] dW2 = np.empty((l, m), dtype)
        floating[::1] db = np.empty(n, dtype)
        bint accumulate
        int gelu = kernels.activation_code("gelu")
    with nogil:
        kernels.factored_forward[floating](&X[0, 0], &W1[0, 0], &W2[0, 0], &b[0], &H[0, 0], &Z[0, 0], &A[0, 0],
                                           p, m, n, l, gelu, 0, False)
    for accumulate in range(2):
        dZ[...] = dA
        with nogil:
            kernels.factored_backward[floating](
                &X[0, 0], &H[0, 0], &W1[0, 0], &W2[0, 0], &Z[0, 0], &A[0, 0], &dZ[0, 0], &D[0, 0],
                &dW1[0, 0], &dW2[0, 0], &db[0], NULL, p, m, n, l, gelu, 0, accumulate, False)
    return np.asarray(A), np.asarray(dW1), np.asarray(dW2), np.asarray(db)


def code(name):
    """The code of an activation."""
    return kernels.activation_code(name)
