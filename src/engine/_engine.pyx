# SPDX-License-Identifier: BSD-3-Clause
"""A program over one mini-batch: its operations forward, loss, backward, gradient sum, update.

Elsewhere: the operations (src/ops), the program (svdfast/model/program.py), the loops (src/loops),
checks of arguments, and the schedule of a training (svdfast/training).

Design
- Two halves a step, a barrier after each. In the first, threads share the batch's rows: tiles of rows go forward through every operation,
  through the loss, and back as deltas while they are in cache. The second half updates. Where the weights' gradients are
  formed depends on the batch:
- A small batch leaves them to the second half, in which threads share the rows of each weight: a block of rows of ∂W is
  formed over the whole batch and its weights are updated at once, while the block is in cache. No gradient is stored, none is
  summed over threads.
- A large batch would not stay in cache until then. There each tile adds to a gradient vector of its thread's own, as soon as its
  deltas are there, and in the second half threads share the flat vector: a block of the gradients is summed and its parameters
  updated (`by_tiles`).
- A `reproducible` large batch goes through both halves of a small one in chunks of rows, whose gradients are added to one vector, each
  thread to its own part; what the last chunk adds is updated at once. On two threads and small ranks that is up to a tenth slower.
- Of few samples to predict (`few_rows_apart`), threads share the outputs of each operation rather than the rows, as the weights then take
  longer than the rows do; a barrier follows each operation.
- Sparse samples (CSR) have their rows made dense in the scratch, tile by tile. Where they have few entries, and a product is all
  that reads them (`by_entries`), no row ever is dense: the rows of a chunk are brought to column order, threads share that product's
  outputs before the first half, and its gradient is formed and updated in blocks of a few rows and columns of the weight
  (src/loops/sparse.h). The values of all rows of a chunk are kept then, so that the weight is gone through once a chunk.
- For bfloat16 products by instructions, weights are packed once a step, by all threads, before the first half, if more than one tile takes
  them; a barrier follows.
- Parameters are one flat vector, laid out by svdfast/model/layout.py: first those that decay, the weights, then the others. A block of
  rows of a weight is one stretch of it, and gradients and moments have the same layout.
- States of recurrent layers may go over from batch to batch (`carries`): there are two vectors of them, as the way back reads those that
  the batch began with when those that it ends with are there. They change places when `carry` is called, so a batch may be asked again.
- `gradient` and `update` are the two halves of a step for those who change the gradient between them, or sum it over processes.
- One Python call a step. Scratch memory is taken when an Engine is made; a step takes none.
- The split depends on the batch, the network and the number of threads, on nothing that varies from run to run, so the same
  numbers are added in the same order and results repeat bit for bit.
- `reproducible`, the same bits whatever the number of threads: it decides who computes a number, never from what or in which order. A row's
  forward and backward pass do not depend on the rows beside it, nor an element of ∂W on the block that it is in; ∂W and ∂b are sums over
  the batch's rows in their order, ∂W by parts of SUM_ROWS that depend on the batch alone; losses are kept by row, penalties by a few
  rows of a weight, and added in order. Our own products are so: a row of op(A) gives the same numbers however many rows there are,
  beyond FEW_ROWS. BLAS's are not, so each call to it has rows that depend on the batch and the network alone, fewer than would be
  fastest.
- Numbers too small to be normal count as zero inside, and inside only (denormals.h says why).
- Pointers in Plan are void*; `floating` functions cast them. One method, `_run`, looks at the type.
"""

import os

import numpy as np

from cython.parallel cimport parallel, prange
from cython cimport floating
from libc.math cimport isfinite, pow, sqrt
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_GetPointer

from svdfast cimport _blas, _elementwise
from svdfast._elementwise cimport (
    SVDFAST_GRADIENT_DESCENT, SVDFAST_LANES, elementwise, svdfast_columns, svdfast_elementwise, svdfast_entries, svdfast_update_rule,
)
from svdfast.ops.operation cimport Kind, Operation, Place, Tile

from svdfast._process.checks import room


cdef extern from "denormals.h" nogil:
    unsigned int svdfast_flush_denormals()
    void svdfast_restore_denormals(unsigned int before)

cdef extern from "threads.h" nogil:
    int SVDFAST_HAS_OPENMP
    int svdfast_max_threads()
    int svdfast_thread()
    int svdfast_team_size()
    void svdfast_barrier()

cdef extern from "sanitize.h" nogil:
    Py_ssize_t SVDFAST_GAP
    void svdfast_forbid(size_t address, size_t size)

HAS_OPENMP = bool(SVDFAST_HAS_OPENMP)

# True if this process is a fork of one that had this module. GNU's OpenMP would wait for threads
# that do not exist, so it uses one thread.
cdef bint forked = False

# Rows of a tile: enough for a product to run at speed, few enough for its activations to stay in cache.
TILE_ROWS = 256

# Weights from which on a tile has twice as many rows: they do not stay in cache from one tile to the next, nor does their gradient.
MANY_WEIGHTS = 1_000_000

# Rows of the largest batch that leaves the weights' gradients to the second half; and of larger ones, if they are to be reproducible, the
# rows whose part of the gradients one product forms. A chunk is one such part, or more for many threads.
SUM_ROWS = 512

# Bytes of a tile's, and of a batch's, values with several rows for a sample (steps, positions). Products need no TILE_ROWS samples of
# these; so fewer are in a tile, and in a batch that leaves the weights' gradients to the second half, that the values stay in cache.
TILE_BYTES = 2 * 2**20
BATCH_BYTES = 4 * 2**20

# Where operations go step by step, a product has one row a sample, so a tile has as many as else; but no more than take so many bytes.
# And where few samples would take more, as of large images and long sequences, a tile has one.
LOOP_BYTES = 128 * 2**20

# Rows of a tile up to which products may take another way, in other bits: no thread gets so few where another number would not.
cdef Py_ssize_t FEW_ROWS = 4

# Rows of a product by BLAS, of samples or of a weight, where results must not depend on the number of threads.
cdef Py_ssize_t CALL_ROWS = 64

# Tiles of a thread between whose losses and the next none are added, where there is no gradient.
cdef Py_ssize_t EVALUATED_TILES = 16

# Elements of a block of a weight's gradient: what stays in the second-level cache between product and update.
cdef Py_ssize_t BLOCK_SIZE = 262144

# Rows of such a block at least: each block goes over all inputs of the batch.
cdef Py_ssize_t BLOCK_ROWS = 48

# Elements of a block of a sum of gradients: what stays in the first-level cache.
cdef Py_ssize_t SUM_SIZE = 2048

# Elements of a weight at least whose penalties are summed by one call: whole rows, which no two threads share.
cdef Py_ssize_t PENALTY_SIZE = 512

# Multiplications that must be there for each thread before a batch is split; below, waking a thread costs more.
cdef double WORK_PER_THREAD = 1e6

# Rows of sparse samples that go through both halves at once at most, and bytes of their values: the weight is read once for these.
ENTRY_ROWS = 8192
ENTRY_BYTES = 32 * 2**20

# Columns of a block of the gradient of a weight that meets sparse samples: what stays in the second-level cache, of SVDFAST_LANES rows.
cdef Py_ssize_t BLOCK_COLUMNS = 4096

# Elements of a weight whose update takes as long as a multiplication of a product, about.
cdef double UPDATE_WORK = 4

# Of few samples to predict, threads share the outputs of each operation: the multiplications that must be there for each thread then,
# and the samples for each thread from which on sharing the samples is faster.
cdef double WORK_PER_PART = 8e5
cdef Py_ssize_t PART_ROWS = 12

# Elements of 64 bytes at least: parts of vectors begin on cache lines, so threads do not write to the same one.
cdef Py_ssize_t GRAIN = 16

cdef enum Mode:
    PREDICT     # outputs
    EVALUATE    # outputs, if asked for, and loss
    GRADIENT    # loss and gradient
    UPDATE      # loss, gradient and update
    APPLY       # update by a gradient that is there

cdef struct Group:              # of weights: a layer's, which lie one after the other
    Py_ssize_t begin, end
    double rate_scale           # of the learning rate
    svdfast_update_rule rule    # in this step

