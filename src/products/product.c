/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Products of row-major float matrices on AVX2 and AVX-512, of floats or of floats rounded to bfloat16. See product.h; the loops are in
 * product_kernels.h, here are the vectors and the sizes that they are compiled for.
 *
 * Design
 * - A micro-kernel holds a block of C in the vector registers, ROWS rows × two vectors; for each k it loads one row of B (two vectors)
 *   and broadcasts one column of A. AVX-512 has 32 registers: 14 rows, 28 multiply-adds to 16 loads; AVX2 has 16: 6 rows, 12 to 8. So
 *   the multiply-adds are the limit.
 * - AVX-512 reads A where it lies: either its rows or its columns are contiguous, so what is read next is near. Where rows alias (14 of
 *   them would share the 8 lines of a set of the first-level cache), a block of A is copied into strips of ROWS rows, if B is wide enough
 *   for that to be worth it; for AVX2, which uses 6 rows at a time, always then. Strips are the only memory kept, one block for each
 *   thread that multiplies.
 * - B is copied, two vectors of columns and up to DEPTH rows at a time, into a panel on the stack: then its rows are contiguous whatever
 *   its layout, and power-of-two strides do not fall on the same cache lines. The panel is used by all rows of A before the next is made;
 *   meanwhile what the next is made of is fetched into the second-level cache.
 * - Rows of A and C go in blocks of HEIGHT, so that the block of A stays in the second-level cache while panels pass.
 * - For bfloat16 both operands are copied, A into strips and B into panels, and rounded then. A word of 32 bits is two elements that follow
 *   each other along k, whichever way the operand lies; else all is as for floats.
 * - For few rows of A (samples to predict, say) copying B would be most of the work, and few samples do not fill the vectors. Then sums of
 *   products of rows are formed, DOT_BLOCK rows of A with four of B, as both lie.
 * - Sizes that are not multiples are met by kernels of fewer rows, panels filled with zeros, and partial stores.
 * - Products with the patches of images read these where they lie: convolution_kernels.h says how. Images that need a border are copied, as
 *   many at a time as stay in the second-level cache.
 */
#include "product.h"
#include "sanitize.h"

#include <stdint.h>
#include <string.h>

enum { ROWS_CONTIGUOUS, COLUMNS_CONTIGUOUS, TURNED };

/* Rows of B whose stride is a multiple of this many floats fall on the same cache lines. */
enum { ALIASING = 1024 };

typedef void product(int form, int transpose_B, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *A, ptrdiff_t lda,
                     const float *B, ptrdiff_t ldb, int accumulate, float *C, ptrdiff_t ldc);

typedef void convolution(const svdfast_window *w, int back, ptrdiff_t p, ptrdiff_t c, ptrdiff_t n, const float *X, const float *W, float *Y);
typedef void convolution_gradient(const svdfast_window *w, ptrdiff_t p, ptrdiff_t c, ptrdiff_t n, const float *X, const float *dY,
                                  ptrdiff_t first, ptrdiff_t stop, int accumulate, float *g);

/* What svdfast_product_select and svdfast_bfloat16_select chose; without it nobody calls. */
static product *selected, *selected_bfloat16;
static convolution *selected_convolution;
static convolution_gradient *selected_gradient;

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAS_KERNELS

#include <immintrin.h>

/* Floats of a cache line; floats of B from which on the next panel is fetched beforehand. */
enum { LINE = 16, DISTANT = 65536 };

/* What strips of any kind of product take at most; one block for each thread that multiplies. */
enum { STRIPS_SIZE = 350 * 512 + 16 };
static __thread float kept_strips[STRIPS_SIZE] __attribute__((aligned(64)));

/* Where the i-th of `count` nearly equal parts begins. Small products have one part, and a division would cost as much as they do. */
static inline ptrdiff_t part(ptrdiff_t i, ptrdiff_t size, ptrdiff_t count)
{
    return count == 1 ? i * size : i * size / count;
}

/* See svdfast_few_rows_apart. */
static __thread int few_rows_apart;

