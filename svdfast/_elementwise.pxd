# SPDX-License-Identifier: BSD-3-Clause
"""The C loops' table, for the other compiled modules. src/loops/elementwise.h says what each entry does."""

from libc.stdint cimport int32_t, int64_t


cdef extern from "elementwise.h" nogil:
    # The codes that Cython code names. All of them stand in the lists of src/loops.
    enum:
        SVDFAST_IDENTITY
        SVDFAST_SOFTMAX

    enum:
        SVDFAST_UINT8
        SVDFAST_FLOAT32
        SVDFAST_FLOAT64

    ctypedef struct svdfast_update_rule:
        int rule
        int nesterov
        double learning_rate
        double beta1
        double beta2
        double epsilon
        double correction1
        double correction2
        double weight_decay
        double l1
        double l2

    ctypedef struct svdfast_cell_step:
        Py_ssize_t p, n, stride
        const void* mask
        void* Z
        void* R
        void* S
        void* next
        void* H
        void* C
        void* before
        void* dZ
        void* dR
        void* dH
        void* dnext
        void* carry

    enum:
        SVDFAST_LARGEST
        SVDFAST_MEAN

    ctypedef struct svdfast_window:
        Py_ssize_t height, width, tall, wide, down, across, top, left, rows, columns

    enum:
        SVDFAST_GRADIENT_DESCENT
        SVDFAST_LANES

    ctypedef struct svdfast_entries:
        int type
        double scale
        const void* values
        const int32_t* columns
        const int64_t* begins

    ctypedef struct svdfast_columns:
        Py_ssize_t count
        int32_t* columns
        int64_t* begins
        int32_t* rows
        int32_t* owners
        void* values
        int64_t* places

    ctypedef struct svdfast_elementwise:
        void (*bias_activation)(int, double, Py_ssize_t, Py_ssize_t, const void*, void*, void*) noexcept nogil
        void (*activation_backward)(int, double, Py_ssize_t, Py_ssize_t, const void*, const void*, void*) noexcept nogil
        void (*loss)(int, Py_ssize_t, Py_ssize_t, const void*, const void*, const int32_t*, const void*,
                     const void*, const int64_t*, double, void*, double*) noexcept nogil
        double (*update)(const svdfast_update_rule*, Py_ssize_t, const void*, void*, void*, void*) noexcept nogil
        double (*add_penalty)(const svdfast_update_rule*, Py_ssize_t, const void*, void*) noexcept nogil
        void (*add_rows)(Py_ssize_t, Py_ssize_t, const void*, Py_ssize_t, void*) noexcept nogil
        void (*gather)(int, Py_ssize_t, Py_ssize_t, const void*, Py_ssize_t, const int64_t*, double, void*) noexcept nogil
        void (*cell)(int, const svdfast_cell_step*) noexcept nogil
        void (*cell_backward)(int, const svdfast_cell_step*) noexcept nogil
        void (*patches)(const svdfast_window*, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, const void*, void*) noexcept nogil
        void (*add_patches)(const svdfast_window*, Py_ssize_t, Py_ssize_t, Py_ssize_t, const void*, void*) noexcept nogil
        void (*pool)(int, const svdfast_window*, Py_ssize_t, Py_ssize_t, const void*, void*) noexcept nogil
        void (*pool_backward)(int, const svdfast_window*, Py_ssize_t, Py_ssize_t, const void*, const void*, const void*,
                              void*) noexcept nogil
        void (*make_dense)(const svdfast_entries*, Py_ssize_t, Py_ssize_t, Py_ssize_t, const int64_t*, void*) noexcept nogil
        void (*by_columns)(const svdfast_entries*, Py_ssize_t, Py_ssize_t, Py_ssize_t, const int64_t*, svdfast_columns*) noexcept nogil
        void (*sparse_product)(const svdfast_columns*, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, const void*, void*,
                               void*) noexcept nogil
        void (*take_lanes)(Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, const void*, void*) noexcept nogil
        void (*sparse_gradient)(const svdfast_columns*, Py_ssize_t, Py_ssize_t, Py_ssize_t, const void*, int, Py_ssize_t, Py_ssize_t,
                                int, void*) noexcept nogil
        void (*take_columns)(Py_ssize_t, const int32_t*, const void*, void*) noexcept nogil
        void (*put_columns)(Py_ssize_t, const int32_t*, const void*, void*) noexcept nogil


cdef const svdfast_elementwise* elementwise(int itemsize) noexcept nogil
cdef bint loss_reads_Z(int loss) noexcept nogil
