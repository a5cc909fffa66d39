# SPDX-License-Identifier: BSD-3-Clause
"""The whole network over one mini-batch: forward, loss, backward, gradient sum, update.

Not here: the products of a layer (cython_kernels.pyx), the loops (elementwise.h), checks of arguments and the schedule of a
training (svdfast/training.py).

Design
- A batch is split evenly over threads, a thread's share evenly into tiles of rows. A thread takes a tile through every layer, through
  the loss and back while its activations are in cache, and adds into a gradient vector of its own.
- Parameters are one flat vector, laid out by svdfast/layout.py: all weights, then all biases. Gradients and moments have the same
  layout, so the sum over threads, the penalties and the update are one pass (elementwise.h: update), each thread over its part.
- That makes two barriers a step and one Python call. Scratch memory is taken when an Engine is made; a step takes none.
- The split depends on the batch, the network and the number of threads, on nothing that varies from run to run, so the same
  numbers are added in the same order and results repeat bit for bit.
- Pointers in Plan are void*; `floating` functions cast them. One method, `_run`, looks at the type.
"""

import numpy as np

from cython.parallel cimport parallel, prange
from cython cimport floating
from libc.math cimport pow
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from svdfast cimport cython_kernels as kernels
from svdfast cimport _elementwise
from svdfast._elementwise cimport elementwise, svdfast_elementwise, svdfast_update_rule


cdef extern from "threads.h" nogil:
    int SVDFAST_HAS_OPENMP
    int svdfast_max_threads()

HAS_OPENMP = bool(SVDFAST_HAS_OPENMP)

# Rows of a tile: enough for a product to run at speed, few enough for its activations to stay in cache.
TILE_ROWS = 256

# Multiplications that must be there for each thread before a batch is split; below, waking a thread costs more.
cdef double WORK_PER_THREAD = 1e6

# Elements of 64 bytes at least: parts of vectors begin on cache lines, so threads do not write to the same one.
cdef Py_ssize_t GRAIN = 16

cdef enum Mode:
    PREDICT     # outputs
    EVALUATE    # outputs, if asked for, and loss
    GRADIENT    # loss and gradient
    UPDATE      # loss, gradient and update

cdef struct LayerPlan:
    Py_ssize_t m, n, l          # inputs, outputs, rank (0: dense)
    Py_ssize_t W1, W2, b        # places in the flat vector; a dense weight is at W1
    Py_ssize_t H, Z, A          # places in a thread's scratch; Z == A: the activation overwrites
    int activation
    double parameter

cdef struct Plan:
    int n_layers
    LayerPlan* layers
    Py_ssize_t size             # of the flat vector
    Py_ssize_t n_weights        # of them, before the biases
    Py_ssize_t tile_rows
    int n_threads
    double work                 # multiplications for one sample
    Py_ssize_t X_tile, delta, next_delta, D     # places in a thread's scratch
    # the network and what it is trained on
    void* parameters
    int loss
    int X_type
    const char* X
    Py_ssize_t X_itemsize
    Py_ssize_t X_stride         # elements from row to row
    double X_scale
    const int32_t* labels
    const void* targets
    const void* weights
    const int64_t* rows         # NULL: in order
    # one for each thread
    void** scratch
    void** gradients
    double* sums                # GRAIN apart
    # the update
    svdfast_update_rule rule
    svdfast_update_rule bias_rule
    void* moment1
    void* moment2
    # one run
    Mode mode
    void* outputs               # where they are wanted (PREDICT, EVALUATE), else NULL
    void* gradient              # their sum (GRADIENT)


cdef bint from_pre_activation(const Plan* plan) noexcept nogil:
    """Both cross-entropies include the output's activation: they start from Z and end at dZ."""
    return plan.loss in (_elementwise.SVDFAST_CROSS_ENTROPY, _elementwise.SVDFAST_BINARY_CROSS_ENTROPY)