/* Floats of images with a border that are there at a time, in the place of strips. */
enum { BAND_SIZE = 65536 };

/* Rows row .. row + rows of places in images image .. image + images. Either all rows of some images, or some of one image. */
typedef struct {
    ptrdiff_t image, images, row, rows;
} band;

/* Places of images' window: the first is at `at`, the next row `down` lines further on, the next image's `image` floats. */
typedef struct {
    const float *at;
    ptrdiff_t line, image;
} bordered;

/* Positions that the window sees of a row, and rows that it sees from so many rows of places. */
static inline ptrdiff_t seen_across(const svdfast_window *w) { return (w->columns - 1) * w->across + w->wide; }
static inline ptrdiff_t seen_down(const svdfast_window *w, ptrdiff_t rows) { return (rows - 1) * w->down + w->tall; }

/* Images of which a band has all rows, or 0; and rows of places that a band of one image may have. */
static inline ptrdiff_t band_images(const svdfast_window *w, ptrdiff_t c) { return BAND_SIZE / (seen_across(w) * seen_down(w, w->rows) * c); }
static inline ptrdiff_t band_rows(const svdfast_window *w, ptrdiff_t c)
{
    const ptrdiff_t lines = BAND_SIZE / (seen_across(w) * c);
    return lines < w->tall ? 0 : (lines - w->tall) / w->down + 1;
}

/* Bands that p images have; the i-th of them. */
static inline ptrdiff_t n_bands(const svdfast_window *w, ptrdiff_t p, ptrdiff_t c)
{
    const ptrdiff_t images = band_images(w, c), rows = band_rows(w, c);
    return images > 0 ? (p + images - 1) / images : p * ((w->rows + rows - 1) / rows);
}

static inline band band_at(const svdfast_window *w, ptrdiff_t p, ptrdiff_t c, ptrdiff_t i)
{
    const ptrdiff_t images = band_images(w, c), count = n_bands(w, 1, c);
    if (images > 0) {
        const band b = {i * images, p - i * images < images ? p - i * images : images, 0, w->rows};
        return b;
    }
    const ptrdiff_t row = part(i % count, w->rows, count);
    const band b = {i / count, 1, row, part(i % count + 1, w->rows, count) - row};
    return b;
}

static bordered with_border(const svdfast_window *w, const band *b, ptrdiff_t c, const float *X)
{
    const ptrdiff_t size = w->height * w->width * c, y = b->row * w->down - w->top, lines = seen_down(w, b->rows), line = seen_across(w);
    const float *from = X + b->image * size;
    if (w->left == 0 && line <= w->width && w->top == 0 && y + lines <= w->height) {
        const bordered inside = {from + y * w->width * c, w->width * c, size};
        return inside;
    }
    const ptrdiff_t last = w->width + w->left < line ? w->width + w->left : line; /* position after the image's last one */
    float *to = kept_strips;
    for (ptrdiff_t i = 0; i < b->images; i++, from += size)
        for (ptrdiff_t k = y; k < y + lines; k++, to += line * c)
            if (k < 0 || k >= w->height) {
                memset(to, 0, (size_t)(line * c) * sizeof(float));
            } else {
                memset(to, 0, (size_t)(w->left * c) * sizeof(float));
                memcpy(to + w->left * c, from + k * w->width * c, (size_t)((last - w->left) * c) * sizeof(float));
                memset(to + last * c, 0, (size_t)((line - last) * c) * sizeof(float));
            }
    const bordered copied = {kept_strips, line * c, lines * line * c};
    return copied;
}

typedef void kernel(ptrdiff_t k, const float *A, ptrdiff_t stride, const float *B, ptrdiff_t ldb, int last, int accumulate,
                    float *C, ptrdiff_t ldc);

#define INLINE static inline __attribute__((always_inline)) TARGET