cdef struct Plan:
    int n_operations, n_groups
    bint bfloat16               # the products' operands are rounded to it
    bint few_rows_apart         # few rows, in one thread or by parts, may go another way, in other bits
    bint in_parts               # threads can share the outputs of every operation
    Operation* operations
    Operation bare              # the last one without its activation, where the loss includes it
    const Operation* last
    Group* groups
    Py_ssize_t n_in, n_out      # elements of a sample and of its output
    Py_ssize_t rows_out         # of a sample's output, each with a target
    Py_ssize_t size             # of the flat vector
    Py_ssize_t n_weights        # of them, before those that do not decay
    Py_ssize_t tile_rows
    Py_ssize_t batch_rows       # of the largest batch that a gradient may be asked of
    bint by_tiles               # each tile forms its part of the gradients
    Py_ssize_t sum_rows         # see SUM_ROWS
    Py_ssize_t chunk_sums       # parts of so many rows that a chunk has at most
    Py_ssize_t loss_rows        # rows whose losses there is room for
    Py_ssize_t call_rows        # see CALL_ROWS; 0: any
    int n_threads
    double work                 # multiplications for one sample
    # the network and what it is trained on
    void* parameters
    int loss
    int X_type
    const char* source
    Py_ssize_t X_itemsize
    Py_ssize_t X_stride         # elements from row to row
    double X_scale
    const int32_t* labels
    const void* targets
    const void* weights
    const int64_t* rows         # NULL: in order
    bint is_sparse              # the samples are `entries`, not at `source`
    svdfast_entries entries
    bint by_entries             # the first product takes them as they are
    svdfast_columns columns     # a chunk's rows, for that product
    double entries_of_row       # on average
    # scratch: of all threads, and one for each
    void* scratch               # values and deltas
    float* packed               # weights as bfloat16 products take them, see Operation; NULL: none
    void** gradients            # by tiles: a thread's
    void** blocks               # a thread's, of the largest block of a gradient
    void** strips               # a thread's, SVDFAST_LANES columns of a chunk's rows; NULL: not `by_entries`
    void* weight_sums           # gradient of the weights over several chunks; NULL: there is one
    void* bias_sums             # gradient of what does not decay
    double* losses              # of a chunk's rows
    double* penalties           # of a few rows of a weight each, see PENALTY_SIZE; by tiles: a thread's
    Py_ssize_t n_penalties
    # the update
    svdfast_update_rule rule    # a group's own differs in the rate
    svdfast_update_rule bias_rule
    void* moment1
    void* moment2
    # one run
    Mode mode
    bint in_place               # X is used as it lies, not gathered
    void* outputs               # where they are wanted (PREDICT, EVALUATE), else NULL
    void* gradient              # where it is asked for (GRADIENT), or lies (APPLY)
    Py_ssize_t batch_begin      # row of the data that the batch begins at
    uint64_t key                # of a training's step, for what is random; 0: none
    char* carried               # states that the batch begins with; NULL: zeros
    char* left                  # where those go that it ends with
    double gradient_scale       # APPLY: what it is multiplied with

# The rows that go through both halves at once: parts `sum` .. `stop` of the batch (see SUM_ROWS).
cdef struct Chunk:
    Py_ssize_t first            # row of the data
    Py_ssize_t count
    Py_ssize_t batch_rows
    Py_ssize_t n_sums           # of the whole batch
    Py_ssize_t sum, stop


cdef inline Py_ssize_t part(Py_ssize_t i, Py_ssize_t size, Py_ssize_t count) noexcept nogil:
    """Where the i-th of `count` nearly equal parts begins. A division takes long beside the work of a small network."""
    return i * size if count == 1 else i * size // count


cdef bint from_pre_activation(const Plan* plan) noexcept nogil:
    """Both cross-entropies include the output's activation: they start from Z and end at dZ."""
    return plan.loss >= 0 and _elementwise.loss_reads_Z(plan.loss)


cdef void pack_weights(const Plan* plan, const floating* w, int t, int n_threads) noexcept nogil:
    """Thread t's part of every weight that is packed, for the forward pass and, if there will be one, for the way back."""
    cdef int i
    cdef const Operation* op
    if floating is float:
        for i in range(plan.n_operations):
            op = &plan.operations[i]
            if op.packed_forward >= 0:
                op.kind.pack(op, False, w + op.place, t, n_threads, plan.packed + op.packed_forward)
            if op.packed_backward >= 0 and plan.mode >= GRADIENT:
                op.kind.pack(op, True, w + op.place, t, n_threads, plan.packed + op.packed_backward)


cdef inline const Operation* operation(const Plan* plan, int i) noexcept nogil:
    return plan.last if i == plan.n_operations - 1 else &plan.operations[i]


cdef inline void set_tile(Tile* tile, const Plan* plan, const Operation* op, Py_ssize_t slot, Py_ssize_t p, const void* X,
                          Py_ssize_t first) noexcept nogil:
    """Fills the tile of an operation for p rows, which lie in the scratch from row `slot` on.

    They begin at row `first` of the data. Their samples lie at X, if that is not NULL.
    """
    cdef int i
    tile.p, tile.rows = p, p * op.rows_per_sample
    tile.X = <void*> X if op.reads_samples and X != NULL else op.X.start + slot * op.X.step
    tile.Y = op.Y.start + slot * op.Y.step
    tile.dX = op.dX.start + slot * op.dX.step
    tile.dY = op.dY.start + slot * op.dY.step
    for i in range(op.n_others):
        tile.others[i] = op.others[i].start + slot * op.others[i].step
    tile.first, tile.key = first - plan.batch_begin, plan.key
    for i in range(op.n_carried):
        tile.carried[i] = tile.left[i] = NULL
        if plan.carried != NULL:
            tile.carried[i] = plan.carried + op.carried[i] + tile.first * op.carried_step
            tile.left[i] = plan.left + op.carried[i] + tile.first * op.carried_step
    tile.bfloat16 = plan.bfloat16


cdef inline void run_pass(const Plan* plan, const Operation* op, Tile* tile, const floating* w, bint backward,
                          bint packed) noexcept nogil:
    cdef Py_ssize_t place = op.packed_backward if backward else op.packed_forward
    cdef const void* W = NULL
    if op.place >= 0:
        W = w + op.place
    if packed and place >= 0:
        W = plan.packed + place
        tile.bfloat16 = 2
    if backward:
        op.kind.backward(op, tile, W)
    else:
        op.kind.forward(op, tile, W)
    tile.bfloat16 = plan.bfloat16


cdef void run_loop(const Plan* plan, int begin, int stop, Py_ssize_t slot, Py_ssize_t p, Py_ssize_t first, const floating* w,
                   bint backward, bint packed) noexcept nogil:
    """Operations begin .. stop, once for each step, of p samples that begin at row `first` of the data."""
    cdef:
        const Operation* op
        Py_ssize_t steps = plan.operations[begin].steps, j, step, row
        Tile tile
        int i, k, count = stop - begin
    for j in range(steps):
        step = steps - 1 - j if backward else j
        # A tile's rows lie step by step.
        row = p * (steps - 1 - step if plan.operations[begin].reverse else step)
        for i in range(count):
            op = operation(plan, stop - 1 - i if backward else begin + i)
            set_tile(&tile, plan, op, slot, p, NULL, first)
            tile.rows, tile.step = p, step
            tile.X = <char*> tile.X + row * op.X.row
            tile.Y = <char*> tile.Y + row * op.Y.row
            tile.dX = <char*> tile.dX + row * op.dX.row
            tile.dY = <char*> tile.dY + row * op.dY.row
            for k in range(op.n_others):
                tile.others[k] = <char*> tile.others[k] + row * op.others[k].row
            run_pass[floating](plan, op, &tile, w, backward, packed)


cdef void run_tile(const Plan* plan, const floating* w, floating* gradient, Py_ssize_t first, Py_ssize_t p, Py_ssize_t slot,
                   double* losses, double scale, bint accumulate, bint packed) noexcept nogil:
    """Takes rows first .. first+p of the data forward and back. Their place in the scratch begins at row `slot`.

    By tiles, `gradient` is overwritten by theirs, or has them added.
    """
    cdef:
        const svdfast_elementwise* loops = elementwise(sizeof(floating))
        const int64_t* rows = plan.rows
        const int32_t* labels = plan.labels
        const floating* targets = <const floating*> plan.targets
        const floating* weights = <const floating*> plan.weights
        const char* source = plan.source
        const char* X = NULL
        const Operation* op
        Py_ssize_t r = plan.rows_out, width = plan.n_out // plan.rows_out, row, place
        Tile tile
        int i, j, stop

    if rows != NULL:
        rows += first
    else:
        source += first * plan.X_stride * plan.X_itemsize
        if labels != NULL:
            labels += first * r
        if targets != NULL:
            targets += first * plan.n_out
        if weights != NULL:
            weights += first * r

    if plan.in_place:
        X = source
    elif plan.by_entries:
        pass
    elif plan.is_sparse:
        loops.make_dense(&plan.entries, p, plan.n_in, first, rows, <floating*> plan.scratch + slot * plan.n_in)
    else:
        loops.gather(plan.X_type, p, plan.n_in, source, plan.X_stride, rows, plan.X_scale,
                     <floating*> plan.scratch + slot * plan.n_in)

    i = 1 if plan.by_entries else 0
    if i == plan.n_operations:
        set_tile(&tile, plan, operation(plan, 0), slot, p, X, first)
    while i < plan.n_operations:
        op = operation(plan, i)
        if op.loop_stop > 0:
            run_loop[floating](plan, i, op.loop_stop, slot, p, first, w, False, packed)
            i = op.loop_stop
            continue
        set_tile(&tile, plan, op, slot, p, X, first)
        run_pass[floating](plan, op, &tile, w, False, packed)
        i += 1

    if plan.outputs != NULL:
        memcpy(<floating*> plan.outputs + first * plan.n_out, tile.Y, p * plan.n_out * sizeof(floating))
    if plan.mode == PREDICT:
        return

    # The last delta, which is that of X + b where the loss starts there, else of f(X + b).
    if rows == NULL or r == 1:
        loops.loss(plan.loss, p * r, width, tile.X, tile.Y, labels, targets, weights, rows, scale, tile.dY, losses)
    else:
        for i in range(p):
            row = rows[i] * r
            place = i * r * width
            loops.loss(plan.loss, r, width, <floating*> tile.X + place, <floating*> tile.Y + place,
                       labels + row if labels != NULL else NULL, targets + row * width if targets != NULL else NULL,
                       weights + row if weights != NULL else NULL, NULL, scale, <floating*> tile.dY + place, losses + i * r)
    if plan.mode == EVALUATE:
        return

    for i in range(plan.n_operations - 1, -1, -1):
        op = operation(plan, i)
        if op.loop_stop > 0:
            run_loop[floating](plan, i, op.loop_stop, slot, p, first, w, True, packed)
            stop = op.loop_stop
        elif op.steps > 0:
            continue
        else:
            stop = i + 1
        # After the last step of a loop: one product for all its steps.
        for j in range(i, stop):
            op = operation(plan, j)
            set_tile(&tile, plan, op, slot, p, X, first)
            if op.steps == 0:
                run_pass[floating](plan, op, &tile, w, True, packed)
            if plan.by_tiles and op.place >= 0:
                op.kind.gradient(op, &tile, 0, op.n, accumulate, gradient + op.place)