cdef double run_tile(const Plan* plan, floating* scratch, floating* gradient, Py_ssize_t first, Py_ssize_t p,
                     double scale, bint accumulate) noexcept nogil:
    """Takes rows first .. first+p of the batch through the network. Returns the sum of their weighted losses."""
    cdef:
        const svdfast_elementwise* loops = elementwise(sizeof(floating))
        const floating* w = <const floating*> plan.parameters
        const LayerPlan* last = &plan.layers[plan.n_layers - 1]
        const LayerPlan* layer
        const int64_t* rows = plan.rows
        const int32_t* labels = plan.labels
        const floating* targets = <const floating*> plan.targets
        const floating* weights = <const floating*> plan.weights
        const char* source = plan.X
        const floating* X
        floating* X_tile
        floating* A
        floating* delta = scratch + plan.delta
        floating* next_delta = scratch + plan.next_delta
        floating* dX
        bint gather
        int i, activation
        double total
        # Both cross-entropies start from Z: the output's activation is computed only where outputs are wanted.
        int last_activation = (_elementwise.SVDFAST_IDENTITY if plan.outputs == NULL and from_pre_activation(plan)
                               else last.activation)

    if rows != NULL:
        rows += first
    else:
        source += first * plan.X_stride * plan.X_itemsize
        if labels != NULL:
            labels += first
        if targets != NULL:
            targets += first * last.n
        if weights != NULL:
            weights += first

    # X (p×m): the batch's own rows where they can be used as they lie, else gathered and scaled
    gather = (rows != NULL or plan.X_scale != 1 or plan.X_stride != plan.layers[0].m
              or plan.X_itemsize != <Py_ssize_t> sizeof(floating))
    if gather:
        X_tile = scratch + plan.X_tile
        loops.gather(plan.X_type, p, plan.layers[0].m, source, plan.X_stride, rows, plan.X_scale, X_tile)
    else:
        X_tile = <floating*> source
    X = X_tile

    for i in range(plan.n_layers):
        layer = &plan.layers[i]
        activation = last_activation if i == plan.n_layers - 1 else layer.activation
        A = scratch + layer.A
        if layer.l == 0:
            kernels.dense_forward[floating](X, w + layer.W1, w + layer.b, scratch + layer.Z, A,
                                            p, layer.m, layer.n, activation, layer.parameter)
        else:
            kernels.factored_forward[floating](X, w + layer.W1, w + layer.W2, w + layer.b, scratch + layer.H,
                                               scratch + layer.Z, A, p, layer.m, layer.n, layer.l,
                                               activation, layer.parameter)
        X = A

    if plan.outputs != NULL:
        memcpy(<floating*> plan.outputs + first * last.n, X, p * last.n * sizeof(floating))
    if plan.mode == PREDICT:
        return 0

    # delta (p×n): dZ of the last layer, or its dA where the loss starts from A
    total = loops.loss(plan.loss, p, last.n, scratch + last.Z, X, labels, targets, weights, rows, scale, delta)
    if plan.mode == EVALUATE:
        return total

    for i in range(plan.n_layers - 1, -1, -1):
        layer = &plan.layers[i]
        activation = last_activation if i == plan.n_layers - 1 else layer.activation
        if i > 0:
            X = scratch + plan.layers[i - 1].A
            dX = next_delta
        else:
            X = X_tile
            dX = NULL
        A = scratch + layer.A
        if layer.l == 0:
            kernels.dense_backward[floating](
                X, w + layer.W1, scratch + layer.Z, A, delta, gradient + layer.W1, gradient + layer.b, dX,
                p, layer.m, layer.n, activation, layer.parameter, accumulate)
        else:
            kernels.factored_backward[floating](
                X, scratch + layer.H, w + layer.W1, w + layer.W2, scratch + layer.Z, A, delta, scratch + plan.D,
                gradient + layer.W1, gradient + layer.W2, gradient + layer.b, dX,
                p, layer.m, layer.n, layer.l, activation, layer.parameter, accumulate)
        next_delta, delta = delta, next_delta
    return total


