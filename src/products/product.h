/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Products of row-major float matrices on AVX2 and AVX-512, for the shapes of tiles: a few hundred rows, inner sizes from 10 to a
 * few thousand; of their elements rounded to bfloat16, too. Used by _blas.pyx in BLAS's place. Not here: other types and CPUs, which BLAS
 * serves.
 */
#ifndef SVDFAST_PRODUCT_H
#define SVDFAST_PRODUCT_H

#include <stddef.h>

/* Chooses the products of "avx2" or "avx512", or NULL for the best that the CPU has. Returns whether this build and CPU have them;
 * where not, the choice stays. To be called, with success, before svdfast_product. */
int svdfast_product_select(const char *name);

/* C (m×n) := op(A) (m×k) op(B) (k×n), or += where `accumulate`. Rows are lda, ldb, ldc elements apart. */
void svdfast_product(int transpose_A, int transpose_B, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *A, ptrdiff_t lda,
                     const float *B, ptrdiff_t ldb, int accumulate, float *C, ptrdiff_t ldc);

/* The same of elements rounded to bfloat16 (8 bits of precision), sums in float, on CPUs with AVX512_BF16. Sums are taken two products at a
 * time, and denormals count as zero. Whether this build and CPU have it; to be called, with success, before the product. */
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