cdef void run_part(const Plan* plan, const floating* w, int t, int n_threads, int i, Py_ssize_t first, Py_ssize_t p) noexcept nogil:
    """Thread t's columns of the i-th operation's output for p rows, which begin at row `first` of the data."""
    cdef:
        const Operation* op = operation(plan, i)
        Py_ssize_t n_grains = (op.n + GRAIN - 1) // GRAIN
        Py_ssize_t begin = part(t, n_grains, n_threads) * GRAIN, stop = min(op.n, part(t + 1, n_grains, n_threads) * GRAIN)
        unsigned int denormals
        Tile tile
    if begin >= stop:
        return
    denormals = svdfast_flush_denormals()
    _blas.few_rows_apart(True)
    set_tile(&tile, plan, op, 0, p, plan.source + first * plan.X_stride * plan.X_itemsize, first)
    op.kind.part(op, &tile, w + op.place if op.place >= 0 else NULL, begin, stop)
    _blas.few_rows_apart(False)
    svdfast_restore_denormals(denormals)


cdef void run_parts(const Plan* plan, const floating* w, int n, Py_ssize_t first, Py_ssize_t p) noexcept nogil:
    """The calling thread's share of `n` parts of each operation, one after the other."""
    cdef int i, t
    for i in range(plan.n_operations):
        t = svdfast_thread()
        while t < n:  # more than once in a team smaller than n
            run_part[floating](plan, w, t, n, i, first, p)
            t += svdfast_team_size()
        # The next operation reads all columns.
        svdfast_barrier()


cdef inline Py_ssize_t sum_begin(const Chunk* chunk, Py_ssize_t i) noexcept nogil:
    """Row of the chunk at which the i-th part of the batch begins."""
    return part(i, chunk.batch_rows, chunk.n_sums) - part(chunk.sum, chunk.batch_rows, chunk.n_sums)


cdef void run_rows(const Plan* plan, const floating* w, int t, int n_threads, const Chunk* chunk, double scale,
                   bint packed) noexcept nogil:
    """First half: thread t's rows of the chunk, in tiles of nearly equal height."""
    cdef:
        Py_ssize_t begin = 0, stop = 0, first, last, n_tiles, j, i
        # Tiles that are all equal, of each part of the batch, where products' rounding depends on them.
        Py_ssize_t of_sum = 0
        unsigned int denormals = svdfast_flush_denormals()
    if plan.call_rows > 0:
        of_sum = (chunk.batch_rows + chunk.n_sums * plan.call_rows - 1) // (chunk.n_sums * plan.call_rows)
        n_tiles = of_sum * (chunk.stop - chunk.sum)
        first, last = part(t, n_tiles, n_threads), part(t + 1, n_tiles, n_threads)
    else:
        begin = part(t, chunk.count, n_threads)
        stop = part(t + 1, chunk.count, n_threads)
        first, last = 0, (stop - begin + plan.tile_rows - 1) // plan.tile_rows
    for j in range(first, last):
        if of_sum > 0:
            i = chunk.sum + j // of_sum
            begin = sum_begin(chunk, i)
            run_slice[floating](plan, w, t, chunk, begin, sum_begin(chunk, i + 1), j % of_sum, of_sum, scale, packed)
        else:
            run_slice[floating](plan, w, t, chunk, begin, stop, j, last, scale, packed)
    svdfast_restore_denormals(denormals)


cdef void run_slice(const Plan* plan, const floating* w, int t, const Chunk* chunk, Py_ssize_t begin, Py_ssize_t stop,
                    Py_ssize_t j, Py_ssize_t n_tiles, double scale, bint packed) noexcept nogil:
    """The j-th of n_tiles tiles of rows begin .. stop of the chunk."""
    cdef:
        Py_ssize_t top = begin + part(j, stop - begin, n_tiles)
        Py_ssize_t bottom = begin + part(j + 1, stop - begin, n_tiles)
        # Every row keeps its place until the second half if it is needed there; else a thread's tiles follow each other in one.
        bint keeps = plan.by_entries or (plan.mode >= GRADIENT and not plan.by_tiles)
        Py_ssize_t slot = top if keeps else t * plan.tile_rows
        floating* gradient = <floating*> plan.gradients[t] if plan.by_tiles else NULL
    if bottom > top:
        run_tile[floating](plan, w, gradient, chunk.first + top, bottom - top, slot, plan.losses + top * plan.rows_out, scale,
                           j > 0, packed)


cdef double finish(const Plan* plan, const floating* w, floating* g, Py_ssize_t place, Py_ssize_t n,
                   const svdfast_update_rule* rule) noexcept nogil:
    """Updates n parameters from `place` on by their gradient g, or adds the penalties to it. Returns the penalties."""
    cdef:
        const svdfast_elementwise* loops = elementwise(sizeof(floating))
        floating* m = <floating*> plan.moment1
        floating* v = <floating*> plan.moment2
    if plan.mode == GRADIENT:
        return loops.add_penalty(rule, n, w + place, g)
    if m != NULL:
        m += place
    if v != NULL:
        v += place
    return loops.update(rule, n, g, <void*> (w + place), m, v)