cdef double run_share(const Plan* plan, floating* scratch, floating* gradient, Py_ssize_t first, Py_ssize_t stop,
                      double scale) noexcept nogil:
    """A thread's rows, in tiles of nearly equal height. The first tile overwrites the gradient, the others add."""
    cdef:
        Py_ssize_t count = stop - first
        Py_ssize_t n_tiles = (count + plan.tile_rows - 1) // plan.tile_rows
        Py_ssize_t j, begin, end
        double total = 0
    for j in range(n_tiles):
        begin = first + j * count // n_tiles
        end = first + (j + 1) * count // n_tiles
        total += run_tile[floating](plan, scratch, gradient, begin, end - begin, scale, j > 0)
    return total


cdef double reduce_part(const Plan* plan, const floating* w, int n_gradients, Py_ssize_t first, Py_ssize_t stop,
                        const svdfast_update_rule* rule) noexcept nogil:
    """Sums the threads' gradients over first .. stop and updates there, or writes the sum out."""
    cdef:
        const svdfast_elementwise* loops = elementwise(sizeof(floating))
        floating* m = <floating*> plan.moment1
        floating* v = <floating*> plan.moment2
    if stop <= first:
        return 0
    if m != NULL:
        m += first
    if v != NULL:
        v += first
    if plan.mode == UPDATE:
        return loops.update(rule, stop - first, n_gradients, plan.gradients, first, <void*> (w + first), m, v)
    return loops.sum_gradients(rule, stop - first, n_gradients, plan.gradients, first, w + first,
                               <floating*> plan.gradient + first)


cdef double reduce_share(const Plan* plan, const floating* w, int t, int n_parts, int n_gradients) noexcept nogil:
    """Thread t's part of the flat vector. Penalties and decay are for weights only."""
    cdef:
        Py_ssize_t first = plan.size * t // n_parts // GRAIN * GRAIN
        Py_ssize_t stop = plan.size if t == n_parts - 1 else plan.size * (t + 1) // n_parts // GRAIN * GRAIN
        double penalty
    penalty = reduce_part[floating](plan, w, n_gradients, first, min(stop, plan.n_weights), &plan.rule)
    penalty += reduce_part[floating](plan, w, n_gradients, max(first, plan.n_weights), stop, &plan.bias_rule)
    return penalty


