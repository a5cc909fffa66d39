# SPDX-License-Identifier: BSD-3-Clause
"""The kernels of one layer for Cython code: `from svdfast.cython_kernels cimport ...`.

    p   samples            X  (p, m)   inputs            dX (p, m)   ∂ loss / ∂X
    m   inputs             W  (n, m)   dense weight      dW (n, m)
    n   outputs            W1 (n, l), W2 (l, m) factors  dW1, dW2
    l   rank               b  (n)      bias              db (n)
                           H  (p, l)   X·W2ᵀ             D  (p, l)   dZ·W1
                           Z  (p, n)   pre-activation    dZ (p, n)   dA on entry,
                           A  (p, n)   f(Z)                          ∂ loss / ∂Z on return

All arrays are C-contiguous float or double. No argument is checked. Sizes fit a C int.
`activation` is a code that `activation_code` gave, `parameter` its slope or scale. A and
Z may be the same array unless the activation's derivative reads Z, as "gelu", "gelu_tanh"
and "silu" do (`svdfast.activations.Activation.backward_reads`). `bfloat16` is 1 if the
operands of float products are rounded to bfloat16, else 0; double ignores it. No kernel
needs the GIL, allocates or keeps anything, so any number of threads may call.

If BLAS has several threads, these kernels use them. Keep it at one thread if you call
from threads of your own.
"""

from cython cimport floating

# The code of an activation by its name, such as "relu"; unknown: ValueError. Needs the GIL.
cdef int activation_code(str name) except -1

cdef void dense_forward(
    const floating* X, const floating* W, const floating* b,      # IN
    floating* Z, floating* A,                                     # OUT; A may be Z: above
    Py_ssize_t p, Py_ssize_t m, Py_ssize_t n,
    int activation, double parameter, int bfloat16) noexcept nogil

cdef void dense_backward(
    const floating* X, const floating* W,                         # IN
    const floating* Z, const floating* A,                         # IN
    floating* dZ,                                                 # IN dA, OUT dZ
    floating* dW, floating* db, floating* dX,                     # OUT; dX NULL: not formed
    Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, int activation, double parameter,
    bint accumulate, int bfloat16) noexcept nogil                 # add to dW and db

cdef void factored_forward(
    const floating* X, const floating* W1, const floating* W2,    # IN
    const floating* b,                                            # IN
    floating* H, floating* Z, floating* A,                        # OUT; A may be Z: above
    Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, Py_ssize_t l,
    int activation, double parameter, int bfloat16) noexcept nogil

cdef void factored_backward(
    const floating* X, const floating* H,                         # IN
    const floating* W1, const floating* W2,                       # IN
    const floating* Z, const floating* A,                         # IN
    floating* dZ, floating* D,                                    # IN dA, OUT dZ; scratch
    floating* dW1, floating* dW2, floating* db, floating* dX,     # OUT; dX NULL: not formed
    Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, Py_ssize_t l,
    int activation, double parameter,
    bint accumulate, int bfloat16) noexcept nogil                 # add to dW1, dW2 and db
