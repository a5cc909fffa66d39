# SPDX-License-Identifier: BSD-3-Clause
"""What an operation is to the engine: its functions, and what these are given.

    p   samples of a tile            X (p·r, m)   input        dX   its delta, ∂ loss / ∂X
    r   rows per sample of X         Y            output       dY   its delta
                                     W (n, m)     parameters   dW   their gradient

A value with r rows per sample is a matrix of p·r rows: steps of sequences, positions in images. In a loop an
operation is called once for each step, with p rows of each such value: rows of a tile go step by step there. All
arrays are C-contiguous, of float or double: a Kind has functions of one type. They need no GIL,
allocate nothing and keep nothing. Any number of threads calls them, each with rows
of its own; `part` with columns of its own.

An operation is one file: forward, backward and gradient beside each other, and at its end

    KIND = capsule(kinds)

Elsewhere: where values lie, threads and updates (src/engine/_engine.pyx).
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t


cdef struct Tile:
    Py_ssize_t p
    Py_ssize_t rows     # of X in this call: p·r, in a loop p
    void* X             # to be read; an operation that overwrites its input has Y = X
    void* Y
    void* dX            # NULL: nobody needs it
    void* dY            # an operation that overwrites its output's delta has dX = dY
    int bfloat16        # 1: products round their operands; 2: W is packed, too
    void* others[8]     # other values, or their deltas (NULL: nobody needs it), of this step
    Py_ssize_t step     # in a loop: which one, in the order of the forward pass
    Py_ssize_t first    # place of the first sample in the batch
    uint64_t key        # of a training's step, for what is random; 0 outside of training
    void* carried[2]    # states with which the batch before ended, a row a sample; NULL: zeros
    void* left[2]       # where those go with which this one ends; NULL: nowhere

cdef struct Place:      # of a matrix in the scratch: its start, and bytes for a sample
    char* start         # NULL: there is none, and the others are 0
    Py_ssize_t step
    Py_ssize_t row      # in a loop: bytes of a row, of which there is one for each step; else 0

cdef struct Kind        # below

cdef struct Operation:
    const Kind* kind
    Py_ssize_t n, m     # rows and columns of the parameters; where there are none, columns of Y and of X
    Py_ssize_t rows_per_sample      # r of X
    int code            # the operation's own: an activation, say
    double parameter    # of that
    Py_ssize_t sizes[12]    # the operation's own: of a kernel, say
    # What follows is the engine's: where the values lie, and where the parameters (-1: there are none).
    Place X, Y, dX, dY
    Place others[8]
    int n_others
    int loop_stop       # of the first operation of a loop: the one after its last; else 0
    Py_ssize_t steps    # of the loop that it is in; else 0
    bint reverse        # the last step is the first one
    int n_carried       # states that a batch may begin with as the one before ended: a cell's, and its memory
    Py_ssize_t carried[2]           # their places, in bytes, in a vector of them; each has n numbers a sample
    Py_ssize_t carried_step         # bytes of these
    bint reads_samples  # X are the samples themselves, which may lie elsewhere
    bint decays         # the parameters are a weight: penalties and decay are for it, and threads share its rows
    Py_ssize_t place
    Py_ssize_t group    # a stretch of the weights with a learning rate of its own
    Py_ssize_t penalties            # place of the first
    Py_ssize_t packed_forward, packed_backward      # places of packed parameters; -1: there are none

# W is as `pack` made it where tile.bfloat16 is 2.
ctypedef void (*Pass)(const Operation* op, const Tile* tile, const void* W) noexcept nogil

# Columns first .. stop of Y, of op.n. What needs whole rows is done by the caller whose `first` is 0; there is one.
ctypedef void (*Part)(const Operation* op, const Tile* tile, const void* W, Py_ssize_t first, Py_ssize_t stop) noexcept nogil

# Rows first .. stop of dW over the tile to g, or added to it; g begins with row `first`.
ctypedef void (*Gradient)(const Operation* op, const Tile* tile, Py_ssize_t first, Py_ssize_t stop, bint accumulate,
                          void* g) noexcept nogil

cdef struct Kind:
    Pass forward        # Y from X
    Pass backward       # dX from dY
    Gradient gradient   # NULL: there are no parameters
    # Floats of W packed for `backward` or else for `forward`, and the i-th of `count` parts of that. NULL: W is never packed.
    Py_ssize_t (*packed_size)(const Operation* op, bint backward) noexcept nogil
    void (*pack)(const Operation* op, bint backward, const float* W, int i, int count, float* packed) noexcept nogil
    Part part           # NULL: Y is only made whole


cdef inline object capsule(Kind* kinds):
    """The kinds for float and for double, which live as long as their module, as the engine takes them."""
    return PyCapsule_New(kinds, "svdfast.ops.kinds", NULL)
