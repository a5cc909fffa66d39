/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The product of product.h, written once for vectors of WIDTH words of 32 bits. A word is what a multiply-add takes of a row of A and a
 * column of B: PER_WORD consecutive elements of k, one float, or two bfloat16. Included by product.c for each kind of product; NAME(f) is f
 * with the kind's name appended. No include guard: that is its purpose.
 *
 * The includer defines VECTOR, WIDTH, PER_WORD; ROWS, DEPTH, HEIGHT, FEW_ROWS, STRIPS;
 * load, store, load_part, store_part, add, zero of floats;
 * where PER_WORD is 1 DOT_ROWS, DOT_ROWS_APART, DOT_BLOCK, and four_sums, each of a vector's floats;
 * where PER_WORD is 2 load_along, load_along_part, load_across, load_across_part, which make words; broadcast, multiply_add, transpose
 * of words;
 * FOR_EACH_ROWS; TARGET, INLINE.
 */
#define COLUMNS (2 * WIDTH)

#if PER_WORD == 1
/* A word is a float. `more`: whether all of its elements are there; count: of words. */
INLINE VECTOR NAME(load_along)(const float *x) { return NAME(load)(x); }
INLINE VECTOR NAME(load_along_part)(int count, const float *x) { return NAME(load_part)(count, x); }
INLINE VECTOR NAME(load_across)(int more, const float *x, ptrdiff_t stride)
{
    (void)more, (void)stride;
    return NAME(load)(x);
}
INLINE VECTOR NAME(load_across_part)(int count, int more, const float *x, ptrdiff_t stride)
{
    (void)more, (void)stride;
    return NAME(load_part)(count, x);
}
#endif

/* C (rows×columns) (+)= A (rows×k) B (k×columns) of k words each, columns = WIDTH·(vectors - 1) + last. A's word (i, j) is at
 * i·row + j·column. B is read by whole vectors. With `turned` Cᵀ is stored. There are as many such A and B as segments, whose products are
 * summed: each A begins `jump` floats beyond the last one's end, each B at it. */
INLINE void NAME(micro_kernel)(const int rows, const int vectors, const int turned, ptrdiff_t segments, ptrdiff_t jump, ptrdiff_t k,
                               const float *A, ptrdiff_t row, ptrdiff_t column, const float *B, ptrdiff_t ldb, int last, int accumulate,
                               float *C, ptrdiff_t ldc)
{
    VECTOR c[ROWS][2];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            c[i][v] = NAME(zero)();
    if (accumulate && !turned)
        for (int i = 0; i < rows; i++) {
            __builtin_prefetch(C + i * ldc, 0, 3);
            __builtin_prefetch(C + i * ldc + 16, 0, 3);
        }
    /* Rows are addressed from two pointers by multiples that x86 has addressing modes for, so that all fit in registers. */
    const char *a0 = (const char *)A, *a7 = (const char *)(A + 7 * row);
    ptrdiff_t r1 = row * (ptrdiff_t)sizeof(float), r3 = 3 * r1, r5 = 5 * r1;
    const ptrdiff_t step = column * (ptrdiff_t)sizeof(float);
    for (ptrdiff_t s = 0; s < segments; s++) {
        for (ptrdiff_t j = 0; j < k; j++) {
            VECTOR b[2];
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                b[v] = NAME(load)(B + WIDTH * v);
            B += ldb;
#define ROW(i, address)                                                \
    if (i < rows) {                                                    \
        const VECTOR a = NAME(broadcast)((const float *)(address));    \
        c[i][0] = NAME(multiply_add)(a, b[0], c[i][0]);                \
        if (vectors == 2)                                              \
            c[i][1] = NAME(multiply_add)(a, b[1], c[i][1]);            \
    }
            ROW(0, a0)
            ROW(1, a0 + r1)
            ROW(2, a0 + 2 * r1)
            ROW(3, a0 + r3)
            ROW(4, a0 + 4 * r1)
            ROW(5, a0 + r5)
#if ROWS > 6
            ROW(6, a0 + 2 * r3)
            ROW(7, a7)
            ROW(8, a7 + r1)
            ROW(9, a7 + 2 * r1)
            ROW(10, a7 + r3)
            ROW(11, a7 + 4 * r1)
            ROW(12, a7 + r5)
            ROW(13, a7 + 2 * r3)
#endif
#undef ROW
            a0 += step;
            a7 += step;
            /* Keeps the compiler from replacing the addressing modes by a pointer for each row. */
            __asm__("" : "+r"(a0), "+r"(a7), "+r"(r1), "+r"(r3), "+r"(r5));
        }
        a0 += jump * (ptrdiff_t)sizeof(float);
        a7 += jump * (ptrdiff_t)sizeof(float);
    }
    if (turned) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            const int columns = v == vectors - 1 ? last : WIDTH;
            VECTOR x[WIDTH];
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++)
                x[i] = i < rows ? c[i][v] : NAME(zero)();
            NAME(transpose)(x);
            float *to = C + WIDTH * v * ldc;
