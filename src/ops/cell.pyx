# SPDX-License-Identifier: BSD-3-Clause
"""A step of a recurrent cell: the new state from what the input and the state before give. code: the cell. sizes: columns of Z, the first
of them that is its own, whether it has memory, whether there is a mask.

    X (p, G·n)  what the state gives to the G gates      Y (p, n)  the output, which is the new state

Other values of the step: Z and its delta, what the input gives; S and its delta, the states before each step; C, memory, where the cell
has one; a row a sample for what goes back past the state's product; and a mask, 0 where a step is
padding. The state, and the memory if there is one, are carried from batch to batch.
Elsewhere: the formulas (src/loops/cells.h), and the products.
"""

from cython cimport floating
from libc.string cimport memcpy

from svdfast._elementwise cimport elementwise, svdfast_cell_step
from svdfast.ops.operation cimport Kind, Operation, Pass, Tile, capsule

cdef Kind[2] kinds

cdef enum:
    Z, DELTA_OF_Z, S, DELTA_OF_S, CARRY, C    # of the other values; those that it has not are left out


cdef inline svdfast_cell_step step_of(const Operation* op, const Tile* tile, size_t size) noexcept nogil:
    """The argument of the loops; `size` bytes an element."""
    cdef:
        svdfast_cell_step step
        Py_ssize_t after = (-1 if op.reverse else 1) * tile.p * op.n * size     # from a step's states to those of the next
        bint is_last = tile.step == op.steps - 1
    step.p, step.n, step.stride = tile.p, op.n, op.sizes[0]
    step.R, step.H, step.dR, step.dH = tile.X, tile.Y, tile.dX, tile.dY
    step.Z = <char*> tile.others[Z] + op.sizes[1] * size
    step.dZ = NULL if tile.others[DELTA_OF_Z] == NULL else <char*> tile.others[DELTA_OF_Z] + op.sizes[1] * size
    step.S, step.carry = tile.others[S], tile.others[CARRY]
    step.C = tile.others[C] if op.sizes[2] else NULL
    step.mask = tile.others[C + op.sizes[2]] if op.sizes[3] else NULL
    step.next = <char*> tile.others[S] + after
    if is_last:
        step.next = tile.left[0] if op.n_carried > 0 else NULL
    step.dnext = NULL if is_last or tile.others[DELTA_OF_S] == NULL else <char*> tile.others[DELTA_OF_S] + after
    step.before = <char*> tile.others[C] - after if op.sizes[2] else NULL
    if tile.step == 0:
        step.before = tile.carried[1] if op.n_carried > 1 else NULL
    return step


cdef void forward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef svdfast_cell_step step = step_of(op, tile, sizeof(floating))
    elementwise(sizeof(floating)).cell(op.code, &step)
    if op.n_carried > 1 and tile.step == op.steps - 1 and tile.left[1] != NULL:
        memcpy(tile.left[1], step.C, tile.p * op.n * sizeof(floating))


cdef void backward(const Operation* op, const Tile* tile, const floating* W) noexcept nogil:
    cdef svdfast_cell_step step = step_of(op, tile, sizeof(floating))
    elementwise(sizeof(floating)).cell_backward(op.code, &step)


kinds[0] = Kind(<Pass> forward[float], <Pass> backward[float], NULL, NULL, NULL, NULL)
kinds[1] = Kind(<Pass> forward[double], <Pass> backward[double], NULL, NULL, NULL, NULL)
KIND = capsule(kinds)