/* Fetches part of what the next panel (depth×columns) is made of into the second-level cache: rows first .. stop of the panel. */
static inline void fetch(int transpose_B, ptrdiff_t columns, ptrdiff_t first, ptrdiff_t stop, const float *B, ptrdiff_t ldb)
{
    const ptrdiff_t outer = transpose_B ? 0 : first, outer_stop = transpose_B ? columns : stop;
    const ptrdiff_t inner = transpose_B ? first : 0, inner_stop = transpose_B ? stop : columns;
    for (ptrdiff_t i = outer; i < outer_stop; i++)
        for (ptrdiff_t j = inner; j < inner_stop; j += LINE)
            __builtin_prefetch(B + i * ldb + j, 0, 2);
}

/* ---- AVX2 ---- */

#define NAME(function) function##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define VECTOR __m256
#define WIDTH 8
#define PER_WORD 1
#define ROWS 6
#define DEPTH 392   /* a panel of 24 KiB */
#define HEIGHT 264  /* rows of A at a time: strips of at most 404 KiB */
#define STRIPS(form, n, lda) ((n) >= 64) /* whether A is copied into strips */
#define FEW_ROWS 30 /* up to here a panel is used too seldom to be worth copying, if B's rows are contiguous and do not alias */
#define DOT_ROWS 2  /* rows of A up to here times a long Bᵀ are dot products; at most the engine's FEW_ROWS */
#define DOT_ROWS_APART 7 /* the same where bits may depend on the number of rows */
#define DOT_BLOCK 3 /* of so many rows at a time, with four of B: 12 sums in registers */
#define FOR_EACH_ROWS(X, vectors) X(1, vectors) X(2, vectors) X(3, vectors) X(4, vectors) X(5, vectors) X(6, vectors)

INLINE __m256 NAME(zero)(void) { return _mm256_setzero_ps(); }
INLINE __m256 NAME(load)(const float *x) { return _mm256_loadu_ps(x); }
INLINE void NAME(store)(float *to, __m256 x) { _mm256_storeu_ps(to, x); }
INLINE __m256 NAME(broadcast)(const float *x)
{
    SVDFAST_LOADS(x, 1);
    return _mm256_broadcast_ss(x);
}
INLINE __m256 NAME(multiply_add)(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
INLINE __m256 NAME(add)(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }

INLINE __m128 NAME(four_sums)(const __m256 x[4])
{
    const __m256 low = _mm256_add_ps(_mm256_unpacklo_ps(x[0], x[1]), _mm256_unpackhi_ps(x[0], x[1]));
    const __m256 high = _mm256_add_ps(_mm256_unpacklo_ps(x[2], x[3]), _mm256_unpackhi_ps(x[2], x[3]));
    const __m256 sums = _mm256_add_ps(_mm256_shuffle_ps(low, high, 0x44), _mm256_shuffle_ps(low, high, 0xee));
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

/* The first `count` floats, zeros beyond. */
INLINE __m256 NAME(load_part)(int count, const float *x)
{
    const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), places);
    SVDFAST_LOADS(x, (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(mask)));
    return _mm256_maskload_ps(x, mask);
}

/* By halves: storing under a mask takes some CPUs tens of cycles. */
INLINE void NAME(store_part)(int count, float *to, __m256 x)
{
    if (count == 8) {
        _mm256_storeu_ps(to, x);
        return;
    }
    __m128 part = _mm256_castps256_ps128(x);
    if (count & 4) {
        _mm_storeu_ps(to, part);
        part = _mm256_extractf128_ps(x, 1);
        to += 4;
    }
    if (count & 2) {
        SVDFAST_STORES(to, 3);
        _mm_storel_pi((__m64 *)to, part);
        part = _mm_movehl_ps(part, part);
        to += 2;
    }
    if (count & 1)
        _mm_store_ss(to, part);
}