cdef Py_ssize_t block_rows(Py_ssize_t n, Py_ssize_t m) noexcept nogil:
    """Rows of a block of a weight's gradient (n×m)."""
    return min(n, max(BLOCK_ROWS, BLOCK_SIZE // m))


cdef Py_ssize_t penalty_rows(Py_ssize_t m) noexcept nogil:
    """Rows of m elements whose penalties are summed by one call."""
    return (PENALTY_SIZE + m - 1) // m


cdef void run_weight(const Plan* plan, const floating* w, int t, int n_threads, const Chunk* chunk, const Operation* op,
                     const char* X) noexcept nogil:
    """Thread t's rows of a weight's gradient (n×m) over the chunk, block by block, and after the last chunk the update of each block."""
    cdef:
        const svdfast_update_rule* rule = &plan.groups[op.group].rule
        bint penalized = rule.l1 != 0 or rule.l2 != 0
        Py_ssize_t m = op.m
        Py_ssize_t n = op.n
        Py_ssize_t of_penalty = penalty_rows(m) if penalized else 1
        # Rows that are not divided among threads, those of one penalty or of one call, and of such units the most in a block.
        Py_ssize_t unit = 1
        Py_ssize_t n_units = n
        Py_ssize_t height = block_rows(n, m)
        Py_ssize_t begin, units, n_blocks, j, i, first, stop, row
        floating* g
        Tile tile
    if penalized or plan.call_rows > 0:
        unit = (max(plan.call_rows, of_penalty) + of_penalty - 1) // of_penalty * of_penalty
        n_units = (n + unit - 1) // unit
        height = 1 if plan.call_rows > 0 else max(1, height // unit)
    begin = part(t, n_units, n_threads)
    units = part(t + 1, n_units, n_threads) - begin
    n_blocks = (units + height - 1) // height
    for j in range(n_blocks):
        first = (begin + part(j, units, n_blocks)) * unit
        stop = min(n, (begin + part(j + 1, units, n_blocks)) * unit)
        if plan.mode == GRADIENT:
            g = <floating*> plan.gradient + op.place + first * m
        elif chunk.stop - chunk.sum < chunk.n_sums:
            g = <floating*> plan.weight_sums + op.place + first * m
        else:
            g = <floating*> plan.blocks[t]
        for i in range(chunk.sum, chunk.stop):
            row = sum_begin(chunk, i)
            set_tile(&tile, plan, op, row, sum_begin(chunk, i + 1) - row,
                     X + row * plan.X_stride * plan.X_itemsize if X != NULL else NULL, 0)
            op.kind.gradient(op, &tile, first, stop, i > 0, g)
        if chunk.stop < chunk.n_sums:
            continue
        if not penalized:
            finish[floating](plan, w, g, op.place + first * m, (stop - first) * m, rule)
            continue
        for i in range(first // of_penalty, (stop + of_penalty - 1) // of_penalty):
            row = i * of_penalty
            plan.penalties[op.penalties + i] = finish[floating](plan, w, g + (row - first) * m, op.place + row * m,
                                                                (min(stop, row + of_penalty) - row) * m, rule)


cdef void sparse_forward(const Plan* plan, const floating* w, int t, int n_threads, const Chunk* chunk) noexcept nogil:
    """Thread t's outputs of the first product, of all rows of the chunk, which lie in column order."""
    cdef:
        const svdfast_elementwise* loops = elementwise(sizeof(floating))
        const Operation* op = &plan.operations[0]
        unsigned int denormals = svdfast_flush_denormals()
    loops.sparse_product(&plan.columns, chunk.count, op.m, op.n, part(t, op.n, n_threads), part(t + 1, op.n, n_threads),
                         w + op.place, plan.strips[t], op.Y.start)
    svdfast_restore_denormals(denormals)


cdef bint leaves_untouched(const Plan* plan, const svdfast_update_rule* rule) noexcept nogil:
    """True if a weight whose gradient is 0 stays as it is."""
    return (rule.rule == SVDFAST_GRADIENT_DESCENT and plan.moment1 == NULL and rule.weight_decay == 0
            and rule.l1 == 0 and rule.l2 == 0)


cdef void run_sparse_weight(const Plan* plan, const floating* w, int t, int n_threads, const Chunk* chunk) noexcept nogil:
    """Thread t's rows of the gradient (n×m) of the weight that meets sparse samples, and after the last chunk their update; in blocks of
    SVDFAST_LANES rows and BLOCK_COLUMNS columns."""
    cdef:
        const svdfast_elementwise* loops = elementwise(sizeof(floating))
        const Operation* op = &plan.operations[0]
        const svdfast_update_rule* rule = &plan.groups[op.group].rule
        const svdfast_columns* X = &plan.columns
        Py_ssize_t m = op.m, begin = part(t, op.n, n_threads), stop = part(t + 1, op.n, n_threads)
        Py_ssize_t i, j, row, lanes, column, width, c, last, k, place, stride
        bint last_chunk = chunk.stop == chunk.n_sums, touched_only
        floating* vector = NULL     # where the gradient lies as a whole
        floating* g
        floating* kept = NULL       # the touched weights of a row
    if plan.mode == GRADIENT:
        vector = <floating*> plan.gradient
    elif chunk.stop - chunk.sum < chunk.n_sums:
        vector = <floating*> plan.weight_sums
    touched_only = vector == NULL and leaves_untouched(plan, rule)
    for i in range((stop - begin + SVDFAST_LANES - 1) // SVDFAST_LANES):
        row = begin + i * SVDFAST_LANES
        lanes = min(<Py_ssize_t> SVDFAST_LANES, stop - row)
        loops.take_lanes(chunk.count, op.n, row, lanes, op.dY.start, plan.strips[t])
        for k in range(lanes):
            plan.penalties[op.penalties + row + k] = 0
        last = 0
        for j in range((m + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS):
            column = j * BLOCK_COLUMNS
            width = min(BLOCK_COLUMNS, m - column)
            c = last
            while last < X.count and X.columns[last] < column + width:
                last += 1
            place = op.place + row * m + column
            if touched_only:
                if c == last:
                    continue
                width = last - c
                g = <floating*> plan.blocks[t]
                kept = g + SVDFAST_LANES * BLOCK_COLUMNS
                loops.sparse_gradient(X, c, last, lanes, plan.strips[t], True, 0, width, False, g)
                for k in range(lanes):
                    loops.take_columns(width, X.columns + c, w + op.place + (row + k) * m, kept)
                    loops.update(rule, width, g + k * width, kept, NULL, NULL)
                    loops.put_columns(width, X.columns + c, kept, <void*> (w + op.place + (row + k) * m))
                continue
            g = <floating*> plan.blocks[t]
            stride = width
            if vector != NULL:
                g = vector + place
                stride = m
            if vector == NULL or chunk.sum == 0:
                for k in range(lanes):
                    memset(g + k * stride, 0, width * sizeof(floating))
            loops.sparse_gradient(X, c, last, lanes, plan.strips[t], False, column, stride, vector != NULL and chunk.sum > 0, g)
            if not last_chunk:
                continue
            for k in range(lanes):
                plan.penalties[op.penalties + row + k] += finish[floating](plan, w, g + k * stride, place + k * m, width, rule)


cdef void run_parameters(const Plan* plan, const floating* w, int t, int n_threads, const Chunk* chunk) noexcept nogil:
    """Thread t's rows of every weight, and its part of what does not decay: of the gradients, and of the update."""
    cdef:
        const char* X = plan.source + chunk.first * plan.X_stride * plan.X_itemsize if plan.in_place else NULL
        const Operation* op
        Py_ssize_t begin = plan.n_weights + part(t, plan.size - plan.n_weights, n_threads)
        Py_ssize_t stop = plan.n_weights + part(t + 1, plan.size - plan.n_weights, n_threads)
        Py_ssize_t first, last
        Tile tile
        int i
        floating* g = (<floating*> plan.gradient + plan.n_weights if plan.mode == GRADIENT else <floating*> plan.bias_sums)
    for i in range(plan.n_operations):
        op = &plan.operations[i]
        if op.place < 0:
            continue
        if i == 0 and plan.by_entries:
            run_sparse_weight[floating](plan, w, t, n_threads, chunk)
            continue
        if op.decays:
            run_weight[floating](plan, w, t, n_threads, chunk, op, X)
            continue
        first, last = max(begin, op.place), min(stop, op.place + op.n)
        if first < last:
            set_tile(&tile, plan, op, 0, chunk.count, X, 0)
            op.kind.gradient(op, &tile, first - op.place, last - op.place, chunk.sum > 0, g + (first - plan.n_weights))
    # Penalties and decay are for weights only.
    if chunk.stop == chunk.n_sums and begin < stop:
        finish[floating](plan, w, g + begin - plan.n_weights, begin, stop - begin, &plan.bias_rule)


cdef double run_sums(const Plan* plan, const floating* w, int t, int n_threads, Py_ssize_t first, Py_ssize_t stop,
                     const svdfast_update_rule* rule) noexcept nogil:
    """Sums the threads' gradients over first .. stop, or takes the one that is there, block by block, and updates each block.

    Returns the penalties.
    """
    cdef:
        const svdfast_elementwise* loops = elementwise(sizeof(floating))
        Py_ssize_t count, j
        int i
        floating* g
        const floating* given
        double penalty = 0
    while first < stop:
        count = min(SUM_SIZE, stop - first)
        g = <floating*> plan.gradient + first if plan.mode == GRADIENT else <floating*> plan.blocks[t]
        if plan.mode == APPLY:
            given = <const floating*> plan.gradient + first
            for j in range(count):
                g[j] = <floating> (plan.gradient_scale * given[j])  # in double, as a scale may be too small for a normal float
        else:
            memcpy(g, <floating*> plan.gradients[0] + first, count * sizeof(floating))
            for i in range(1, n_threads):
                loops.add_rows(1, count, <floating*> plan.gradients[i] + first, count, g)
        penalty += finish[floating](plan, w, g, first, count, rule)
        first += count
    return penalty


cdef double run_stretch(const Plan* plan, const floating* w, int t, int n_threads) noexcept nogil:
    """Thread t's part of the flat vector. Returns the penalties, which are, as decay is, for weights only."""
    cdef:
        # Parts begin on cache lines, so threads do not write to the same one.
        Py_ssize_t first = part(t, plan.size, n_threads) // GRAIN * GRAIN
        Py_ssize_t stop = plan.size if t == n_threads - 1 else part(t + 1, plan.size, n_threads) // GRAIN * GRAIN
        const Group* group
        int i
        double penalty = 0
    for i in range(plan.n_groups):
        group = &plan.groups[i]
        penalty += run_sums[floating](plan, w, t, n_threads, max(first, group.begin), min(stop, group.end), &group.rule)
    return penalty + run_sums[floating](plan, w, t, n_threads, max(first, plan.n_weights), stop, &plan.bias_rule)


cdef void run_second_half(const Plan* plan, const floating* w, int t, int n_threads, const Chunk* chunk) noexcept nogil:
    """Thread t's part of the gradient, and after the last chunk of the update."""
    cdef unsigned int denormals = svdfast_flush_denormals()
    if plan.by_tiles or plan.mode == APPLY:
        plan.penalties[t] = run_stretch[floating](plan, w, t, n_threads)
    else:
        run_parameters[floating](plan, w, t, n_threads, chunk)
    svdfast_restore_denormals(denormals)


cdef double sum_losses(const Plan* plan, double loss, Py_ssize_t count) noexcept nogil:
    """`loss` and those of the chunk's rows, added in order."""
    cdef Py_ssize_t i
    for i in range(count * plan.rows_out):
        loss += plan.losses[i]
    return loss


cdef inline bint has_second_half(const Plan* plan, double loss) noexcept nogil:
    """A step whose loss is not finite updates nothing: parameters and moments stay as they were before it."""
    return plan.mode == GRADIENT or (plan.mode == UPDATE and isfinite(loss))


cdef double run_chunk(const Plan* plan, const floating* w, int n, const Chunk* chunk, double loss, double scale,
                      bint packed, bint pack) noexcept nogil:
    """Both halves, by n threads. Returns `loss` and the weighted losses of the chunk's rows."""
    cdef int t
    if plan.by_entries:
        elementwise(sizeof(floating)).by_columns(&plan.entries, chunk.count, plan.n_in, chunk.first,
                                                 plan.rows + chunk.first if plan.rows != NULL else NULL,
                                                 <svdfast_columns*> &plan.columns)
    if n == 1:
        if pack:
            pack_weights[floating](plan, w, 0, 1)
        if plan.by_entries:
            sparse_forward[floating](plan, w, 0, 1, chunk)
        run_rows[floating](plan, w, 0, 1, chunk, scale, packed)
        if plan.mode != PREDICT:
            loss = sum_losses(plan, loss, chunk.count)
        if has_second_half(plan, scale * loss):
            run_second_half[floating](plan, w, 0, 1, chunk)
        return loss
    # The team may be smaller than n: it takes all n shares then.
    with parallel(num_threads=1 if forked else n):
        if pack:
            for t in prange(n, schedule="static"):
                pack_weights[floating](plan, w, t, n)
            svdfast_barrier()
        if plan.by_entries:
            for t in prange(n, schedule="static"):
                sparse_forward[floating](plan, w, t, n, chunk)
            svdfast_barrier()
        for t in prange(n, schedule="static"):
            run_rows[floating](plan, w, t, n, chunk, scale, packed)
        # No thread may update what another still reads.
        svdfast_barrier()
        if plan.mode >= GRADIENT:
            for t in prange(n, schedule="static"):
                # All threads decide alike: each adds the same numbers in the same order.
                if has_second_half(plan, scale * sum_losses(plan, loss, chunk.count)):
                    run_second_half[floating](plan, w, t, n, chunk)
    return loss if plan.mode == PREDICT else sum_losses(plan, loss, chunk.count)


cdef double run_batch(const Plan* plan, const floating* w, Py_ssize_t first, Py_ssize_t count,
                      double scale) noexcept nogil:
    """Rows first .. first+count. Returns scale * (sum of weighted losses) + penalties."""
    cdef:
        int n = plan.n_threads
        Py_ssize_t n_chunks, of_chunk, i, begin
        bint packed
        Chunk chunk
        double loss = 0, penalty = 0, work = count * plan.work
    if (plan.mode == PREDICT and n > 1 and plan.in_parts and plan.in_place and count < n * min(PART_ROWS, plan.tile_rows)
            and work >= 2 * WORK_PER_PART):
        n = <int> min(<double> n, work / WORK_PER_PART)
        with parallel(num_threads=1 if forked else n):
            run_parts[floating](plan, w, n, first, count)
        memcpy(<floating*> plan.outputs + first * plan.n_out, operation(plan, plan.n_operations - 1).Y.start,
               count * plan.n_out * sizeof(floating))
        return 0
    chunk.batch_rows = count
    chunk.n_sums = (count + plan.sum_rows - 1) // plan.sum_rows
    if plan.by_entries:
        of_chunk = plan.chunk_sums
    elif plan.mode == PREDICT or (plan.mode >= GRADIENT and plan.by_tiles):
        of_chunk = chunk.n_sums
    elif plan.mode == EVALUATE:
        of_chunk = max(1, plan.loss_rows // plan.sum_rows)
    else:
        of_chunk = plan.chunk_sums
    n_chunks = (chunk.n_sums + of_chunk - 1) // of_chunk
    # As many threads as there is work for.
    if plan.by_entries:
        work += (3 * count * plan.entries_of_row * plan.operations[0].n
                 + (UPDATE_WORK if plan.mode >= GRADIENT else 1) * plan.operations[0].n * plan.n_in)
    if work < n * WORK_PER_THREAD:
        n = max(1, <int> (work / WORK_PER_THREAD))
    if n > 1:
        # The shortest chunk has at least so many rows.
        n = max(1, <int> min(n, chunk.n_sums // n_chunks * (count // chunk.n_sums) // min(FEW_ROWS + 1, plan.tile_rows)))
    # Where more than one tile takes the weights they are packed once for all.
    packed = plan.packed != NULL and _blas.packed_size(1, 1) > 0 and (n > 1 or count > plan.tile_rows)
    _blas.few_rows_apart(plan.few_rows_apart and n == 1)
    for i in range(n_chunks):
        chunk.sum, chunk.stop = part(i, chunk.n_sums, n_chunks), part(i + 1, chunk.n_sums, n_chunks)
        begin = part(chunk.sum, count, chunk.n_sums)
        chunk.first = first + begin
        chunk.count = part(chunk.stop, count, chunk.n_sums) - begin
        loss = run_chunk[floating](plan, w, n, &chunk, loss, scale, packed, packed and i == 0)
    _blas.few_rows_apart(False)
    loss *= scale
    if has_second_half(plan, loss) and (plan.rule.l1 != 0 or plan.rule.l2 != 0):
        for i in range(n if plan.by_tiles else plan.n_penalties):
            penalty += plan.penalties[i]
    return loss + penalty


cdef void apply(const Plan* plan, const floating* w) noexcept nogil:
    """The update by the gradient that is there."""
    cdef int n = 1 if forked or plan.size < WORK_PER_THREAD else plan.n_threads
    cdef int t
    if n == 1:
        run_second_half[floating](plan, w, 0, 1, NULL)
    else:
        for t in prange(n, schedule="static", num_threads=n):
            run_second_half[floating](plan, w, t, n, NULL)


cdef double norm(const floating* g, Py_ssize_t n) noexcept nogil:
    """‖g‖, squares summed in double in an order of their own, which threads do not change."""
    cdef double[8] sums
    cdef Py_ssize_t i, j, whole = n - n % 8
    for j in range(8):
        sums[j] = 0
    for i in range(0, whole, 8):
        for j in range(8):
            sums[j] += <double> g[i + j] * g[i + j]
    for i in range(whole, n):
        sums[i - whole] += <double> g[i] * g[i]
    for j in range(1, 8):
        sums[0] += sums[j]
    return sqrt(sums[0])


cdef double sum_weights(const Plan* plan, const floating* weights, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t i, j, row
    for i in range(first, first + count):
        row = (i if plan.rows == NULL else plan.rows[i]) * plan.rows_out
        for j in range(plan.rows_out):
            total += weights[row + j]
    return total


cdef Py_ssize_t whole_lines(Py_ssize_t n) noexcept nogil:
    """n rounded up to whole GRAINs."""
    return (n + GRAIN - 1) // GRAIN * GRAIN


cdef size_t address(array) except? 0:
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
    cdef size_t place = <size_t> view.buf
    PyBuffer_Release(&view)
    return place


def aligned_zeros(Py_ssize_t size, dtype):
    """A vector of zeros that begins on a 64-byte boundary."""
    dtype = np.dtype(dtype)
    cdef Py_ssize_t n_bytes = size * dtype.itemsize
    space = np.zeros(n_bytes + 64 + SVDFAST_GAP, dtype=np.uint8)
    cdef Py_ssize_t start = -address(space) % 64
    if SVDFAST_GAP > 0:
        svdfast_forbid(address(space), start)
        svdfast_forbid(address(space) + start + n_bytes, 64 - start + SVDFAST_GAP)
    return space[start : start + n_bytes].view(dtype)


cdef Py_ssize_t after(Py_ssize_t place, Py_ssize_t size, list gaps) except? -1:
    """The place of the next part after one of `size` elements at `place`.

    A sanitizers' build records the gap between them.
    """
    cdef Py_ssize_t next_place = place + whole_lines(size)
    if SVDFAST_GAP > 0 and size > 0:
        next_place += whole_lines(SVDFAST_GAP // 8)
        gaps.append((place + size, next_place))
    return next_place


cdef forbid(array, list gaps):
    """Makes the gaps between an array's parts no one's, for sanitizers."""
    cdef Py_ssize_t start, stop
    for start, stop in gaps:
        svdfast_forbid(address(array) + start * array.itemsize, (stop - start) * array.itemsize)


def max_threads():
    """The threads that OpenMP would use by itself; 1 in a build without it."""
    return svdfast_max_threads()


def _in_child():
    global forked
    forked = True


def is_forked():
    """True if this process was forked from one that had svdfast loaded."""
    return forked


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_in_child)


cdef class Engine:
    """A layout's program bound to its parameters and to scratch memory for batches of up to `batch_size` rows.

    Not safe for use by two Python threads at once: each makes its own. Arguments were checked by the callers.

    Parameters
    ----------
    layout : svdfast.model.layout.Layout
    parameters : ndarray (layout.size,), float32 or float64, contiguous
        Used in place, and changed by `step` and `update`.
    batch_size : int
    n_threads : int
    gradients : bool
        Whether `gradient` or `step` will be called.
    bfloat16 : bool
        Whether the products' operands are rounded to bfloat16; of float32 only.
    reproducible : bool
        Whether results must not depend on the number of threads, whosever products are used.
    carries : bool
        Whether recurrent layers begin a batch of `gradient` or `step` with the states in `carried`; else with zeros.
    carried_rows : int, optional
        Rows of a batch whose parts are asked for one by one; by default `batch_size`.
    by_entries : bool
        Whether the samples will be sparse with few entries each. The first product then goes by these where it can.
    few_rows_apart : bool
        Whether few rows may go a faster way. Then an output depends in its last bits on how many samples are predicted with it, and by
        how many threads.
    tile_rows, sum_rows : int, optional
        Instead of those of TILE_ROWS and SUM_ROWS.

    Attributes
    ----------
    tile_rows : int
        Rows of a tile at most.
    in_parts : bool
        Whether threads share the outputs of each operation where the rows are few.
    by_tiles : bool
        Whether each tile forms its part of the gradients.
    by_entries : bool
        Whether the samples have to be sparse, as there is no room for dense ones.
    carried : ndarray or None
        The states that the next batch begins with, zeros at first: of each that the program carries, carried_rows rows.
    """

    cdef Plan plan
    cdef bint is_double
    cdef dict keep              # the arrays that Plan points into
    cdef list places            # of values, see _places
    cdef Py_ssize_t rows_kept   # of a chunk at most, `by_entries`
    cdef uint64_t key           # of the steps to come, see set_key
    cdef readonly object order  # rows in the order in which batches take them, or None
    cdef readonly object carried
    cdef object left            # as `carried`, of the batch that was last

    def __cinit__(self, layout, *args, **kwargs):
        program = layout.program
        self.plan.operations = <Operation*> calloc(len(program.operations), sizeof(Operation))
        self.plan.groups = <Group*> calloc(max(1, len(layout.groups)), sizeof(Group))
        if self.plan.operations == NULL or self.plan.groups == NULL:
            raise MemoryError
        self.keep = {}

    def __dealloc__(self):
        free(self.plan.operations)
        free(self.plan.groups)

    def __init__(self, layout, parameters, *, batch_size, n_threads, gradients=True, bfloat16=False, reproducible=False,
                 carries=False, carried_rows=None, by_entries=False, few_rows_apart=False, tile_rows=None, sum_rows=None):
        cdef Plan* plan = &self.plan
        cdef Py_ssize_t rows, largest, most, call_rows, few = 2 * FEW_ROWS + 1
        cdef list gaps = []
        dtype = parameters.dtype
        self.is_double = dtype.itemsize == 8
        self.keep["parameters"] = parameters
        plan.parameters = <void*> address(parameters)
        plan.bfloat16 = bfloat16
        plan.few_rows_apart = few_rows_apart
        plan.size, plan.n_weights = layout.size, layout.n_weights
        by_entries = by_entries and layout.program.takes_entries and not bfloat16
        self._read(layout.program, by_entries)
        plan.n_groups = len(layout.groups)
        for i, (begin, end) in enumerate(layout.groups):
            plan.groups[i].begin, plan.groups[i].end, plan.groups[i].rate_scale = begin, end, 1
        n = plan.n_threads = max(1, min(n_threads, batch_size))
        if tile_rows is None:
            tile_rows = TILE_ROWS if layout.n_weights < MANY_WEIGHTS else 2 * TILE_ROWS
        if sum_rows is None:
            sum_rows = SUM_ROWS
        tall = dtype.itemsize * layout.program.tall_size * (2 if gradients else 1)
        # Rows of a call to BLAS; and of all tiles, where rows of loops lie step by step, so that sums over rows depend on a tile's height.
        call_rows = CALL_ROWS
        if few * tall > LOOP_BYTES:
            few = 1
        if tall > 0:
            call_rows = 1 if few == 1 else max(few, min(call_rows, LOOP_BYTES // tall))
        # Halves of what does not fit into one tile are not few.
        tile_rows = min(tile_rows, max(few, (batch_size + n - 1) // n))
        if tall > 0:
            tile_rows = min(tile_rows, max(few, (LOOP_BYTES if layout.program.has_loop else TILE_BYTES) // tall))
            sum_rows = min(sum_rows, max(few, BATCH_BYTES // tall))
        plan.tile_rows = max(1, tile_rows)
        plan.call_rows = call_rows if reproducible and (layout.program.has_loop or _blas.by_blas(self.is_double)) else 0
        plan.tile_rows = max(plan.tile_rows, plan.call_rows)
        if reproducible and layout.program.has_loop:
            sum_rows = call_rows
        plan.sum_rows = sum_rows
        plan.by_entries = by_entries
        plan.by_tiles = gradients and not reproducible and batch_size > sum_rows and not plan.by_entries
        # The sums of all threads' tiles, and of one part at least.
        plan.chunk_sums = max(1, n * plan.tile_rows // plan.sum_rows)
        if plan.by_entries:
            of_row = dtype.itemsize * sum(value.size for value in layout.program.values[1:]) * (2 if gradients else 1)
            plan.chunk_sums = max(1, min(ENTRY_ROWS, ENTRY_BYTES // of_row) // plan.sum_rows)
        plan.batch_rows = batch_size if gradients else 0
        rows = n * plan.tile_rows
        most = min(batch_size, plan.chunk_sums * plan.sum_rows)
        if plan.by_entries or (gradients and not plan.by_tiles):
            rows = max(rows, most)
        plan.loss_rows = max(rows, min(batch_size, EVALUATED_TILES * rows), plan.sum_rows, plan.batch_rows)
        places, size = self._places(layout.program, rows, gradients, gaps)
        largest = self._make_room_for_penalties()
        if bfloat16 and not self.is_double:
            self._make_room_for_packed([places[operation.input][1] is not None for operation in layout.program.operations])
        if carried_rows is None:
            carried_rows = batch_size
        of_states = carried_rows * sum(layout.program.carried) if carries else 0
        room("n_threads" if n > 1 else "layers" if tall > 0 else "sizes",
             (size + 2 * of_states) * dtype.itemsize + plan.loss_rows * plan.rows_out * 8
             + (n if plan.by_tiles else 1) * (layout.size * dtype.itemsize if gradients else 0))
        scratch = self.keep["scratch"] = aligned_zeros(size, dtype)
        forbid(scratch, gaps)
        plan.scratch = <void*> address(scratch)
        self.places = places
        if carries:
            self.carried, self.left = aligned_zeros(of_states, dtype), aligned_zeros(of_states, dtype)
        for i in range(plan.n_operations):
            self._lay(&plan.operations[i], layout.program, i, places, dtype.itemsize)
            self._lay_carried(&plan.operations[i], layout.program, i, carried_rows, dtype.itemsize)
        plan.bare = plan.operations[plan.n_operations - 1]
        plan.bare.code = _elementwise.SVDFAST_IDENTITY
        if gradients:
            block = min(SUM_SIZE, layout.size) if plan.by_tiles else max(largest, min(SUM_SIZE, layout.size))
            blocks = [aligned_zeros(block, dtype) for _ in range(n)]
            bias_sums = aligned_zeros(layout.size - layout.n_weights, dtype)
            penalties = aligned_zeros(max(n, plan.n_penalties), np.float64)
            self.keep["gradients"] = blocks, bias_sums, penalties
            plan.blocks = <void**> self._pointers("blocks", blocks)
            plan.bias_sums = <void*> address(bias_sums)
            plan.penalties = <double*> address(penalties)
            if plan.by_tiles:
                vectors = [aligned_zeros(layout.size, dtype) for _ in range(n)]
                plan.gradients = <void**> self._pointers("vectors", vectors)
                self.keep["gradients"] = *self.keep["gradients"], *vectors
            elif batch_size > most:
                weight_sums = self.keep["weight_sums"] = aligned_zeros(layout.n_weights, dtype)
                plan.weight_sums = <void*> address(weight_sums)
        if plan.by_entries:
            self.rows_kept = max(1, most)
            strips = self.keep["strip arrays"] = [aligned_zeros(self.rows_kept * SVDFAST_LANES, dtype) for _ in range(n)]
            plan.strips = <void**> self._pointers("strips", strips)
        losses = self.keep["losses"] = aligned_zeros(plan.loss_rows * plan.rows_out, np.float64)
        plan.losses = <double*> address(losses)

    cdef _read(self, program, bint by_entries):
        """The program as C has it; places in the scratch are still to come."""
        cdef Plan* plan = &self.plan
        cdef Operation* op
        plan.n_operations = len(program.operations)
        plan.in_parts = plan.few_rows_apart and plan.n_operations > 0 and not by_entries
        for i, operation in enumerate(program.operations):
            op = &plan.operations[i]
            op.kind = <const Kind*> PyCapsule_GetPointer(operation.kind, "svdfast.ops.kinds") + self.is_double
            op.rows_per_sample = program.values[operation.input].rows_per_sample
            op.code, op.parameter = operation.code, operation.parameter
            op.place = op.packed_forward = op.packed_backward = -1
            tensor = operation.tensor
            if (tensor is None) != (op.kind.gradient == NULL):
                raise ValueError(f"operation {i}: expected a tensor where its kind has a gradient, and only there, got {tensor}")
            op.n, op.m = program.values[operation.output].width, program.values[operation.input].width
            for k, size in enumerate(operation.sizes):
                op.sizes[k] = size
            op.n_others = len(operation.others)
            if operation.loop is not None:
                op.steps, op.reverse = operation.loop.steps, operation.loop.reverse
                if i == 0 or program.operations[i - 1].loop is not operation.loop:
                    begin = i
                plan.operations[begin].loop_stop = i + 1
            plan.in_parts = plan.in_parts and op.kind.part != NULL and op.steps == 0 and op.rows_per_sample == 1
            if tensor is not None:
                op.place, op.decays, op.group = tensor.place, tensor.decays, tensor.layer
                op.n, op.m = tensor.shape if tensor.decays else (tensor.shape[0], 1)
            if i > 0 or not by_entries:
                plan.work += 3 * operation.multiplications
        plan.n_in, plan.n_out = program.values[0].size, program.values[operation.output].size
        plan.rows_out = program.values[operation.output].rows_per_sample

    cdef tuple _places(self, program, Py_ssize_t rows, bint gradients, list gaps):
        """For each value, in elements, its place in the scratch, its delta's place (None: nobody needs it), its size for a sample, and
        whether it is the samples; then the elements of all. So many rows are kept.
        """
        cdef Py_ssize_t place = 0
        made_by = {operation.output: operation for operation in program.operations}
        last = program.operations[len(program.operations) - 1].output
        places = []
        for i, value in enumerate(program.values):
            if value.view_of is not None:
                places.append(places[value.view_of])
                continue
            operation = made_by.get(i)
            if i == 0 and self.plan.by_entries:
                places.append((None, None, value.size, True))
                continue
            before, before_delta, _, of_samples = (0, None, 0, False) if operation is None else places[operation.input]
            # The loss may read what goes into the last operation after its output is there.
            if operation is not None and operation.overwrites and i != last and not of_samples:
                own = before
            else:
                own = place
                place = after(place, rows * value.size, gaps)
            delta = before_delta if operation is not None and operation.overwrites_delta else None
            if gradients and value.delta_of is not None:
                delta = places[value.delta_of][1]
            # The loss writes its delta also where there is no gradient.
            if delta is None and (i == last or gradients and program.needs_delta(i)):
                delta = place
                place = after(place, rows * value.size, gaps)
            places.append((own, delta, value.size, i == 0))
        return places, place

    cdef _lay(self, Operation* op, program, int i, list places, Py_ssize_t itemsize):
        """Tells an operation where its values lie."""
        operation = program.operations[i]
        op.reads_samples = places[operation.input][3]
        self._set_place(&op.X, program, op.steps, operation.input, False, places, itemsize)
        self._set_place(&op.Y, program, op.steps, operation.output, False, places, itemsize)
        self._set_place(&op.dX, program, op.steps, operation.input, True, places, itemsize)
        self._set_place(&op.dY, program, op.steps, operation.output, True, places, itemsize)
        for k, other in enumerate(operation.others):
            self._set_place(&op.others[k], program, op.steps, other.value, other.delta, places, itemsize)

    cdef _lay_carried(self, Operation* op, program, int i, Py_ssize_t n_rows, Py_ssize_t itemsize):
        """Tells an operation where the states lie that it carries."""
        states = program.operations[i].carried
        op.n_carried, op.carried_step = len(states), op.n * itemsize
        for k, index in enumerate(states):
            op.carried[k] = n_rows * sum(program.carried[:index]) * itemsize

    cdef _set_place(self, Place* place, program, Py_ssize_t steps, int value, bint delta, list places, Py_ssize_t itemsize):
        """Where a value lies, or its delta."""
        own, of_delta, size, _ = places[value]
        element = of_delta if delta else own
        place.start, place.step, place.row = NULL, 0, 0
        if element is not None:
            place.start, place.step = <char*> self.plan.scratch + <Py_ssize_t> element * itemsize, size * itemsize
            if steps > 1 and program.values[value].rows_per_sample == steps:
                place.row = program.values[value].width * itemsize

    cdef Py_ssize_t _make_room_for_penalties(self) except -1:
        """Reserves room for the penalties of the weights, in their order in memory.

        Returns the elements of the largest block of a gradient.
        """
        cdef Plan* plan = &self.plan
        cdef Py_ssize_t largest = 0, of_penalty
        cdef Operation* op
        weights = [i for i in range(plan.n_operations) if plan.operations[i].place >= 0 and plan.operations[i].decays]
        for i in sorted(weights, key=lambda i: plan.operations[i].place):
            op = &plan.operations[i]
            op.penalties = plan.n_penalties
            if i == 0 and plan.by_entries:
                plan.n_penalties += op.n
                # And the touched weights of a row.
                largest = max(largest, (SVDFAST_LANES + 1) * BLOCK_COLUMNS)
                continue
            of_penalty = penalty_rows(op.m)
            plan.n_penalties += (op.n + of_penalty - 1) // of_penalty
            largest = max(largest, min(op.n, max(block_rows(op.n, op.m), plan.call_rows + of_penalty)) * op.m)
        return largest

    cdef _make_room_for_packed(self, list backward):
        """For packed weights, if products take them so; for the way back of those operations that have one."""
        cdef Plan* plan = &self.plan
        cdef Py_ssize_t place = 0, i
        cdef Operation* op
        cdef list gaps = []
        for i in range(plan.n_operations):
            op = &plan.operations[i]
            if op.kind.pack == NULL:
                continue
            op.packed_forward = place
            place = after(place, op.kind.packed_size(op, False), gaps)
            if plan.batch_rows > 0 and backward[i]:
                op.packed_backward = place
                place = after(place, op.kind.packed_size(op, True), gaps)
        if place > 0:
            packed = self.keep["packed"] = aligned_zeros(place, np.float32)
            forbid(packed, gaps)
            plan.packed = <float*> address(packed)

    @property
    def tile_rows(self):
        return self.plan.tile_rows

    @property
    def in_parts(self):
        return self.plan.in_parts

    @property
    def by_tiles(self):
        return self.plan.by_tiles

    @property
    def by_entries(self):
        return self.plan.by_entries

    cdef size_t _pointers(self, name, arrays) except? 0:
        table = self.keep[name] = np.array([address(a) for a in arrays], dtype=np.uintp)
        return address(table)

    def bind(self, inputs, loss=None, targets=None, weights=None):
        """The data that batches are taken from: svdfast.data.Inputs or SparseInputs, and Targets; weights (n,) of the network's dtype."""
        self.plan.is_sparse = inputs.is_sparse
        if inputs.is_sparse:
            self._bind_entries(inputs)
        elif self.plan.by_entries:
            raise ValueError("inputs: expected sparse ones, as this Engine was made for them")
        else:
            X = self.keep["inputs"] = inputs.array
            self.plan.source = <const char*> address(X)
            self.plan.X_type = inputs.code
            self.plan.X_itemsize = X.itemsize
            self.plan.X_stride = X.strides[0] // X.itemsize
            self.plan.X_scale = inputs.scale
        self.keep["data"] = targets, weights
        self.plan.rows = NULL
        self.plan.labels = NULL
        self.plan.targets = NULL
        self.plan.weights = NULL
        self.plan.loss = -1
        if loss is not None:
            self.plan.loss = loss.code
            if targets.dtype == np.int32:
                self.plan.labels = <const int32_t*> address(targets)
            else:
                self.plan.targets = <const void*> address(targets)
            if weights is not None:
                self.plan.weights = <const void*> address(weights)

    def release(self):
        """Forgets the data, which nothing may ask of it before the next `bind`."""
        self.keep["data"] = self.keep["inputs"] = None
        self.plan.source = NULL

    cdef _bind_entries(self, inputs):
        """Sparse samples, and room for the most entries that a chunk may have."""
        cdef Plan* plan = &self.plan
        cdef svdfast_entries* entries = &plan.entries
        arrays = self.keep["inputs"] = inputs.values, inputs.columns, inputs.begins
        entries.type, entries.scale = inputs.code, inputs.scale
        entries.values = <const void*> address(arrays[0])
        entries.columns = <const int32_t*> address(arrays[1])
        entries.begins = <const int64_t*> address(arrays[2])
        plan.source, plan.X_stride, plan.X_itemsize = NULL, 0, 0
        if not plan.by_entries:
            return
        n_rows = max(1, inputs.n_samples)
        plan.entries_of_row = len(arrays[1]) / <double> n_rows
        most = inputs.most_entries(self.rows_kept)
        n_columns = min(most, plan.n_in)
        dtype = self.keep["parameters"].dtype
        room("batch_size", most * (8 + dtype.itemsize) + n_columns * 12 + plan.n_in * 8)
        columns, begins = np.empty(n_columns, np.int32), np.empty(n_columns + 1, np.int64)
        rows, owners, values = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, dtype)
        places = np.zeros(plan.n_in, np.int64)
        self.keep["columns"] = columns, begins, rows, owners, values, places
        plan.columns.columns = <int32_t*> address(columns)
        plan.columns.begins = <int64_t*> address(begins)
        plan.columns.rows = <int32_t*> address(rows)
        plan.columns.owners = <int32_t*> address(owners)
        plan.columns.values = <void*> address(values)
        plan.columns.places = <int64_t*> address(places)

    def set_order(self, rows):
        """Rows (n,) int64 in the order in which batches take them; None: as they lie. `by_entries`, a batch has no row twice."""
        if rows is not None:
            rows = np.require(rows, np.int64, ["C", "A"])
        self.order = rows
        self.plan.rows = NULL
        if rows is not None:
            self.plan.rows = <const int64_t*> address(rows)

    def set_key(self, key):
        """Sets the key of the random numbers of later gradients and steps, from 1; 0 drops nothing."""
        self.key = key

    def carry(self):
        """Lets the next batch begin with the states with which the last one ended, row by row."""
        self.carried, self.left = self.left, self.carried

    def set_rate_scales(self, scales):
        """Sets the multiplier of the learning rate for the weights of each layer, 1 at first.

        Biases keep the plain rate.
        """
        cdef int i
        for i in range(self.plan.n_groups):
            self.plan.groups[i].rate_scale = scales[i]

    def set_update(self, rule, moments):
        """The update: svdfast.optimizers.Rule, and its moments, each a vector laid out as the parameters are."""
        self.keep["moments"] = moments
        self.plan.moment1 = <void*> address(moments[0]) if len(moments) > 0 else NULL
        self.plan.moment2 = <void*> address(moments[1]) if len(moments) > 1 else NULL
        self.plan.rule.rule = rule.code
        self.plan.rule.nesterov = rule.nesterov
        self.plan.rule.beta1 = rule.beta1
        self.plan.rule.beta2 = rule.beta2
        self.plan.rule.epsilon = rule.epsilon
        self.plan.rule.weight_decay = rule.weight_decay

    cdef _set_rules(self, double l1, double l2):
        """The rules of this step: of each group of weights, and of what does not decay."""
        cdef Plan* plan = &self.plan
        cdef int i
        plan.rule.l1, plan.rule.l2 = l1, l2
        plan.bias_rule = plan.rule
        plan.bias_rule.l1 = plan.bias_rule.l2 = plan.bias_rule.weight_decay = 0
        for i in range(plan.n_groups):
            plan.groups[i].rule = plan.rule
            plan.groups[i].rule.learning_rate *= plan.groups[i].rate_scale

    cdef double _run(self, Mode mode, Py_ssize_t first, Py_ssize_t count, double l1, double l2,
                     out=None, total_weight=None, Py_ssize_t place=0) except? -1:
        cdef Plan* plan = &self.plan
        cdef double scale = 1, total = count * plan.rows_out, value
        plan.mode = mode
        plan.batch_begin = first - place
        plan.key = self.key if mode >= GRADIENT else 0
        plan.carried = plan.left = NULL
        if self.carried is not None and mode >= GRADIENT:
            plan.carried, plan.left = <char*> address(self.carried), <char*> address(self.left)
        plan.outputs = NULL if out is None else <void*> address(out)
        plan.in_place = (not plan.is_sparse and plan.rows == NULL and plan.X_scale == 1 and plan.X_stride == plan.n_in
                         and plan.X_itemsize == (8 if self.is_double else 4))
        # Both cross-entropies start from Z: the output's activation is computed only where outputs are wanted.
        plan.last = (&plan.bare if plan.outputs == NULL and from_pre_activation(plan)
                     else &plan.operations[plan.n_operations - 1])
        if count == 0:
            return 0
        if mode >= GRADIENT and count > plan.batch_rows:
            raise ValueError(f"stop - start: expected at most {plan.batch_rows} rows, got {count}")
        if mode != PREDICT:
            if total_weight is not None:
                total = total_weight
            elif plan.weights != NULL:
                if self.is_double:
                    total = sum_weights[double](plan, <const double*> plan.weights, first, count)
                else:
                    total = sum_weights[float](plan, <const float*> plan.weights, first, count)
            # A batch whose weights are all 0 has no loss, no gradient and no penalties.
            scale = 1 / total if total > 0 else 0
        self._set_rules(l1 / total if total > 0 else 0, l2 / total if total > 0 else 0)
        with nogil:
            if self.is_double:
                value = run_batch[double](plan, <const double*> plan.parameters, first, count, scale)
            else:
                value = run_batch[float](plan, <const float*> plan.parameters, first, count, scale)
        return value

    def predict(self, out):
        """Writes the outputs of all rows to `out` (n, n_outputs), C-contiguous, of the network's dtype."""
        self._run(PREDICT, 0, out.shape[0], 0, 0, out)

    def value(self, program, int index, Py_ssize_t n):
        """A copy of a value of the program, (n·rows, width), as the last call left it in its first n rows: a call of one tile."""
        of = program.values[index]
        place, _, size, of_samples = self.places[index]
        if of_samples and self.plan.in_place or self.plan.n_threads > 1 or n > self.plan.tile_rows:
            raise ValueError("index: expected a value that an operation makes, of one tile of one thread")
        return self.keep["scratch"][place : place + n * size].reshape(-1, of.width).copy()

    def evaluate(self, Py_ssize_t n, out=None):
        """Mean loss over n rows, without penalties; their outputs to `out` where it is given."""
        return self._run(EVALUATE, 0, n, 0, 0, out)

    def gradient(self, Py_ssize_t start, Py_ssize_t stop, out, double l1=0, double l2=0, total=None, Py_ssize_t place=0):
        """Loss over rows start .. stop with penalties; its gradient to `out` (layout.size,).

        `total`: the sum of the weights of all samples of the batch, where these rows are only a part of it. The losses and gradients of
        the parts then add up to the batch's; penalties, which each part has whole, are to be asked of one of them. No rows have no
        gradient and no penalties. `place`: where in the batch the first of these rows is, for dropout and carried states.
        """
        if stop == start:
            out[...] = 0
        self.plan.gradient = <void*> address(out)
        return self._run(GRADIENT, start, stop - start, l1, l2, None, total, place)

    def step(self, Py_ssize_t start, Py_ssize_t stop, double learning_rate, Py_ssize_t t, double l1=0, double l2=0):
        """One update from rows start .. stop, the t-th of its moments (from 1). Returns the loss before it.

        Where that is not finite, parameters and moments stay as they are.
        """
        self._set_rate(learning_rate, t)
        return self._run(UPDATE, start, stop - start, l1, l2)

    def steps(self, Py_ssize_t stop, double[::1] rates, Py_ssize_t t, double[::1] losses, double l1=0, double l2=0):
        """`step` for each of these learning rates, all from rows 0 .. stop, the first one the t-th. Writes the losses, and returns how many
        there are: none follows one that is not finite."""
        cdef Py_ssize_t i
        for i in range(rates.shape[0]):
            self._set_rate(rates[i], t + i)
            losses[i] = self._run(UPDATE, 0, stop, l1, l2)
            if not isfinite(losses[i]):
                return i + 1
        return rates.shape[0]

    def update(self, gradient, double learning_rate, Py_ssize_t t, double scale=1):
        """One update by `scale` times a gradient (layout.size,), the t-th of its moments: the second half of `step`."""
        cdef Plan* plan = &self.plan
        if plan.blocks == NULL:
            raise ValueError("gradients: expected an Engine that was made for them, got one that was not")
        plan.mode = APPLY
        plan.gradient = <void*> address(gradient)
        plan.gradient_scale = scale
        self._set_rate(learning_rate, t)
        self._set_rules(0, 0)
        with nogil:
            if self.is_double:
                apply[double](plan, <const double*> plan.parameters)
            else:
                apply[float](plan, <const float*> plan.parameters)

    def norm(self, gradient):
        """The Euclidean norm of a vector laid out as the parameters, in double precision."""
        cdef size_t place = address(gradient)
        cdef double value
        with nogil:
            if self.is_double:
                value = norm[double](<const double*> place, self.plan.size)
            else:
                value = norm[float](<const float*> place, self.plan.size)
        return value

    cdef _set_rate(self, double learning_rate, Py_ssize_t t):
        cdef svdfast_update_rule* rule = &self.plan.rule
        rule.learning_rate = learning_rate
        rule.correction1 = 1 - pow(rule.beta1, t)
        rule.correction2 = 1 - pow(rule.beta2, t)
