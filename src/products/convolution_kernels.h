/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Products with the patches of images without the patches: the micro-kernels read the images where they lie, or with a border of zeros.
 * Included by product.c after product_kernels.h, for each instruction set; NAME(f) is f with its name appended. See product.h for what
 * they compute.
 *
 * Neighbouring places of the window lie `across` positions apart in the image, whatever is under them; and of what lies under one, the
 * numbers of a row of the window follow each other. So for places of one row a patch's element (i, k) is at i·across·c + k for the k of a
 * row of the window, and the next row of the window begins a line of the image further on. A micro-kernel goes over several such rows.
 * The gradient sums over places instead, which lie across·c apart, and a line or more from row to row.
 */

/* Kernels by vectors and rows; `rows` of A are `stride` floats apart, or for gradients its columns, and C turned. */
typedef void NAME(walker)(ptrdiff_t segments, ptrdiff_t jump, ptrdiff_t k, const float *A, ptrdiff_t stride, const float *B, int last,
                          int accumulate, float *C, ptrdiff_t ldc);
#define DEFINE_WALKERS(rows, vectors)                                                                                                \
    TARGET static void NAME(places_##rows##_##vectors)(ptrdiff_t segments, ptrdiff_t jump, ptrdiff_t k, const float *A,               \
                                                       ptrdiff_t stride, const float *B, int last, int accumulate, float *C,         \
                                                       ptrdiff_t ldc)                                                                \
    {                                                                                                                                \
        NAME(micro_kernel)(rows, vectors, 0, segments, jump, k, A, stride, 1, B, WIDTH * vectors, last, accumulate, C, ldc);          \
    }                                                                                                                                \
    TARGET static void NAME(elements_##rows##_##vectors)(ptrdiff_t segments, ptrdiff_t jump, ptrdiff_t k, const float *A,             \
                                                         ptrdiff_t stride, const float *B, int last, int accumulate, float *C,       \
                                                         ptrdiff_t ldc)                                                              \
    {                                                                                                                                \
        NAME(micro_kernel)(rows, vectors, 1, segments, jump, k, A, 1, stride, B, WIDTH * vectors, last, accumulate, C, ldc);          \
    }
FOR_EACH_ROWS(DEFINE_WALKERS, 1)
FOR_EACH_ROWS(DEFINE_WALKERS, 2)
#define NAME_PLACES(rows, vectors) NAME(places_##rows##_##vectors),
#define NAME_ELEMENTS(rows, vectors) NAME(elements_##rows##_##vectors),
static NAME(walker) *const NAME(PLACES)[2][ROWS] = {{FOR_EACH_ROWS(NAME_PLACES, 1)}, {FOR_EACH_ROWS(NAME_PLACES, 2)}};
static NAME(walker) *const NAME(ELEMENTS)[2][ROWS] = {{FOR_EACH_ROWS(NAME_ELEMENTS, 1)}, {FOR_EACH_ROWS(NAME_ELEMENTS, 2)}};

/* Panel of Wᵀ for columns j and on, from element `first` of a row of W (n×tall·wide·c) on, `depth` deep. For the way back W is turned by
 * half, (c×tall·wide·n): its element (j, (y, x), i) is the one of W at (i, (tall - 1 - y, wide - 1 - x), j). */
TARGET static void NAME(weight_panel)(const svdfast_window *w, int back, ptrdiff_t c, ptrdiff_t n, const float *W, ptrdiff_t first,
                                      ptrdiff_t depth, ptrdiff_t j, int vectors, ptrdiff_t columns, float *panel)
{
    if (!back) {
        NAME(transpose_panel)(depth, vectors, columns, W + j * w->tall * w->wide * c + first, w->tall * w->wide * c, panel);
        return;
    }
    /* c and n as the way back has them: patches have c channels, W has rows of tall·wide·n. */
    for (ptrdiff_t done = 0; done < depth;) {
        const ptrdiff_t place = w->tall * w->wide - 1 - (first + done) / c, i = (first + done) % c;
        const ptrdiff_t count = c - i < depth - done ? c - i : depth - done;
        NAME(copy_panel)(count, vectors, (int)columns - WIDTH * (vectors - 1), W + (i * w->tall * w->wide + place) * n + j,
                         w->tall * w->wide * n, panel + done * WIDTH * vectors);
        done += count;
    }
}