/* x (8×8) = its transpose. */
INLINE void NAME(transpose)(__m256 x[8])
{
    __m256 t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        x[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        x[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        x[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        x[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    /* Now half q of x[4 g + r] holds column 4 q + r of rows 4 g .. 4 g + 3. */
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        t[r] = _mm256_permute2f128_ps(x[r], x[4 + r], 0x20);
        t[4 + r] = _mm256_permute2f128_ps(x[r], x[4 + r], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        x[i] = t[i];
}

#include "product_kernels.h"
#include "convolution_kernels.h"
#undef COLUMNS
#undef NAME
#undef TARGET
#undef VECTOR
#undef WIDTH
#undef PER_WORD
#undef ROWS
#undef DEPTH
#undef HEIGHT
#undef FEW_ROWS
#undef DOT_ROWS
#undef DOT_ROWS_APART
#undef DOT_BLOCK
#undef STRIPS
#undef FOR_EACH_ROWS

/* ---- AVX-512 ---- */

#define NAME(function) function##_avx512
#define TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#define VECTOR __m512
#define WIDTH 16
#define PER_WORD 1
#define ROWS 14
#define DEPTH 512   /* a panel of 64 KiB */
#define HEIGHT 350  /* strips of at most 700 KiB */
#define FEW_ROWS 70
#define DOT_ROWS 4
#define DOT_ROWS_APART 14
#define DOT_BLOCK 6
#define STRIPS(form, n, lda) ((lda) % ALIASING == 0 && (n) >= ((form) == COLUMNS_CONTIGUOUS ? 256 : 64))
#define FOR_EACH_ROWS(X, vectors)                                                                                       \
    X(1, vectors) X(2, vectors) X(3, vectors) X(4, vectors) X(5, vectors) X(6, vectors) X(7, vectors) X(8, vectors)     \
    X(9, vectors) X(10, vectors) X(11, vectors) X(12, vectors) X(13, vectors) X(14, vectors)

INLINE __m512 NAME(zero)(void) { return _mm512_setzero_ps(); }
INLINE __m512 NAME(load)(const float *x) { return _mm512_loadu_ps(x); }
INLINE void NAME(store)(float *to, __m512 x) { _mm512_storeu_ps(to, x); }
INLINE __m512 NAME(broadcast)(const float *x) { return _mm512_set1_ps(*x); }
INLINE __m512 NAME(multiply_add)(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE __m512 NAME(add)(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }

INLINE __m128 NAME(four_sums)(const __m512 x[4])
{
    const __m512 low = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    const __m512 high = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
    const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(low, high, 0x44), _mm512_shuffle_ps(low, high, 0xee));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

INLINE __m512 NAME(load_part)(int count, const float *x)
{
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    SVDFAST_LOADS(x, mask);
    return _mm512_maskz_loadu_ps(mask, x);
}

INLINE void NAME(store_part)(int count, float *to, __m512 x)
{
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    SVDFAST_STORES(to, mask);
    _mm512_mask_storeu_ps(to, mask, x);
}

/* x (16×16) = its transpose. */
INLINE void NAME(transpose)(__m512 x[16])
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

#include "product_kernels.h"
#include "convolution_kernels.h"

/* ---- AVX-512 with bfloat16 ---- */

#if (defined(__clang__) && __clang_major__ >= 11) || (!defined(__clang__) && __GNUC__ >= 10)
#define HAS_BFLOAT16

#undef COLUMNS
#undef NAME
#undef TARGET
#undef PER_WORD
#undef STRIPS
#define NAME(function) function##_bfloat16
#define TARGET __attribute__((target("avx512bf16,avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#define PER_WORD 2
#define STRIPS(form, n, lda) 1

#define zero_bfloat16 zero_avx512
#define load_bfloat16 load_avx512
#define store_bfloat16 store_avx512
#define load_part_bfloat16 load_part_avx512
#define store_part_bfloat16 store_part_avx512
#define broadcast_bfloat16 broadcast_avx512
#define add_bfloat16 add_avx512
#define transpose_bfloat16 transpose_avx512

/* A word is two bfloat16, the first in the lower half: c + a.first·b.first + a.second·b.second. */
INLINE __m512 NAME(multiply_add)(__m512 a, __m512 b, __m512 c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }

/* Floats low[0..15], high[0..15] rounded to the nearest bfloat16, in this order. */
INLINE __m512i NAME(round)(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

INLINE __m512 NAME(load_along)(const float *x) { return (__m512)NAME(round)(NAME(load)(x), NAME(load)(x + 16)); }

INLINE __m512 NAME(load_along_part)(int count, const float *x)
{
    const int rest = count - 16;
    return (__m512)NAME(round)(NAME(load_part)(rest > 0 ? 16 : count, x), rest > 0 ? NAME(load_part)(rest, x + 16) : NAME(zero)());
}

/* Words of a row and the next. */
INLINE __m512 NAME(pair)(__m512 first, __m512 second)
{
    const __m512i places = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                            19, 3, 18, 2, 17, 1, 16, 0);
    return (__m512)_mm512_permutexvar_epi16(places, NAME(round)(first, second));
}

INLINE __m512 NAME(load_across)(int more, const float *x, ptrdiff_t stride)
{
    return NAME(pair)(NAME(load)(x), more ? NAME(load)(x + stride) : NAME(zero)());
}

INLINE __m512 NAME(load_across_part)(int count, int more, const float *x, ptrdiff_t stride)
{
    return NAME(pair)(NAME(load_part)(count, x), more ? NAME(load_part)(count, x + stride) : NAME(zero)());
}

#include "product_kernels.h"

#endif

#endif /* x86-64 */

int svdfast_product_select(const char *name)
{
    (void)name;
    product *found = NULL;
    convolution *found_convolution = NULL;
    convolution_gradient *found_gradient = NULL;
#ifdef HAS_KERNELS
    __builtin_cpu_init();
    if ((name == NULL || strcmp(name, "avx512") == 0) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        found = product_avx512, found_convolution = convolution_avx512, found_gradient = convolution_gradient_avx512;
    else if ((name == NULL || strcmp(name, "avx2") == 0) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found = product_avx2, found_convolution = convolution_avx2, found_gradient = convolution_gradient_avx2;
#endif
    if (found != NULL)
        selected = found, selected_convolution = found_convolution, selected_gradient = found_gradient;
    return found != NULL;
}

int svdfast_bfloat16_select(void)
{
#ifdef HAS_BFLOAT16
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl"))
        selected_bfloat16 = product_bfloat16;
#endif
    return selected_bfloat16 != NULL;
}

/* Rows of words, each of whole vectors of 16, as panel_place of product_kernels.h counts them. */
ptrdiff_t svdfast_packed_size(ptrdiff_t n, ptrdiff_t k)
{
    return (n + 15) / 16 * 16 * ((k + 1) / 2);
}

void svdfast_pack(int transpose_B, ptrdiff_t n, ptrdiff_t k, const float *B, ptrdiff_t ldb, int i, int count, float *packed)
{
    (void)transpose_B, (void)n, (void)k, (void)B, (void)ldb, (void)i, (void)count, (void)packed;
#ifdef HAS_BFLOAT16
    const ptrdiff_t panels = (n + 2 * WIDTH - 1) / (2 * WIDTH);
    const ptrdiff_t stop = part(i + 1, panels, count) * 2 * WIDTH;
    pack_B_bfloat16(transpose_B, n, k, B, ldb, part(i, panels, count) * 2 * WIDTH, stop < n ? stop : n, packed);
#endif
}

void svdfast_bfloat16_product(int transpose_A, int transpose_B, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *A, ptrdiff_t lda,
                              const float *B, ptrdiff_t ldb, int accumulate, float *C, ptrdiff_t ldc)
{
    selected_bfloat16(transpose_A ? COLUMNS_CONTIGUOUS : ROWS_CONTIGUOUS, transpose_B, m, n, k, A, lda, B, ldb, accumulate, C, ldc);
}

void svdfast_product(int transpose_A, int transpose_B, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *A, ptrdiff_t lda,
                     const float *B, ptrdiff_t ldb, int accumulate, float *C, ptrdiff_t ldc)
{
    /* A·Bᵀ = (B·Aᵀ)ᵀ: one of the two is transposed into panels, the other read where it lies. A costs the turning of C, too. Rows of B
     * that alias are better read once, into panels. */
    if (!transpose_A && transpose_B && ldb % ALIASING != 0 && m * (k + n) < n * k)
        selected(TURNED, 1, n, m, k, B, ldb, A, lda, accumulate, C, ldc);
    else
        selected(transpose_A ? COLUMNS_CONTIGUOUS : ROWS_CONTIGUOUS, transpose_B, m, n, k, A, lda, B, ldb, accumulate, C, ldc);
}

void svdfast_few_rows_apart(int apart)
{
    (void)apart;
#ifdef HAS_KERNELS
    few_rows_apart = apart;
#endif
}

/* Places of a row, and of an image, from which on patches are better read where they lie: products need rows and sums of some length. */
enum { PLACES_OF_ROW = 4, PLACES_OF_IMAGE = 20 };

/* A column of positions is the same numbers as a row of them, whose places lie at equal steps. */
static inline svdfast_window laid_across(const svdfast_window *w)
{
    const svdfast_window row = {1, w->height, 1, w->tall, 1, w->down, 0, w->top, 1, w->rows};
    return w->width == 1 && w->wide == 1 ? row : *w;
}

/* The window whose patches of dY give dX: it moves by single steps, for the other does. */
static svdfast_window turned(const svdfast_window *w)
{
    const svdfast_window back = {w->rows, w->columns, w->tall, w->wide, 1, 1, w->tall - 1 - w->top, w->wide - 1 - w->left, w->height, w->width};
    return back;
}

int svdfast_convolution_fits(const svdfast_window *w, ptrdiff_t c)
{
#ifdef HAS_KERNELS
    const svdfast_window across = laid_across(w);
    return selected_convolution != NULL && across.columns >= PLACES_OF_ROW && across.rows * across.columns >= PLACES_OF_IMAGE
           && band_rows(&across, c) > 0;
#else
    (void)w, (void)c;
    return 0;
#endif
}

int svdfast_convolution_back_pays(const svdfast_window *w, ptrdiff_t c, ptrdiff_t n)
{
    const svdfast_window back = turned(w);
    /* Its products, with whole vectors of channels at each position of the image, may be a quarter more than at the places of the window. */
    const ptrdiff_t width = 8, here = w->height * w->width * ((c + width - 1) / width * width), there = w->rows * w->columns * c;
    return w->down == 1 && w->across == 1 && 4 * here <= 5 * there && svdfast_convolution_fits(&back, n);
}

void svdfast_convolution(const svdfast_window *w, ptrdiff_t p, ptrdiff_t c, ptrdiff_t n, const float *X, const float *W, float *Y)
{
    const svdfast_window across = laid_across(w);
    selected_convolution(&across, 0, p, c, n, X, W, Y);
}

void svdfast_convolution_back(const svdfast_window *w, ptrdiff_t p, ptrdiff_t c, ptrdiff_t n, const float *dY, const float *W, float *dX)
{
    const svdfast_window back = turned(w), across = laid_across(&back);
    selected_convolution(&across, 1, p, n, c, dY, W, dX);
}

void svdfast_convolution_gradient(const svdfast_window *w, ptrdiff_t p, ptrdiff_t c, ptrdiff_t n, const float *X, const float *dY,
                                  ptrdiff_t first, ptrdiff_t stop, int accumulate, float *g)
{
    const svdfast_window across = laid_across(w);
    selected_gradient(&across, p, c, n, X, dY, first, stop, accumulate, g);
}

/* As VCVTNE2PS2BF16 does: to the nearest, to even between two; denormals to zero; NaN stays NaN. */
void svdfast_round_bfloat16(ptrdiff_t rows, ptrdiff_t columns, const float *X, ptrdiff_t ldx, float *out)
{
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++) {
            uint32_t bits;
            memcpy(&bits, X + i * ldx + j, sizeof bits);
            const uint32_t magnitude = bits & 0x7fffffff;
            if (magnitude > 0x7f800000)
                bits |= 0x400000;
            else if (magnitude < 0x800000)
                bits &= 0x80000000;
            else
                bits += 0x7fff + ((bits >> 16) & 1);
            bits &= 0xffff0000;
            memcpy(out + i * columns + j, &bits, sizeof bits);
        }
}
