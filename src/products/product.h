/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Products of row-major float matrices on AVX2 and AVX-512, for the shapes of tiles: a few hundred rows, inner sizes from 10 to a
 * few thousand; of their elements rounded to bfloat16, too. Used by _blas.pyx in BLAS's place. Elsewhere: other types and CPUs,
 * which BLAS serves.
 */
#ifndef SVDFAST_PRODUCT_H
#define SVDFAST_PRODUCT_H

#include "windows.h"

#include <stddef.h>

/* Chooses the products of "avx2" or "avx512", or NULL for the best that the CPU has. Returns whether this build and CPU have them;
 * where not, the choice stays. To be called, with success, before svdfast_product. */
int svdfast_product_select(const char *name);

/* C (m×n) := op(A) (m×k) op(B) (k×n), or += where `accumulate`. Rows are lda, ldb, ldc elements apart. */
void svdfast_product(int transpose_A, int transpose_B, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *A, ptrdiff_t lda,
                     const float *B, ptrdiff_t ldb, int accumulate, float *C, ptrdiff_t ldc);

/* Whether products that this thread makes from now on may go another way for few rows of op(A), and for the last rows of more, which
 * is faster where B is transposed. Then a row of C depends in its last bits on how many there are. Not at first. */
void svdfast_few_rows_apart(int apart);

/* Products with the patches P (p·rows·columns, tall·wide·c) of images X (p·height·width, c), which are not formed. W is (n, tall·wide·c).
 *
 *     convolution:            Y (p·rows·columns, n) := P Wᵀ
 *     convolution_back:       dX (p·height·width, c) := what dY W adds to each position, for windows that move by single steps
 *     convolution_gradient:   g (stop - first, tall·wide·c) := rows first .. stop of dYᵀ P, or += where `accumulate`
 *
 * A row of Y or dX, and an element of g, is the same whatever others are asked for. To be called where svdfast_convolution_fits, after a
 * successful svdfast_product_select: where there are enough places for it to be faster, and a row of them sees few enough numbers; the way
 * back where svdfast_convolution_back_pays. */
int svdfast_convolution_fits(const svdfast_window *w, ptrdiff_t c);
int svdfast_convolution_back_pays(const svdfast_window *w, ptrdiff_t c, ptrdiff_t n);
void svdfast_convolution(const svdfast_window *w, ptrdiff_t p, ptrdiff_t c, ptrdiff_t n, const float *X, const float *W, float *Y);
void svdfast_convolution_back(const svdfast_window *w, ptrdiff_t p, ptrdiff_t c, ptrdiff_t n, const float *dY, const float *W, float *dX);
void svdfast_convolution_gradient(const svdfast_window *w, ptrdiff_t p, ptrdiff_t c, ptrdiff_t n, const float *X, const float *dY,
                                  ptrdiff_t first, ptrdiff_t stop, int accumulate, float *g);

/* svdfast_product of elements rounded to bfloat16 (8 bits of precision), sums in float, on CPUs with
 * AVX512_BF16. Sums are taken two products at a time, and denormals count as zero.
 * svdfast_bfloat16_select is true if this build and CPU have it. It must be called, with success,
 * before the product. */
int svdfast_bfloat16_select(void);
void svdfast_bfloat16_product(int transpose_A, int transpose_B, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *A, ptrdiff_t lda,
                              const float *B, ptrdiff_t ldb, int accumulate, float *C, ptrdiff_t ldc);

/* For an op(B) (k×n) that several of these products take: packed, of svdfast_packed_size floats, := its panels, rounded; of them the i-th of
 * `count` nearly equal parts, so that threads may share the work. A product with transpose_B SVDFAST_PACKED takes it for B, and gives the same
 * bits as with B itself. */
enum { SVDFAST_PACKED = 2 };
ptrdiff_t svdfast_packed_size(ptrdiff_t n, ptrdiff_t k);
void svdfast_pack(int transpose_B, ptrdiff_t n, ptrdiff_t k, const float *B, ptrdiff_t ldb, int i, int count, float *packed);

/* For other CPUs: out := X (rows×columns) rounded like that, contiguous. */
void svdfast_round_bfloat16(ptrdiff_t rows, ptrdiff_t columns, const float *X, ptrdiff_t ldx, float *out);

#endif