#pragma GCC unroll 16
            for (int j = 0; j < WIDTH; j++)
                if (j < columns) {
                    if (accumulate)
                        x[j] = NAME(add)(x[j], NAME(load_part)(rows, to + j * ldc));
                    NAME(store_part)(rows, to + j * ldc, x[j]);
                }
        }
        return;
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            float *to = C + i * ldc + WIDTH * v;
            if (v < vectors - 1 || last == WIDTH) {
                if (accumulate)
                    c[i][v] = NAME(add)(c[i][v], NAME(load)(to));
                NAME(store)(to, c[i][v]);
            } else {
                if (accumulate)
                    c[i][v] = NAME(add)(c[i][v], NAME(load_part)(last, to));
                NAME(store_part)(last, to, c[i][v]);
            }
        }
}

/* Kernels by form (A's rows contiguous, A's columns contiguous, A's rows contiguous and C turned), vectors and rows. */
#define DEFINE(form, row, column, turned, rows, vectors)                                                             \
    TARGET static void NAME(form##_##rows##_##vectors)(ptrdiff_t k, const float *A, ptrdiff_t stride, const float *B, \
                                                       ptrdiff_t ldb, int last, int accumulate, float *C,            \
                                                       ptrdiff_t ldc)                                                \
    {                                                                                                                \
        NAME(micro_kernel)(rows, vectors, turned, 1, 0, k, A, row, column, B, ldb, last, accumulate, C, ldc);              \
    }
#define DEFINE_COLUMNS(rows, vectors) DEFINE(by_columns, 1, stride, 0, rows, vectors)
FOR_EACH_ROWS(DEFINE_COLUMNS, 1)
FOR_EACH_ROWS(DEFINE_COLUMNS, 2)
#define NAME_COLUMNS(rows, vectors) NAME(by_columns_##rows##_##vectors),
#if PER_WORD == 1
#define DEFINE_ROWS(rows, vectors)               \
    DEFINE(by_rows, stride, 1, 0, rows, vectors) \
    DEFINE(and_turned, stride, 1, 1, rows, vectors)
FOR_EACH_ROWS(DEFINE_ROWS, 1)
FOR_EACH_ROWS(DEFINE_ROWS, 2)
#define NAME_ROWS(rows, vectors) NAME(by_rows_##rows##_##vectors),
#define NAME_TURNED(rows, vectors) NAME(and_turned_##rows##_##vectors),
static kernel *const NAME(KERNELS)[3][2][ROWS] = {
    {{FOR_EACH_ROWS(NAME_ROWS, 1)}, {FOR_EACH_ROWS(NAME_ROWS, 2)}},
    {{FOR_EACH_ROWS(NAME_COLUMNS, 1)}, {FOR_EACH_ROWS(NAME_COLUMNS, 2)}},
    {{FOR_EACH_ROWS(NAME_TURNED, 1)}, {FOR_EACH_ROWS(NAME_TURNED, 2)}},
};
#else
/* A is always copied into strips, for its words have to be made. */
static kernel *const NAME(KERNELS)[2][2][ROWS] = {
    {{NULL}, {NULL}},
    {{FOR_EACH_ROWS(NAME_COLUMNS, 1)}, {FOR_EACH_ROWS(NAME_COLUMNS, 2)}},
};
#endif

