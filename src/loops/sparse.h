/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Sparse samples: rows of a CSR matrix brought to column order, and the products with the first weight that go by entries alone.
 * elementwise.h includes this file for its types; elementwise_loops.h includes it again for each REAL. Elsewhere: the
 * division of outputs among threads, and the update (_engine.pyx).
 *
 *     X (p×m) has few entries    Y (p×n) = X·Wᵀ    dW (n×m) = dYᵀ·X
 *
 * W lies by rows, and m is large. A column of X meets one number of each row of W. So columns are gone through in order, for
 * SVDFAST_LANES outputs at a time: W is read as so many streams, and a strip (p, SVDFAST_LANES) of Y or dY stays in the cache.
 * An output's sums do not depend on the outputs beside it, nor on threads.
 */
#ifndef SVDFAST_SPARSE_H
#define SVDFAST_SPARSE_H

/* Outputs that are formed together, a vector of floats (AVX2) or of doubles (AVX-512), and columns that are: their numbers of W are
 * brought together first, so that loads do not wait for each other, and all their entries are one loop, as most columns have few. */
enum { SVDFAST_LANES = 8, SVDFAST_COLUMNS = 64 };

/* Rows of a CSR matrix of values of `type`, which are multiplied with `scale`. */
typedef struct {
    int type;
    double scale;
    const void *values;
    const int32_t *columns;
    const int64_t *begins; /* of each row's entries, and the end of the last */
} svdfast_entries;

/* Some of these rows in column order, those columns alone that have an entry. */
typedef struct {
    ptrdiff_t count;  /* of columns */
    int32_t *columns; /* which, ascending */
    int64_t *begins;  /* (count + 1) of each column's entries, and the end of the last */
    int32_t *rows;    /* of each entry, ascending in a column */
    int32_t *owners;  /* of each entry, the place of its column in `columns` */
    void *values;     /* REAL */
    int64_t *places;  /* (m) zeros between calls */
} svdfast_columns;

#endif

#ifdef REAL

/* One loop for each type of the source. `from` is the row of the matrix, x its values, `to` their end. */
#define BY_TYPE(LOOP)                             \
    switch (X->type) {                            \
    case SVDFAST_UINT8: LOOP(uint8_t); break;     \
    case SVDFAST_FLOAT32: LOOP(float); break;     \
    default: LOOP(double); break;                 \
    }

/* out (p, m) = the rows first .. first+p, or rows[0] .. rows[p-1]. */
static void NAME(make_dense)(const svdfast_entries *X, ptrdiff_t p, ptrdiff_t m, ptrdiff_t first, const int64_t *rows, void *out_)
{
    REAL *out = out_;
    const REAL factor = (REAL)X->scale;
    memset(out, 0, (size_t)(p * m) * sizeof(REAL));
#define ROWS(SOURCE)                                                                  \
    for (ptrdiff_t i = 0; i < p; i++) {                                               \
        const int64_t row = rows == NULL ? first + i : rows[i];                       \
        for (int64_t e = X->begins[row]; e < X->begins[row + 1]; e++)                 \
            out[i * m + X->columns[e]] += (REAL)((const SOURCE *)X->values)[e] * factor; \
    }
    BY_TYPE(ROWS)
#undef ROWS
}

