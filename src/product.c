/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Products of row-major float matrices on AVX-512. See product.h.
 *
 * Design
 * - A micro-kernel holds a block of C, up to 14 rows × 32 columns, in 28 of the 32 vector registers; for each k it loads one row of
 *   B (two vectors) and broadcasts one column of A (14 elements). 28 multiply-adds to 16 loads: the multiply-adds are the limit.
 * - A is read where it lies. Either its rows or its columns are contiguous, so what is read next is near.
 * - B is copied, 32 columns and up to DEPTH rows at a time, into a panel on the stack: then its rows are contiguous whatever its layout,
 *   and power-of-two strides do not fall on the same cache lines. The panel is used by all rows of A before the next is made. It is
 *   the only scratch memory, so there is nothing to allocate or to share between threads.
 * - Rows of A and C go in blocks of HEIGHT, so that the block of A stays in the second-level cache while panels pass.
 * - Sizes that are not multiples are met by kernels of fewer rows and by masks on the last vector of columns.
 */
#include "product.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum {
    ROWS = 14,      /* of a block of C in registers */
    COLUMNS = 32,
    DEPTH = 512,    /* rows of a panel of B: 64 KiB */
    HEIGHT = 504,   /* rows of A at a time */
    FEW_ROWS = 70,  /* up to here a panel is used too seldom to be worth copying, if B's rows are contiguous, */
    ALIASING = 1024 /* unless their stride is a multiple of this, when rows fall on the same cache lines */
};

/* x (16×16) = its transpose. */
INLINE void transpose(__m512 x[16])
{
    __m512 t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
#define PD(a) _mm512_castps_pd(a)
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(PD(t[i]), PD(t[i + 2])));
        x[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(PD(t[i]), PD(t[i + 2])));
        x[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(PD(t[i + 1]), PD(t[i + 3])));
        x[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(PD(t[i + 1]), PD(t[i + 3])));
    }
#undef PD
    /* Now lane q of x[4 g + r] holds column 4 q + r of rows 4 g .. 4 g + 3: transpose the 4×4 of lanes. */
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        const __m512 low = _mm512_shuffle_f32x4(x[r], x[4 + r], 0x88), high = _mm512_shuffle_f32x4(x[r], x[4 + r], 0xdd);
        const __m512 low2 = _mm512_shuffle_f32x4(x[8 + r], x[12 + r], 0x88), high2 = _mm512_shuffle_f32x4(x[8 + r], x[12 + r], 0xdd);
        t[r] = _mm512_shuffle_f32x4(low, low2, 0x88);
        t[4 + r] = _mm512_shuffle_f32x4(high, high2, 0x88);
        t[8 + r] = _mm512_shuffle_f32x4(low, low2, 0xdd);
        t[12 + r] = _mm512_shuffle_f32x4(high, high2, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        x[i] = t[i];
}

/* C (rows×columns) (+)= A (rows×k) B (k×columns), columns <= 16 vectors. A's element (i, j) is at i * row + j * column.
 * With `turned` Cᵀ is stored. */