/* panel (words×WIDTH·vectors) = B (k×columns), rows contiguous. Zeros beyond. */
TARGET static void NAME(copy_panel)(ptrdiff_t k, int vectors, int last, const float *B, ptrdiff_t ldb, float *panel)
{
    for (ptrdiff_t j = 0; j < k; j += PER_WORD) {
        const int more = k - j >= PER_WORD;
        if (vectors == 2)
            NAME(store)(panel, NAME(load_across)(more, B, ldb));
        NAME(store)(panel + WIDTH * (vectors - 1), NAME(load_across_part)(last, more, B + WIDTH * (vectors - 1), ldb));
        panel += WIDTH * vectors;
        B += PER_WORD * ldb;
    }
}

/* x = WIDTH words along each of WIDTH rows, of which `rows` are there and k floats of each; transposed. Zeros beyond. */
INLINE void NAME(load_block)(const int whole, ptrdiff_t rows, ptrdiff_t k, const float *from, ptrdiff_t stride, VECTOR x[WIDTH])
{
    if (whole) {
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++)
            x[i] = i < rows ? NAME(load_along)(from + i * stride) : NAME(zero)();
    } else {
        const int count = k < WIDTH * PER_WORD ? (int)k : WIDTH * PER_WORD;
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++)
            x[i] = i < rows ? NAME(load_along_part)(count, from + i * stride) : NAME(zero)();
    }
    NAME(transpose)(x);
}

/* The first `count` vectors of x, or all, `stride` floats apart. */
INLINE void NAME(store_block)(ptrdiff_t count, const VECTOR x[WIDTH], float *to, ptrdiff_t stride)
{
    if (count >= WIDTH) {
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++)
            NAME(store)(to + i * stride, x[i]);
    } else {
        for (int i = 0; i < (int)count; i++)
            NAME(store)(to + i * stride, x[i]);
    }
}

/* panel (words×WIDTH·vectors) = Bᵀ, B (columns×k): the panel's columns are rows of B. Zeros beyond. */
TARGET static void NAME(transpose_panel)(ptrdiff_t k, int vectors, ptrdiff_t columns, const float *B, ptrdiff_t ldb, float *panel)
{
    const ptrdiff_t words = (k + PER_WORD - 1) / PER_WORD;
    for (int v = 0; v < vectors; v++)
        for (ptrdiff_t j = 0; j < words; j += WIDTH) {
            const float *from = B + WIDTH * v * ldb + j * PER_WORD;
            const ptrdiff_t left = k - j * PER_WORD;
            VECTOR x[WIDTH];
            if (left >= WIDTH * PER_WORD && WIDTH * (v + 1) <= columns)
                NAME(load_block)(1, WIDTH, left, from, ldb, x);
            else
                NAME(load_block)(0, columns - WIDTH * v, left, from, ldb, x);
            float *to = panel + j * WIDTH * vectors + WIDTH * v;
            NAME(store_block)(words - j, x, to, WIDTH * vectors);
        }
}

_Static_assert(HEIGHT * DEPTH + WIDTH <= STRIPS_SIZE, "strips must fit");

/* strip (words×rows) = A (rows×k)ᵀ, A's rows contiguous. Whole vectors are stored, each over the end of the one before; the last may
 * write up to WIDTH words beyond the strip, where the next will be. */
TARGET static void NAME(pack_rows)(int rows, ptrdiff_t k, const float *A, ptrdiff_t lda, float *strip)
{
    const ptrdiff_t words = (k + PER_WORD - 1) / PER_WORD;
    for (ptrdiff_t j = 0; j < words; j += WIDTH) {
        const ptrdiff_t left = k - j * PER_WORD;
        VECTOR x[WIDTH];
        if (left >= WIDTH * PER_WORD && rows == ROWS)
            NAME(load_block)(1, ROWS, left, A + j * PER_WORD, lda, x);
        else
            NAME(load_block)(0, rows, left, A + j * PER_WORD, lda, x);
        NAME(store_block)(words - j, x, strip + j * rows, rows);
    }
}