cdef double run_batch(const Plan* plan, const floating* w, Py_ssize_t first, Py_ssize_t count,
                      double scale) noexcept nogil:
    """Rows first .. first+count. Returns scale * (sum of weighted losses) + penalties."""
    cdef:
        int n = plan.n_threads
        int t
        double total = 0, penalty = 0
    # As many threads as there is work for; always the same number for the same batch.
    if count * plan.work < n * WORK_PER_THREAD:
        n = max(1, <int> (count * plan.work / WORK_PER_THREAD))
    if n > count:
        n = <int> count
    if n == 1:
        total = run_share[floating](plan, <floating*> plan.scratch[0], <floating*> plan.gradients[0],
                                    first, first + count, scale)
        if plan.mode >= GRADIENT:
            penalty = reduce_share[floating](plan, w, 0, 1, 1)
        return scale * total + penalty
    with parallel(num_threads=n):
        for t in prange(n, schedule="static"):
            plan.sums[t * GRAIN] = run_share[floating](
                plan, <floating*> plan.scratch[t], <floating*> plan.gradients[t],
                first + t * count // n, first + (t + 1) * count // n, scale)
        # Each loop over threads ends in a barrier.
        for t in prange(n, schedule="static"):
            if plan.mode >= GRADIENT:
                plan.sums[t * GRAIN + 1] = reduce_share[floating](plan, w, t, n, n)
    for t in range(n):
        total += plan.sums[t * GRAIN]
        if plan.mode >= GRADIENT:
            penalty += plan.sums[t * GRAIN + 1]
    return scale * total + penalty


cdef double sum_weights(const Plan* plan, const floating* weights, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t i
    for i in range(first, first + count):
        total += weights[i if plan.rows == NULL else plan.rows[i]]
    return total


cdef Py_ssize_t whole_lines(Py_ssize_t n) noexcept nogil:
    """n rounded up to whole GRAINs."""
    return (n + GRAIN - 1) // GRAIN * GRAIN


cdef size_t address(array) except? 0:
    return <size_t> array.__array_interface__["data"][0]


def aligned_zeros(Py_ssize_t size, dtype):
    """A vector of zeros that begins on a 64-byte boundary."""
    dtype = np.dtype(dtype)
    space = np.zeros(size * dtype.itemsize + 64, dtype=np.uint8)
    start = -address(space) % 64
    return space[start : start + size * dtype.itemsize].view(dtype)


def max_threads():
    """The threads that OpenMP would use by itself; 1 in a build without it."""
    return svdfast_max_threads()


cdef class Engine:
    """One network's layout bound to its parameters and to scratch memory for batches of up to `batch_size` rows.

    Not safe for use by two Python threads at once: each makes its own. Arguments were checked by the callers.

    Parameters
    ----------
    layout : svdfast.layout.Layout
    parameters : ndarray (layout.size,), float32 or float64, contiguous
        Used in place, and changed by `step`.
    batch_size : int
    n_threads : int
    gradients : bool
        Whether memory for gradients is needed.
    tile_rows : int, optional
    """

    cdef Plan plan
    cdef bint is_double
    cdef dict keep              # the arrays that Plan points into
    cdef readonly object order  # rows in the order in which batches take them, or None

    def __cinit__(self, layout, *args, **kwargs):
        self.plan.layers = <LayerPlan*> calloc(len(layout.layers), sizeof(LayerPlan))
        if self.plan.layers == NULL:
            raise MemoryError
        self.keep = {}

    def __dealloc__(self):
        free(self.plan.layers)

    def __init__(self, layout, parameters, *, batch_size, n_threads, gradients=True, tile_rows=None):
        cdef Py_ssize_t place = 0, rows, i, widest = 1, widest_rank = 0
        cdef LayerPlan* layer
        dtype = parameters.dtype
        self.is_double = dtype.itemsize == 8
        self.keep["parameters"] = parameters
        self.plan.parameters = <void*> address(parameters)
        self.plan.n_layers = len(layout.layers)
        self.plan.size = layout.size
        self.plan.n_weights = layout.n_weights
        self.plan.n_threads = max(1, min(n_threads, batch_size))
        rows = max(1, min(tile_rows or TILE_ROWS, (batch_size + self.plan.n_threads - 1) // self.plan.n_threads))
        self.plan.tile_rows = rows
        self.plan.X_tile = place
        place += whole_lines(rows * layout.layers[0].n_in)
        for i in range(self.plan.n_layers):
            layer = &self.plan.layers[i]
            spec = layout.layers[i]
            layer.m, layer.n, layer.l = spec.n_in, spec.n_out, spec.rank or 0
            layer.W1, layer.W2, layer.b = spec.W1, spec.W2, spec.b
            layer.activation, layer.parameter = spec.activation.code, spec.activation.parameter
            layer.H = place
            place += whole_lines(rows * layer.l)
            layer.A = place
            place += whole_lines(rows * layer.n)
            # The last layer's loss and GELU's derivative need Z after A is there.
            if i == self.plan.n_layers - 1 or layer.activation == _elementwise.SVDFAST_GELU:
                layer.Z = place
                place += whole_lines(rows * layer.n)
            else:
                layer.Z = layer.A
            widest = max(widest, layer.n)
            widest_rank = max(widest_rank, layer.l)
            self.plan.work += 3 * (layer.m * layer.n if layer.l == 0 else layer.l * (layer.m + layer.n))
        self.plan.delta = place
        place += whole_lines(rows * widest)
        self.plan.next_delta = place
        place += whole_lines(rows * widest)
        self.plan.D = place
        place += whole_lines(rows * widest_rank)

        n = self.plan.n_threads
        scratch = [aligned_zeros(place, dtype) for _ in range(n)]
        gradients = [aligned_zeros(layout.size if gradients else 0, dtype) for _ in range(n)]
        self.keep["scratch"] = scratch, gradients
        self.plan.scratch = <void**> self._pointers("scratch pointers", scratch)
        self.plan.gradients = <void**> self._pointers("gradient pointers", gradients)
        sums = self.keep["sums"] = aligned_zeros(n * GRAIN, np.float64)
        self.plan.sums = <double*> address(sums)

    cdef size_t _pointers(self, name, arrays) except? 0:
        table = self.keep[name] = np.array([address(a) for a in arrays], dtype=np.uintp)
        return address(table)

    def bind(self, inputs, loss=None, targets=None, weights=None):
        """The data that batches are taken from: svdfast.data.Inputs and Targets; weights (n,) of the network's dtype."""
        X = inputs.array
        self.keep["data"] = X, targets, weights
        self.plan.X = <const char*> address(X)
        self.plan.X_type = inputs.code
        self.plan.X_itemsize = X.itemsize
        self.plan.X_stride = X.strides[0] // X.itemsize
        self.plan.X_scale = inputs.scale
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

    def set_order(self, rows):
        """Rows (n,) int64 in the order in which batches take them; None: as they lie."""
        self.order = rows
        self.plan.rows = NULL
        if rows is not None:
            self.plan.rows = <const int64_t*> address(rows)

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

    cdef double _run(self, Mode mode, Py_ssize_t first, Py_ssize_t count, double l1, double l2,
                     out=None) except? -1:
        cdef Plan* plan = &self.plan
        cdef double scale = 1, value
        plan.mode = mode
        plan.outputs = NULL if out is None else <void*> address(out)
        if count == 0:
            return 0
        with nogil:
            if mode != PREDICT:
                scale = count
                if plan.weights != NULL:
                    if self.is_double:
                        scale = sum_weights[double](plan, <const double*> plan.weights, first, count)
                    else:
                        scale = sum_weights[float](plan, <const float*> plan.weights, first, count)
                # A batch whose weights are all 0 has no loss and no gradient.
                scale = 1 / scale if scale > 0 else 0
            plan.rule.l1 = l1 / count
            plan.rule.l2 = l2 / count
            plan.bias_rule = plan.rule
            plan.bias_rule.l1 = 0
            plan.bias_rule.l2 = 0
            plan.bias_rule.weight_decay = 0
            if self.is_double:
                value = run_batch[double](plan, <const double*> plan.parameters, first, count, scale)
            else:
                value = run_batch[float](plan, <const float*> plan.parameters, first, count, scale)
        return value

    def predict(self, out):
        """Writes the outputs of all rows to `out` (n, n_outputs), C-contiguous, of the network's dtype."""
        self._run(PREDICT, 0, out.shape[0], 0, 0, out)

    def evaluate(self, Py_ssize_t n, out=None):
        """Mean loss over n rows, without penalties; their outputs to `out` where it is given."""
        return self._run(EVALUATE, 0, n, 0, 0, out)

    def gradient(self, Py_ssize_t start, Py_ssize_t stop, out, double l1=0, double l2=0):
        """Loss over rows start .. stop with penalties; its gradient to `out` (layout.size,)."""
        self.plan.gradient = <void*> address(out)
        return self._run(GRADIENT, start, stop - start, l1, l2)

    def step(self, Py_ssize_t start, Py_ssize_t stop, double learning_rate, Py_ssize_t t, double l1=0, double l2=0):
        """One update from rows start .. stop, the t-th of its moments (from 1). Returns the loss before it."""
        cdef svdfast_update_rule* rule = &self.plan.rule
        rule.learning_rate = learning_rate
        rule.correction1 = 1 - pow(rule.beta1, t)
        rule.correction2 = 1 - pow(rule.beta2, t)
        return self._run(UPDATE, start, stop - start, l1, l2)
