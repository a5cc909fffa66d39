/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The elementwise loops, which BLAS lacks: bias and activation, its derivative, losses,
 * penalties and the optimizers' update, and the gathering of rows.
 * Elsewhere: products of matrices (_blas.pyx) and the order in which loops run (cython_kernels.pyx, _engine.pyx).
 *
 * Design
 * - Every loop is written once for a type REAL, in elementwise_loops.h and the files that it includes.
 *   elementwise.c includes elementwise_loops.h once for each type and instruction set; importing the
 *   module chooses the best set that the CPU has.
 * - A caller asks once for the table of its element size and passes plain pointers; so no caller branches on
 *   the type, nor on the CPU.
 * - Matrices are C-contiguous, (p, n): p samples in rows. No loop allocates or fails.
 */
#ifndef SVDFAST_ELEMENTWISE_H
#define SVDFAST_ELEMENTWISE_H

#include <stddef.h>
#include <stdint.h>

#include "activations.h"
#include "cells.h"
#include "losses.h"
#include "sparse.h"
#include "updates.h"
#include "windows.h"

/* The codes of activations, losses and updates, in the order of their lists. */
#define SVDFAST_CODE(CODE, ...) SVDFAST_##CODE,
enum { SVDFAST_ACTIVATIONS(SVDFAST_CODE, SVDFAST_CODE) };
enum { SVDFAST_LOSSES(SVDFAST_CODE) };
enum { SVDFAST_UPDATES(SVDFAST_CODE) };
enum { SVDFAST_CELLS(SVDFAST_CODE) };
#undef SVDFAST_CODE

/* A code's name, and what it reads: "A", "Z" or "NOTHING". An activation's derivative reads that; a
 * loss is computed from it. */
typedef struct {
    const char *name, *reads;
} svdfast_named;

/* By code; a name that is NULL is the end. */
extern const svdfast_named svdfast_activations[], svdfast_losses[], svdfast_updates[], svdfast_cells[];

/* Element types of the rows that `gather` reads. */
enum { SVDFAST_UINT8, SVDFAST_FLOAT32, SVDFAST_FLOAT64 };

typedef struct {
    /* Z (p, n) += b (n); A (p, n) = f(Z). A == Z overwrites Z. */
    void (*bias_activation)(int activation, double parameter, ptrdiff_t p, ptrdiff_t n,
                            const void *b, void *Z, void *A);

    /* dZ (p, n): dA on entry, dA * f'(Z) on return. Reads A or Z, as the list
     * of activations says. */
    void (*activation_backward)(int activation, double parameter, ptrdiff_t p, ptrdiff_t n,
                                const void *Z, const void *A, void *dZ);

    /* losses[i] = w_i loss_i of a tile of p samples. delta (p, n) = scale * w_i * d loss_i / dZ for losses
     * that are computed from Z; scale * w_i * d loss_i / dA for those from A, as the list of losses says.
     * Sample i is row rows[i] (rows NULL: row i) of labels (integer classes), of targets (., n) and of weights (NULL: 1). */
    void (*loss)(int loss, ptrdiff_t p, ptrdiff_t n, const void *Z, const void *A, const int32_t *labels, const void *targets,
                 const void *weights, const int64_t *rows, double scale, void *delta, double *losses);

    /* w is updated by the rule, with g + l1 sign(w) + l2 w for its gradient: one pass. m, v: the moments, NULL where the rule
     * has none. Returns l1 sum|w| + l2/2 sum w^2 of w before the update. */
    double (*update)(const svdfast_update_rule *rule, ptrdiff_t n, const void *g, void *w, void *m, void *v);

    /* The same gradient without an update: g += l1 sign(w) + l2 w. */
    double (*add_penalty)(const svdfast_update_rule *rule, ptrdiff_t n, const void *w, void *g);

    /* y (n) += the rows of X (p, n), one after the other; rows `stride` elements apart. */
    void (*add_rows)(ptrdiff_t p, ptrdiff_t n, const void *X, ptrdiff_t stride, void *y);

    /* out (p, m) = scale * X[rows[i]]; X: rows of `type`, `stride` elements apart; rows NULL: row i. */
    void (*gather)(int type, ptrdiff_t p, ptrdiff_t m, const void *X, ptrdiff_t stride, const int64_t *rows,
                   double scale, void *out);

    /* A step of a recurrent cell, forward and back: cells.h says what is read and written. */
    void (*cell)(int cell, const svdfast_cell_step *step);
    void (*cell_backward)(int cell, const svdfast_cell_step *step);

    /* Rows begin .. end of the patches P of p images X (p, height, width, c), of which `SVDFAST_BEYOND_PATCHES` bytes beyond the last may
     * be written over, too; and X += such rows, each number where it came from. */
    void (*patches)(const svdfast_window *window, ptrdiff_t c, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t p, const void *X, void *P);
    void (*add_patches)(const svdfast_window *window, ptrdiff_t c, ptrdiff_t begin, ptrdiff_t end, const void *P, void *X);

    /* Y (p, rows, columns, c) = the largest of what lies under the window, or its mean; and dX from dY. */
    void (*pool)(int code, const svdfast_window *window, ptrdiff_t p, ptrdiff_t c, const void *X, void *Y);
    void (*pool_backward)(int code, const svdfast_window *window, ptrdiff_t p, ptrdiff_t c, const void *X, const void *Y, const void *dY,
                          void *dX);

    /* Sparse samples: sparse.h says what is read and written. */
    void (*make_dense)(const svdfast_entries *X, ptrdiff_t p, ptrdiff_t m, ptrdiff_t first, const int64_t *rows, void *out);
    void (*by_columns)(const svdfast_entries *X, ptrdiff_t p, ptrdiff_t m, ptrdiff_t first, const int64_t *rows, svdfast_columns *out);
    void (*sparse_product)(const svdfast_columns *X, ptrdiff_t p, ptrdiff_t m, ptrdiff_t n, ptrdiff_t first, ptrdiff_t stop,
                           const void *W, void *strip, void *Y);
    void (*take_lanes)(ptrdiff_t p, ptrdiff_t n, ptrdiff_t first, ptrdiff_t lanes, const void *dY, void *strip);
    void (*sparse_gradient)(const svdfast_columns *X, ptrdiff_t c, ptrdiff_t stop, ptrdiff_t lanes, const void *strip, int close,
                            ptrdiff_t base, ptrdiff_t stride, int accumulate, void *g);
    void (*take_columns)(ptrdiff_t count, const int32_t *columns, const void *w, void *out);
    void (*put_columns)(ptrdiff_t count, const int32_t *columns, const void *from, void *w);
} svdfast_elementwise;

/* The table for elements of 4 (float) or 8 (double) bytes, from the chosen instruction set. */
const svdfast_elementwise *svdfast_elementwise_for(int itemsize);

/* Choose "baseline", "avx2", "avx512", or NULL for the best that the CPU has. 0: done; -1: not known or not available. */
int svdfast_elementwise_select(const char *name);

/* The name of the set in use; whether the CPU (and this build) has the named set. */
const char *svdfast_elementwise_selected(void);
int svdfast_elementwise_available(const char *name);

/* on: hand out a table that times each loop (timing.h), with all sums at 0. Else the plain one again. No loop may be running. */
void svdfast_elementwise_measure(int on);

/* Seconds of all threads since then: in bias_activation, activation_backward, loss, cells, patches, pools and products by entries; in
 * gather, make_dense and by_columns; in update, add_penalty and add_rows. */
void svdfast_elementwise_measured(double *loops, double *gather, double *update);

#endif