/* The same where A's columns are contiguous. */
INLINE void NAME(pack_columns)(const int rows, ptrdiff_t k, const float *A, ptrdiff_t lda, float *strip)
{
#if PER_WORD == 1
    for (ptrdiff_t j = 0; j < k; j++)
        for (int i = 0; i < rows; i++)
            strip[j * rows + i] = A[i + j * lda];
#else
    for (ptrdiff_t j = 0; j < k; j += PER_WORD) {
        NAME(store)(strip, NAME(load_across_part)(rows, k - j >= PER_WORD, A + j * lda, lda));
        strip += rows;
    }
#endif
}

/* strips = A (m×k), ROWS rows at a time, the columns of each strip contiguous. */
TARGET static void NAME(pack_strips)(int form, ptrdiff_t m, ptrdiff_t k, const float *A, ptrdiff_t lda)
{
    const ptrdiff_t words = (k + PER_WORD - 1) / PER_WORD;
    for (ptrdiff_t i = 0; i < m; i += ROWS) {
        const int rows = m - i < ROWS ? (int)(m - i) : ROWS;
        float *strip = kept_strips + i * words;
        if (form == ROWS_CONTIGUOUS)
            NAME(pack_rows)(rows, k, A + i * lda, lda, strip);
        else if (rows == ROWS) /* a constant, so that the compiler copies by vectors */
            NAME(pack_columns)(ROWS, k, A + i, lda, strip);
        else
            NAME(pack_columns)(rows, k, A + i, lda, strip);
    }
}

/* Blocks of nearly equal depth, so that no thin one is left over. */
static inline ptrdiff_t NAME(n_depths)(ptrdiff_t words) { return words > DEPTH ? (words + DEPTH - 1) / DEPTH : 1; }

/* Where the panel of op(B) for columns j and on, `first` floats down, comes from. */
static inline const float *NAME(panel_source)(int transpose_B, ptrdiff_t first, ptrdiff_t j, const float *B, ptrdiff_t ldb)
{
    return transpose_B ? B + j * ldb + first : B + first * ldb + j;
}

/* That panel, `floats` deep, from there. */
static inline void NAME(make_panel)(int transpose_B, ptrdiff_t floats, int vectors, ptrdiff_t columns, const float *source, ptrdiff_t ldb,
                                    float *panel)
{
    if (transpose_B)
        NAME(transpose_panel)(floats, vectors, columns, source, ldb, panel);
    else
        NAME(copy_panel)(floats, vectors, (int)columns - WIDTH * (vectors - 1), source, ldb, panel);
}

#if PER_WORD > 1
/* Where the panel of op(B) (k×n) is in memory that pack_B filled: columns j and on, `first` words down, `depth` words deep. */
static inline ptrdiff_t NAME(panel_place)(ptrdiff_t n, ptrdiff_t j, ptrdiff_t first, ptrdiff_t depth)
{
    return first * ((n + WIDTH - 1) / WIDTH * WIDTH) + j * depth;
}

/* Panels of op(B) (k×n) for columns first .. stop, where `first` and, but at the end, `stop` are multiples of COLUMNS. */
static void NAME(pack_B)(int transpose_B, ptrdiff_t n, ptrdiff_t k, const float *B, ptrdiff_t ldb, ptrdiff_t first, ptrdiff_t stop,
                         float *packed)
{
    const ptrdiff_t words = (k + PER_WORD - 1) / PER_WORD, n_depths = NAME(n_depths)(words);
    for (ptrdiff_t d = 0; d < n_depths; d++) {
        const ptrdiff_t top = part(d, words, n_depths), depth = part(d + 1, words, n_depths) - top;
        const ptrdiff_t floats = d == n_depths - 1 ? k - top * PER_WORD : depth * PER_WORD;
        for (ptrdiff_t j = first; j < stop; j += COLUMNS) {
            const ptrdiff_t columns = stop - j < COLUMNS ? stop - j : COLUMNS;
            const int vectors = columns > WIDTH ? 2 : 1;
            NAME(make_panel)(transpose_B, floats, vectors, columns, NAME(panel_source)(transpose_B, top * PER_WORD, j, B, ldb), ldb,
                             packed + NAME(panel_place)(n, j, top, depth));
        }
    }
}
#endif