/* Y (p·places, n) = P·Wᵀ; back: with W turned by half. */
static void NAME(convolution)(const svdfast_window *w, int back, ptrdiff_t p, ptrdiff_t c, ptrdiff_t n, const float *X, const float *W,
                              float *Y)
{
    float panel[DEPTH * COLUMNS] __attribute__((aligned(64)));
    const ptrdiff_t of_row = w->wide * c, strips = (w->columns + ROWS - 1) / ROWS;
    /* Whole rows of the window at a time, or nearly equal parts of one. */
    const ptrdiff_t at_once = of_row > DEPTH ? 1 : DEPTH / of_row;
    const ptrdiff_t n_blocks = (w->tall + at_once - 1) / at_once, n_parts = of_row > DEPTH ? (of_row + DEPTH - 1) / DEPTH : 1;
    for (ptrdiff_t of = 0, count = n_bands(w, p, c); of < count; of++) {
        const band b = band_at(w, p, c, of);
        const bordered A = with_border(w, &b, c, X);
        for (ptrdiff_t d = 0; d < n_blocks * n_parts; d++) {
            const ptrdiff_t row = part(d / n_parts, w->tall, n_blocks), segments = part(d / n_parts + 1, w->tall, n_blocks) - row;
            const ptrdiff_t first = part(d % n_parts, of_row, n_parts), k = part(d % n_parts + 1, of_row, n_parts) - first;
            for (ptrdiff_t j = 0; j < n; j += COLUMNS) {
                const ptrdiff_t columns = n - j < COLUMNS ? n - j : COLUMNS;
                const int vectors = columns > WIDTH ? 2 : 1, last = (int)columns - WIDTH * (vectors - 1);
                NAME(weight_panel)(w, back, c, n, W, row * of_row + first, segments * k, j, vectors, columns, panel);
                for (ptrdiff_t i = 0; i < b.images; i++)
                    for (ptrdiff_t y = 0; y < b.rows; y++) {
                        const float *a = A.at + i * A.image + (y * w->down + row) * A.line + first;
                        float *to = Y + ((b.image + i) * w->rows + b.row + y) * w->columns * n + j;
                        for (ptrdiff_t s = 0; s < strips; s++) {
                            const ptrdiff_t x = part(s, w->columns, strips), rows = part(s + 1, w->columns, strips) - x;
                            NAME(PLACES)[vectors - 1][rows - 1](segments, A.line - k, k, a + x * w->across * c, w->across * c, panel, last,
                                                                d > 0, to + x * n, n);
                        }
                    }
            }
        }
    }
}

/* g (stop - first × tall·wide·c) (+)= rows first .. stop of dYᵀ·P */
static void NAME(convolution_gradient)(const svdfast_window *w, ptrdiff_t p, ptrdiff_t c, ptrdiff_t n, const float *X, const float *dY,
                                       ptrdiff_t first, ptrdiff_t stop, int accumulate, float *g)
{
    float panel[DEPTH * COLUMNS] __attribute__((aligned(64)));
    const ptrdiff_t of_row = w->wide * c, m = w->tall * of_row, strips = (of_row + ROWS - 1) / ROWS;
    /* Whole rows of places at a time, or nearly equal parts of one. */
    const ptrdiff_t at_once = w->columns > DEPTH ? 1 : DEPTH / w->columns, n_parts = (w->columns + DEPTH - 1) / DEPTH;
    int more = accumulate;
    for (ptrdiff_t of = 0, count = n_bands(w, p, c); of < count; of++) {
        const band b = band_at(w, p, c, of);
        const bordered A = with_border(w, &b, c, X);
        const ptrdiff_t n_blocks = (b.rows + at_once - 1) / at_once;
        for (ptrdiff_t d = 0; d < b.images * n_blocks * n_parts; d++, more = 1) {
            const ptrdiff_t i = d / (n_blocks * n_parts), block = d / n_parts % n_blocks;
            const ptrdiff_t y = part(block, b.rows, n_blocks), segments = part(block + 1, b.rows, n_blocks) - y;
            const ptrdiff_t x = part(d % n_parts, w->columns, n_parts), k = part(d % n_parts + 1, w->columns, n_parts) - x;
            const float *a = A.at + i * A.image + y * w->down * A.line + x * w->across * c;
            const float *from = dY + (((b.image + i) * w->rows + b.row + y) * w->columns + x) * n;
            for (ptrdiff_t j = first; j < stop; j += COLUMNS) {
                const ptrdiff_t columns = stop - j < COLUMNS ? stop - j : COLUMNS;
                const int vectors = columns > WIDTH ? 2 : 1, last = (int)columns - WIDTH * (vectors - 1);
                NAME(copy_panel)(segments * k, vectors, last, from + j, n, panel);
                for (ptrdiff_t row = 0; row < w->tall; row++)
                    for (ptrdiff_t s = 0; s < strips; s++) {
                        const ptrdiff_t e = part(s, of_row, strips), rows = part(s + 1, of_row, strips) - e;
                        NAME(ELEMENTS)[vectors - 1][rows - 1](segments, w->down * A.line - k * w->across * c, k, a + row * A.line + e,
                                                              w->across * c, panel, last, more, g + (j - first) * m + row * of_row + e, m);
                    }
            }
        }
    }
}

#undef DEFINE_WALKERS
#undef NAME_PLACES
#undef NAME_ELEMENTS
