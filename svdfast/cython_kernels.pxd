# SPDX-License-Identifier: BSD-3-Clause
"""The kernels of one layer for other Cython code: `from svdfast.cython_kernels cimport factored_forward`.

    p   samples            X  (p, m)   inputs               dX (p, m)   ∂ loss / ∂X
    m   inputs             W  (n, m)   dense weight         dW (n, m)
    n   outputs            W1 (n, l), W2 (l, m)  factors    dW1, dW2
    l   rank               b  (n)      bias                 db (n)
                           H  (p, l)   X·W2ᵀ                D  (p, l)   dZ·W1
                           Z  (p, n)   pre-activation       dZ (p, n)   dA on entry, ∂ loss / ∂Z on return
                           A  (p, n)   f(Z)

All arrays are C-contiguous float or double; no argument is checked; sizes fit a C int. `activation` is a code that
`activation_code` gave, `parameter` its slope or scale. A and Z may be the same array unless the
activation's derivative reads Z (GELU; `svdfast.activations.Activation.backward_reads` says so). Other derivatives
do not read Z. `bfloat16`: 1 if the operands of the matrix products, of float, are rounded to bfloat16,
else 0; ignored for double. No kernel needs the GIL, allocates or keeps anything, so any number of threads may call.

Where BLAS runs several threads of its own, so do these; keep it at one when you call from threads of yours.
"""

from cython cimport floating

# The code of an activation by its name, such as "relu". ValueError: unknown name. Needs the GIL.
cdef int activation_code(str name) except -1

cdef void dense_forward(
    const floating* X, const floating* W, const floating* b,                # IN
    floating* Z, floating* A,                                               # OUT; A may be Z, as said above
    Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, int activation, double parameter, int bfloat16) noexcept nogil

cdef void dense_backward(
    const floating* X, const floating* W, const floating* Z, const floating* A,     # IN
    floating* dZ,                                                           # IN dA, OUT dZ
    floating* dW, floating* db, floating* dX,                               # OUT; dX NULL: not formed
    Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, int activation, double parameter,
    bint accumulate, int bfloat16) noexcept nogil  # add to dW and db

cdef void factored_forward(
    const floating* X, const floating* W1, const floating* W2, const floating* b,   # IN
    floating* H, floating* Z, floating* A,                                  # OUT; A may be Z, as said above
    Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, Py_ssize_t l, int activation, double parameter, int bfloat16) noexcept nogil

cdef void factored_backward(
    const floating* X, const floating* H, const floating* W1, const floating* W2,   # IN
    const floating* Z, const floating* A,                                   # IN
    floating* dZ, floating* D,                                              # IN dA, OUT dZ; scratch
    floating* dW1, floating* dW2, floating* db, floating* dX,               # OUT; dX NULL: not formed
    Py_ssize_t p, Py_ssize_t m, Py_ssize_t n, Py_ssize_t l, int activation, double parameter,
    bint accumulate, int bfloat16) noexcept nogil  # add to dW1, dW2 and db