#if PER_WORD == 1
/* C (rows×columns) (+)= A (rows×k) Bᵀ, B (columns×k), columns ≤ 4: an element of C is the sum of a vector, so B is read as it lies. */
INLINE void NAME(dots)(const int rows, int columns, ptrdiff_t k, const float *A, ptrdiff_t lda, const float *B, ptrdiff_t ldb,
                       int accumulate, float *C, ptrdiff_t ldc)
{
    const int rest = (int)(k % WIDTH);
    const ptrdiff_t whole = k - rest;
    const float *b[4];
    VECTOR a[DOT_BLOCK], c[DOT_BLOCK][4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        b[v] = B + (v < columns ? v : 0) * ldb;
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
            c[i][v] = NAME(zero)();
    }
    for (ptrdiff_t p = 0; p < whole; p += WIDTH) {
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
            a[i] = NAME(load)(A + i * lda + p);
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            const VECTOR x = NAME(load)(b[v] + p);
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++)
                c[i][v] = NAME(multiply_add)(a[i], x, c[i][v]);
        }
    }
    if (rest > 0) {
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
            a[i] = NAME(load_part)(rest, A + i * lda + whole);
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            const VECTOR x = NAME(load_part)(rest, b[v] + whole);
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++)
                c[i][v] = NAME(multiply_add)(a[i], x, c[i][v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        float *to = C + i * ldc;
        __m128 sums = NAME(four_sums)(c[i]);
        if (columns == 4) {
            if (accumulate)
                sums = _mm_add_ps(sums, _mm_loadu_ps(to));
            _mm_storeu_ps(to, sums);
        } else {
            float each[4];
            _mm_storeu_ps(each, sums);
            for (int v = 0; v < columns; v++)
                to[v] = each[v] + (accumulate ? to[v] : 0);
        }
    }
}

/* Returns true if A (m×k) Bᵀ was done in this way: if A has few rows, and these are long enough for
 * the sums to cost little. Each block of A's rows meets four of B's while these are near. */
TARGET static int NAME(by_dots)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *A, ptrdiff_t lda, const float *B, ptrdiff_t ldb,
                                int accumulate, float *C, ptrdiff_t ldc)
{
    if (m > (few_rows_apart ? DOT_ROWS_APART : DOT_ROWS) || k < 4 * WIDTH)
        return 0;
    const ptrdiff_t n_blocks = (m + DOT_BLOCK - 1) / DOT_BLOCK;
    for (ptrdiff_t j = 0; j < n; j += 4)
        for (ptrdiff_t d = 0; d < n_blocks; d++) {
            const ptrdiff_t i = part(d, m, n_blocks);
            const int columns = n - j < 4 ? (int)(n - j) : 4;
            switch (part(d + 1, m, n_blocks) - i) {
#define CASE(rows)                                                                                             \
    case rows:                                                                                                 \
        NAME(dots)(rows, columns, k, A + i * lda, lda, B + j * ldb, ldb, accumulate, C + i * ldc + j, ldc);      \
        break;
                CASE(1)
                CASE(2)
                CASE(3)
#if DOT_BLOCK > 3
                CASE(4)
                CASE(5)
                CASE(6)
#endif
#undef CASE
            }
        }
    return 1;
}
#endif