/* The same rows in column order: a counting sort. */
static void NAME(by_columns)(const svdfast_entries *X, ptrdiff_t p, ptrdiff_t m, ptrdiff_t first, const int64_t *rows,
                             svdfast_columns *out)
{
    enum { TOGETHER = 32 };
    const REAL factor = (REAL)X->scale;
    REAL *values = out->values;
    int64_t *places = out->places, place = 0;
    for (ptrdiff_t i = 0; i < p; i++) {
        const int64_t row = rows == NULL ? first + i : rows[i];
        for (int64_t e = X->begins[row]; e < X->begins[row + 1]; e++)
            places[X->columns[e]]++;
    }
    out->count = 0;
    for (ptrdiff_t begin = 0; begin < m; begin += TOGETHER) {
        const ptrdiff_t stop = m - begin < TOGETHER ? m : begin + TOGETHER;
        int64_t any = 0;
        for (ptrdiff_t j = begin; j < stop; j++)
            any |= places[j];
        if (any == 0)
            continue;
        for (ptrdiff_t j = begin; j < stop; j++) {
            const int64_t n = places[j];
            if (n == 0)
                continue;
            out->columns[out->count] = (int32_t)j;
            out->begins[out->count++] = place;
            places[j] = place;
            place += n;
        }
    }
    out->begins[out->count] = place;
#define ROWS(SOURCE)                                                         \
    for (ptrdiff_t i = 0; i < p; i++) {                                      \
        const int64_t row = rows == NULL ? first + i : rows[i];              \
        for (int64_t e = X->begins[row]; e < X->begins[row + 1]; e++) {      \
            const int64_t to = places[X->columns[e]]++;                      \
            out->rows[to] = (int32_t)i;                                      \
            values[to] = (REAL)((const SOURCE *)X->values)[e] * factor;      \
        }                                                                    \
    }
    BY_TYPE(ROWS)
#undef ROWS
    for (ptrdiff_t c = 0; c < out->count; c++) {
        places[out->columns[c]] = 0;
        for (int64_t e = out->begins[c]; e < out->begins[c + 1]; e++)
            out->owners[e] = (int32_t)c;
    }
}

#undef BY_TYPE