INLINE void micro_kernel(const int rows, const int vectors, const int turned, ptrdiff_t k, const float *A, ptrdiff_t row, ptrdiff_t column,
                         const float *B, ptrdiff_t ldb, __mmask16 last, int accumulate, float *C, ptrdiff_t ldc)
{
    __m512 c[ROWS][2];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            c[i][v] = _mm512_setzero_ps();
    if (accumulate && !turned)
        for (int i = 0; i < rows; i++) {
            _mm_prefetch((const char *)(C + i * ldc), _MM_HINT_T0);
            _mm_prefetch((const char *)(C + i * ldc + 16), _MM_HINT_T0);
        }
    /* Rows are addressed from two pointers by multiples that x86 has addressing modes for, so that all fit in registers. */
    const char *a0 = (const char *)A, *a7 = (const char *)(A + 7 * row);
    ptrdiff_t r1 = row * (ptrdiff_t)sizeof(float), r3 = 3 * r1, r5 = 5 * r1;
    const ptrdiff_t step = column * (ptrdiff_t)sizeof(float);
    for (ptrdiff_t j = 0; j < k; j++) {
        __m512 b[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            b[v] = v == vectors - 1 ? _mm512_maskz_loadu_ps(last, B + 16 * v) : _mm512_loadu_ps(B + 16 * v);
        B += ldb;
#define ROW(i, address)                                                \
    if (i < rows) {                                                    \
        const __m512 a = _mm512_set1_ps(*(const float *)(address));    \
        c[i][0] = _mm512_fmadd_ps(a, b[0], c[i][0]);                   \
        if (vectors == 2)                                              \
            c[i][1] = _mm512_fmadd_ps(a, b[1], c[i][1]);               \
    }
        ROW(0, a0)
        ROW(1, a0 + r1)
        ROW(2, a0 + 2 * r1)
        ROW(3, a0 + r3)
        ROW(4, a0 + 4 * r1)
        ROW(5, a0 + r5)
        ROW(6, a0 + 2 * r3)
        ROW(7, a7)
        ROW(8, a7 + r1)
        ROW(9, a7 + 2 * r1)
        ROW(10, a7 + r3)
        ROW(11, a7 + 4 * r1)
        ROW(12, a7 + r5)
        ROW(13, a7 + 2 * r3)
#undef ROW
        a0 += step;
        a7 += step;
        /* Keeps the compiler from replacing the addressing modes by fourteen pointers. */
        __asm__("" : "+r"(a0), "+r"(a7), "+r"(r1), "+r"(r3), "+r"(r5));
    }
    if (turned) {
        const __mmask16 mask = (__mmask16)((1u << rows) - 1);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            const int columns = v == vectors - 1 ? __builtin_popcount(last) : 16;
            __m512 x[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                x[i] = i < rows ? c[i][v] : _mm512_setzero_ps();
            transpose(x);
            float *to = C + 16 * v * ldc;
#pragma GCC unroll 16
            for (int j = 0; j < 16; j++)
                if (j < columns) {
                    if (accumulate)
                        x[j] = _mm512_add_ps(x[j], _mm512_maskz_loadu_ps(mask, to + j * ldc));
                    _mm512_mask_storeu_ps(to + j * ldc, mask, x[j]);
                }
        }
        return;
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            const __mmask16 mask = v == vectors - 1 ? last : (__mmask16)0xffff;
            float *to = C + i * ldc + 16 * v;
            if (accumulate)
                c[i][v] = _mm512_add_ps(c[i][v], _mm512_maskz_loadu_ps(mask, to));
            _mm512_mask_storeu_ps(to, mask, c[i][v]);
        }
}

typedef void kernel(ptrdiff_t k, const float *A, ptrdiff_t stride, const float *B, ptrdiff_t ldb, __mmask16 last, int accumulate,
                    float *C, ptrdiff_t ldc);

/* Kernels by form (A's rows contiguous, A's columns contiguous, A's rows contiguous and C turned), vectors and rows. */
enum { ROWS_CONTIGUOUS, COLUMNS_CONTIGUOUS, TURNED };

#define DEFINE(form, row, column, turned, rows, vectors)                                                            \
    TARGET static void form##_##rows##_##vectors(ptrdiff_t k, const float *A, ptrdiff_t stride, const float *B,      \
                                                 ptrdiff_t ldb, __mmask16 last, int accumulate, float *C,            \
                                                 ptrdiff_t ldc)                                                      \
    {                                                                                                                \
        micro_kernel(rows, vectors, turned, k, A, row, column, B, ldb, last, accumulate, C, ldc);                    \
    }
#define DEFINE_FORMS(rows, vectors)                      \
    DEFINE(by_rows, stride, 1, 0, rows, vectors)         \
    DEFINE(by_columns, 1, stride, 0, rows, vectors)      \
    DEFINE(and_turned, stride, 1, 1, rows, vectors)

#define FOR_EACH_ROWS(X, vectors)                                                                                       \
    X(1, vectors) X(2, vectors) X(3, vectors) X(4, vectors) X(5, vectors) X(6, vectors) X(7, vectors) X(8, vectors)     \
    X(9, vectors) X(10, vectors) X(11, vectors) X(12, vectors) X(13, vectors) X(14, vectors)

FOR_EACH_ROWS(DEFINE_FORMS, 1)
FOR_EACH_ROWS(DEFINE_FORMS, 2)

#define NAME_ROWS(rows, vectors) by_rows_##rows##_##vectors,
#define NAME_COLUMNS(rows, vectors) by_columns_##rows##_##vectors,
#define NAME_TURNED(rows, vectors) and_turned_##rows##_##vectors,
static kernel *const KERNELS[3][2][ROWS] = {
    {{FOR_EACH_ROWS(NAME_ROWS, 1)}, {FOR_EACH_ROWS(NAME_ROWS, 2)}},
    {{FOR_EACH_ROWS(NAME_COLUMNS, 1)}, {FOR_EACH_ROWS(NAME_COLUMNS, 2)}},
    {{FOR_EACH_ROWS(NAME_TURNED, 1)}, {FOR_EACH_ROWS(NAME_TURNED, 2)}},
};

/* panel (k×16·vectors) = B (k×columns), rows contiguous. Columns beyond are not read, by B nor from the panel. */
TARGET static void copy_panel(ptrdiff_t k, int vectors, __mmask16 last, const float *B, ptrdiff_t ldb, float *panel)
{
    for (ptrdiff_t j = 0; j < k; j++) {
        if (vectors == 2)
            _mm512_store_ps(panel, _mm512_loadu_ps(B));
        _mm512_store_ps(panel + 16 * (vectors - 1), _mm512_maskz_loadu_ps(last, B + 16 * (vectors - 1)));
        panel += 16 * vectors;
        B += ldb;
    }
}

