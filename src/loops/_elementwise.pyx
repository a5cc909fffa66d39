# SPDX-License-Identifier: BSD-3-Clause
"""Owns the C loops of elementwise.h: chooses their instruction set at import, hands out their table, and says which codes they know.

Elsewhere: the loops themselves, and their callers. This module needs neither NumPy nor SciPy, so that the CPU can be asked
for its features before SciPy's BLAS is loaded.
"""

import os

from cython cimport floating


cdef extern from "elementwise.h" nogil:
    const svdfast_elementwise* svdfast_elementwise_for(int itemsize)
    int svdfast_elementwise_select(const char* name)
    const char* svdfast_elementwise_selected()
    int svdfast_elementwise_available(const char* name)
    void svdfast_elementwise_measure(int on)
    void svdfast_elementwise_measured(double* loops, double* gather, double* update)

    ctypedef struct svdfast_named:
        const char* name
        const char* reads
    const svdfast_named* svdfast_activations
    const svdfast_named* svdfast_losses
    const svdfast_named* svdfast_updates
    const svdfast_named* svdfast_cells

INSTRUCTION_SETS = ("baseline", "avx2", "avx512")


cdef dict codes(const svdfast_named* named):
    """The codes of a list of elementwise.h by their names."""
    cdef int code = 0
    found = {}
    while named[code].name != NULL:
        found[named[code].name.decode()] = code
        code += 1
    return found


ACTIVATIONS = codes(svdfast_activations)
LOSSES = codes(svdfast_losses)
UPDATES = codes(svdfast_updates)
CELLS = codes(svdfast_cells)
ELEMENT_TYPES = {"uint8": SVDFAST_UINT8, "float32": SVDFAST_FLOAT32, "float64": SVDFAST_FLOAT64}

# The input of an activation's derivative: "A", "Z", or None where f'(z) is 1.
BACKWARD_READS = {
    name: {b"A": "A", b"Z": "Z"}.get(svdfast_activations[code].reads) for name, code in ACTIVATIONS.items()
}


cdef const svdfast_elementwise* elementwise(int itemsize) noexcept nogil:
    """The table for elements of `itemsize` bytes: 4 (float) or 8 (double)."""
    return svdfast_elementwise_for(itemsize)


cdef bint loss_reads_Z(int loss) noexcept nogil:
    """True if a loss includes the output's activation: it is computed from Z, and its delta is dZ."""
    return svdfast_losses[loss].reads[0] == b"Z"


def available_instruction_sets():
    """Names of the instruction sets that this CPU and this build have, the baseline first."""
    return tuple(name for name in INSTRUCTION_SETS if svdfast_elementwise_available(name.encode()))


def selected_instruction_set():
    """Name of the instruction set that the loops use."""
    return svdfast_elementwise_selected().decode()


def measure(bint on):
    """Begins to time the loops, from 0, or ends it. For svdfast/_process/timing.py, which also ends it."""
    svdfast_elementwise_measure(on)


def measured():
    """Seconds of all threads in loops, in gathering, in summing gradients and updating."""
    cdef double loops, gather, update
    svdfast_elementwise_measured(&loops, &gather, &update)
    return loops, gather, update


def update(rule, double learning_rate, Py_ssize_t t, const floating[::1] g, floating[::1] w,
           floating[::1] m=None, floating[::1] v=None, double l1=0, double l2=0):
    """The t-th update of w by its gradient g, and of its moments: svdfast.training.optimizers.Rule says which. Returns the penalties.

    For benches and tests; the engine calls the loop itself. Checks sizes, and that the rule's moments are given.
    """
    cdef:
        svdfast_update_rule rule_
        const svdfast_elementwise* loops = elementwise(sizeof(floating))
        Py_ssize_t n = w.shape[0]
        floating* m_ = NULL
        floating* v_ = NULL
        double penalty
    if (m is not None, v is not None) != (len(rule.kinds) > 0, len(rule.kinds) > 1):
        raise ValueError("m and v: expected the moments that the rule has")
    if n == 0:
        raise ValueError("w: expected at least one element")
    if g.shape[0] != n or (m is not None and m.shape[0] != n) or (v is not None and v.shape[0] != n):
        raise ValueError("g, w, m and v: expected equal lengths")
    if t < 1:
        raise ValueError(f"t: expected at least 1, got {t}")
    rule_.rule = rule.code
    rule_.nesterov = rule.nesterov
    rule_.learning_rate = learning_rate
    rule_.beta1 = rule.beta1
    rule_.beta2 = rule.beta2
    rule_.epsilon = rule.epsilon
    rule_.correction1 = 1 - rule.beta1**t
    rule_.correction2 = 1 - rule.beta2**t
    rule_.weight_decay = rule.weight_decay
    rule_.l1 = l1
    rule_.l2 = l2
    if m is not None:
        m_ = &m[0]
    if v is not None:
        v_ = &v[0]
    with nogil:
        penalty = loops.update(&rule_, n, &g[0], &w[0], m_, v_)
    return penalty


def _select():
    wanted = os.environ.get("SVDFAST_CPU", "")
    if wanted == "":
        svdfast_elementwise_select(NULL)
    elif svdfast_elementwise_select(wanted.encode()) != 0:
        raise ImportError(
            f"SVDFAST_CPU={wanted!r}: expected one of {', '.join(available_instruction_sets())} on this CPU"
        )


_select()