/* So many numbers as one vector, as compilers make single instructions of a loop of fixed length; to (LANES) += x·from. */
#if defined(__GNUC__)
typedef REAL NAME(lanes) __attribute__((vector_size(SVDFAST_LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
#define ADD_LANES(to, x, from) (*(NAME(lanes) *)(to) += (x) * *(const NAME(lanes) *)(from))
#else
#define ADD_LANES(to, x, from)                    \
    for (int lane = 0; lane < SVDFAST_LANES; lane++) \
        (to)[lane] += (x) * (from)[lane]
#endif

/* Columns first .. stop of Y (p, n) = X·W^T. `strip` has room for (p, SVDFAST_LANES). */
static void NAME(sparse_product)(const svdfast_columns *X, ptrdiff_t p, ptrdiff_t m, ptrdiff_t n, ptrdiff_t first, ptrdiff_t stop,
                                 const void *W_, void *strip_, void *Y_)
{
    enum { LANES = SVDFAST_LANES, TOGETHER = SVDFAST_COLUMNS };
    const REAL *W = W_, *values = X->values;
    REAL *strip = strip_, *Y = Y_;
    for (ptrdiff_t o = first; o < stop; o += LANES) {
        const ptrdiff_t lanes = stop - o < LANES ? stop - o : LANES;
        REAL w[TOGETHER * LANES] = {0};
        memset(strip, 0, (size_t)(p * LANES) * sizeof(REAL));
        for (ptrdiff_t begin = 0; begin < X->count; begin += TOGETHER) {
            const ptrdiff_t count = X->count - begin < TOGETHER ? X->count - begin : TOGETHER;
            const int32_t *columns = X->columns + begin;
            for (ptrdiff_t k = 0; k < lanes; k++) {
                const REAL *wk = W + (o + k) * m;
                for (ptrdiff_t c = 0; c < count; c++)
                    w[c * LANES + k] = wk[columns[c]];
            }
            const int64_t end = X->begins[begin + count];
            for (int64_t e = X->begins[begin]; e < end; e++)
                ADD_LANES(strip + (ptrdiff_t)X->rows[e] * LANES, values[e], w + (X->owners[e] - begin) * LANES);
        }
        for (ptrdiff_t i = 0; i < p; i++)
            for (ptrdiff_t k = 0; k < lanes; k++)
                Y[i * n + o + k] = strip[i * LANES + k];
    }
}

/* strip (p, SVDFAST_LANES) = columns first .. first+lanes of dY (p, n), and zeros. */
static void NAME(take_lanes)(ptrdiff_t p, ptrdiff_t n, ptrdiff_t first, ptrdiff_t lanes, const void *dY_, void *strip_)
{
    const REAL *dY = dY_;
    REAL *strip = strip_;
    for (ptrdiff_t i = 0; i < p; i++)
        for (ptrdiff_t k = 0; k < SVDFAST_LANES; k++)
            strip[i * SVDFAST_LANES + k] = k < lanes ? dY[i * n + first + k] : 0;
}

/* The gradient of the outputs of a strip of dY, in columns c .. stop of those that X has. Row k goes to
 * g + k·stride, or is added to it. A column j lies at j - base there; with `close` the columns lie one
 * after the other. */
static void NAME(sparse_gradient)(const svdfast_columns *X, ptrdiff_t c, ptrdiff_t stop, ptrdiff_t lanes, const void *strip_, int close,
                                  ptrdiff_t base, ptrdiff_t stride, int accumulate, void *g_)
{
    /* Sums of many entries are formed in parts, so that they round as those of long products do. */
    enum { LANES = SVDFAST_LANES, TOGETHER = SVDFAST_COLUMNS, PART = 256, FEW = 4 };
    const REAL *strip = strip_, *values = X->values;
    REAL *g = g_;
    const ptrdiff_t first = c;
    for (; c < stop; c += TOGETHER) {
        const ptrdiff_t count = stop - c < TOGETHER ? stop - c : TOGETHER;
        const int64_t *begins = X->begins + c;
        REAL sums[TOGETHER * LANES] = {0};
        /* Sums in the cache: of few entries each, or they would wait for themselves. */
        int64_t most = 0;
        for (ptrdiff_t j = 0; j < count; j++)
            most = begins[j + 1] - begins[j] > most ? begins[j + 1] - begins[j] : most;
        if (most <= PART && begins[count] - begins[0] <= FEW * count) {
            for (int64_t e = begins[0]; e < begins[count]; e++)
                ADD_LANES(sums + (X->owners[e] - c) * LANES, values[e], strip + (ptrdiff_t)X->rows[e] * LANES);
        } else {
            for (ptrdiff_t j = 0; j < count; j++) {
                for (int64_t e = begins[j]; e < begins[j + 1];) {
                    const int64_t last = begins[j + 1] - e < PART ? begins[j + 1] : e + PART;
                    REAL part[LANES] = {0};
                    for (; e < last; e++)
                        ADD_LANES(part, values[e], strip + (ptrdiff_t)X->rows[e] * LANES);
                    ADD_LANES(sums + j * LANES, (REAL)1, part);
                }
            }
        }
        for (ptrdiff_t k = 0; k < lanes; k++) {
            REAL *gk = g + k * stride;
            if (close)
                for (ptrdiff_t j = 0; j < count; j++)
                    gk[c - first + j] = sums[j * LANES + k];
            else if (accumulate)
                for (ptrdiff_t j = 0; j < count; j++)
                    gk[X->columns[c + j] - base] += sums[j * LANES + k];
            else
                for (ptrdiff_t j = 0; j < count; j++)
                    gk[X->columns[c + j] - base] = sums[j * LANES + k];
        }
    }
}

#undef ADD_LANES

/* out = the columns of one row w, one after the other; and back. */
static void NAME(take_columns)(ptrdiff_t count, const int32_t *columns, const void *w_, void *out_)
{
    const REAL *w = w_;
    REAL *restrict out = out_;
    for (ptrdiff_t c = 0; c < count; c++)
        out[c] = w[columns[c]];
}

static void NAME(put_columns)(ptrdiff_t count, const int32_t *columns, const void *from_, void *w_)
{
    const REAL *restrict from = from_;
    REAL *w = w_;
    for (ptrdiff_t c = 0; c < count; c++)
        w[columns[c]] = from[c];
}

#endif /* REAL */