/* panel (k×16·vectors) = Bᵀ, B (columns×k): the panel's columns are rows of B. Zeros beyond. */
TARGET static void transpose_panel(ptrdiff_t k, int vectors, ptrdiff_t columns, const float *B, ptrdiff_t ldb, float *panel)
{
    for (int v = 0; v < vectors; v++)
        for (ptrdiff_t j = 0; j < k; j += 16) {
            const ptrdiff_t width = k - j < 16 ? k - j : 16;
            const __mmask16 mask = (__mmask16)((1u << width) - 1);
            __m512 x[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                x[i] = 16 * v + i < columns ? _mm512_maskz_loadu_ps(mask, B + (16 * v + i) * ldb + j) : _mm512_setzero_ps();
            transpose(x);
            float *to = panel + j * 16 * vectors + 16 * v;
            if (width == 16) {
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++)
                    _mm512_store_ps(to + i * 16 * vectors, x[i]);
            } else {
                for (int i = 0; i < width; i++)
                    _mm512_store_ps(to + i * 16 * vectors, x[i]);
            }
        }
}

/* C (m×n) (+)= op(A) op(B) by kernels of a form. TURNED: C's rows are the product's columns. */
static void product(int form, int transpose_B, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *A, ptrdiff_t lda,
                    const float *B, ptrdiff_t ldb, int accumulate, float *C, ptrdiff_t ldc)
{
    float space[DEPTH * COLUMNS] __attribute__((aligned(64)));
    const ptrdiff_t n_depths = k > 0 ? (k + DEPTH - 1) / DEPTH : 1;
    const ptrdiff_t n_heights = (m + HEIGHT - 1) / HEIGHT;
    for (ptrdiff_t d = 0; d < n_depths; d++) {
        /* Blocks of nearly equal depth and height, so that no thin one is left over. */
        const ptrdiff_t first = d * k / n_depths, depth = (d + 1) * k / n_depths - first;
        for (ptrdiff_t h = 0; h < n_heights; h++) {
            const ptrdiff_t top = h * m / n_heights, bottom = (h + 1) * m / n_heights;
            for (ptrdiff_t j = 0; j < n; j += COLUMNS) {
                const ptrdiff_t columns = n - j < COLUMNS ? n - j : COLUMNS;
                const int vectors = columns > 16 ? 2 : 1;
                const __mmask16 last = (__mmask16)((1u << (columns - 16 * (vectors - 1))) - 1);
                const float *panel = space;
                ptrdiff_t stride = 16 * vectors;
                if (transpose_B) {
                    transpose_panel(depth, vectors, columns, B + j * ldb + first, ldb, space);
                } else if (bottom - top > FEW_ROWS || ldb % ALIASING == 0) {
                    copy_panel(depth, vectors, last, B + first * ldb + j, ldb, space);
                } else {
                    panel = B + first * ldb + j;
                    stride = ldb;
                }
                for (ptrdiff_t i = top; i < bottom; i += ROWS) {
                    const ptrdiff_t rows = bottom - i < ROWS ? bottom - i : ROWS;
                    const float *a = form == COLUMNS_CONTIGUOUS ? A + first * lda + i : A + i * lda + first;
                    float *c = form == TURNED ? C + j * ldc + i : C + i * ldc + j;
                    KERNELS[form][vectors - 1][rows - 1](depth, a, lda, panel, stride, last, accumulate || d > 0, c, ldc);
                }
            }
        }
    }
}

void svdfast_product(int transpose_A, int transpose_B, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *A, ptrdiff_t lda,
                     const float *B, ptrdiff_t ldb, int accumulate, float *C, ptrdiff_t ldc)
{
    /* A·Bᵀ = (B·Aᵀ)ᵀ: one of the two is transposed into panels, the other read where it lies. A costs the turning of C, too. */
    if (!transpose_A && transpose_B && m * (k + n) < n * k)
        product(TURNED, 1, n, m, k, B, ldb, A, lda, accumulate, C, ldc);
    else
        product(transpose_A ? COLUMNS_CONTIGUOUS : ROWS_CONTIGUOUS, transpose_B, m, n, k, A, lda, B, ldb, accumulate, C, ldc);
}

int svdfast_product_available(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl");
}

#else

int svdfast_product_available(void)
{
    return 0;
}

void svdfast_product(int transpose_A, int transpose_B, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *A, ptrdiff_t lda,
                     const float *B, ptrdiff_t ldb, int accumulate, float *C, ptrdiff_t ldc)
{
    (void)transpose_A, (void)transpose_B, (void)m, (void)n, (void)k, (void)A, (void)lda, (void)B, (void)ldb, (void)accumulate,
        (void)C, (void)ldc;
}

#endif