/* C (m×n) (+)= op(A) op(B) by kernels of a form. TURNED: C's rows are the product's columns. */
static void NAME(product)(int form, int transpose_B, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *A, ptrdiff_t lda,
                          const float *B, ptrdiff_t ldb, int accumulate, float *C, ptrdiff_t ldc)
{
#if PER_WORD == 1
    if (form == TURNED) {
        /* Rows of C that would fill too little of the kernels' vectors. */
        const ptrdiff_t rest = few_rows_apart && n > DOT_ROWS_APART ? n % 16 : n;
        if (rest > 0 && NAME(by_dots)(rest, m, k, B + (n - rest) * ldb, ldb, A, lda, accumulate, C + (n - rest) * ldc, ldc))
            n -= rest;
        if (n == 0)
            return;
    } else if (form == ROWS_CONTIGUOUS && transpose_B && NAME(by_dots)(m, n, k, A, lda, B, ldb, accumulate, C, ldc)) {
        return;
    }
#endif
    float space[DEPTH * COLUMNS] __attribute__((aligned(64)));
    const ptrdiff_t words = (k + PER_WORD - 1) / PER_WORD;
    const ptrdiff_t n_depths = NAME(n_depths)(words);
    const ptrdiff_t strips = (m + ROWS - 1) / ROWS;
    const ptrdiff_t n_heights = (m + HEIGHT - 1) / HEIGHT;
    const int packed = form != TURNED && STRIPS(form, n, lda);
    /* B is larger than what the first-level cache and prefetching by the CPU make near. */
    const int distant = n * k > DISTANT;
    for (ptrdiff_t d = 0; d < n_depths; d++) {
        const ptrdiff_t first = part(d, words, n_depths) * PER_WORD, depth = part(d + 1, words, n_depths) - part(d, words, n_depths);
        /* Floats of the block, fewer than its words hold at the end of an odd k. */
        const ptrdiff_t floats = d == n_depths - 1 ? k - first : depth * PER_WORD;
        for (ptrdiff_t h = 0; h < n_heights; h++) {
            const ptrdiff_t top = part(h, strips, n_heights) * ROWS;
            const ptrdiff_t bottom = h == n_heights - 1 ? m : part(h + 1, strips, n_heights) * ROWS;
            /* The form in which the kernels read A. */
            int as = form;
            const float *block = form == COLUMNS_CONTIGUOUS ? A + first * lda + top : A + top * lda + first;
            if (packed) {
                NAME(pack_strips)(form, bottom - top, floats, block, lda);
                as = COLUMNS_CONTIGUOUS;
                block = kept_strips;
            }
            for (ptrdiff_t j = 0; j < n; j += COLUMNS) {
                const ptrdiff_t columns = n - j < COLUMNS ? n - j : COLUMNS;
                const int vectors = columns > WIDTH ? 2 : 1;
                const int last = (int)columns - WIDTH * (vectors - 1);
                const float *panel = space;
                ptrdiff_t stride = WIDTH * vectors;
                const float *const source = NAME(panel_source)(transpose_B, first, j, B, ldb);
                /* The source of the next panel, or that panel itself: rows of one or two vectors one after the other. */
                const ptrdiff_t columns_left = n - j - COLUMNS;
                const float *next = NAME(panel_source)(transpose_B, first, j + COLUMNS, B, ldb);
                ptrdiff_t next_stride = ldb;
                const int made = transpose_B == SVDFAST_PACKED;
                if (made) {
#if PER_WORD > 1
                    panel = B + NAME(panel_place)(n, j, first / PER_WORD, depth);
                    next = panel + COLUMNS * depth;
                    next_stride = columns_left > WIDTH ? COLUMNS : WIDTH;
#endif
                } else if (transpose_B || PER_WORD > 1 || bottom - top > FEW_ROWS || ldb % ALIASING == 0 || last < WIDTH) {
                    NAME(make_panel)(transpose_B, floats, vectors, columns, source, ldb, space);
                } else {
                    panel = source;
                    stride = ldb;
                }
                const ptrdiff_t length = made ? depth : floats;
                /* Each strip of A fetches as much of it, in whole cache lines. */
                const ptrdiff_t share = distant ? ((length * ROWS / (bottom - top)) / LINE + 1) * LINE : 0;
                for (ptrdiff_t i = top, f = 0; i < bottom; i += ROWS, f += share) {
                    if (distant && columns_left > 0)
                        fetch(transpose_B && !made, columns_left < COLUMNS ? columns_left : COLUMNS, f,
                              f + share < length ? f + share : length, next, next_stride);
                    const ptrdiff_t rows = bottom - i < ROWS ? bottom - i : ROWS;
                    const float *a = block + (i - top) * (packed ? depth : as == COLUMNS_CONTIGUOUS ? 1 : lda);
                    float *c = form == TURNED ? C + j * ldc + i : C + i * ldc + j;
                    NAME(KERNELS)[as][vectors - 1][rows - 1](depth, a, packed ? rows : lda, panel, stride, last, accumulate || d > 0, c,
                                                             ldc);
                }
            }
        }
    }
}

#undef DEFINE
#undef DEFINE_COLUMNS
#undef DEFINE_ROWS
#undef NAME_ROWS
#undef NAME_COLUMNS
#undef NAME_TURNED
