/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Loops under a window that goes over images: patches (rows of the numbers under each of its places),
 * and pooling. elementwise.h includes this file for the window; elementwise_loops.h includes it again
 * for each REAL. Elsewhere: products with patches.
 *
 *     X (height, width, c)   an image, c channels          Y (rows·columns, c)   a row for each place of the window
 *                                                          P (rows·columns, tall·wide·c)
 *
 * Rows are short where there are few channels. So they are gone through by whole vectors of LANES numbers: what is written beyond a row's
 * end is written over by the next one, and what is read there does not count. At the end of an array numbers are taken one by one.
 */
#ifndef SVDFAST_WINDOWS_H
#define SVDFAST_WINDOWS_H

#include <stddef.h>

/* The image's size; the window's size, its steps down and across, how far it begins above and left of
 * the image, and its places. */
typedef struct {
    ptrdiff_t height, width, tall, wide, down, across, top, left, rows, columns;
} svdfast_window;

enum { SVDFAST_LARGEST, SVDFAST_MEAN };

/* Bytes beyond the end of P that may be written over. */
enum { SVDFAST_BEYOND_PATCHES = 64 };

#endif

#ifdef REAL

enum { NAME(LANES) = 32 / sizeof(REAL) };

/* to (n) = from (n); of `from` there are `left` numbers, and beyond `to` there is room for LANES. */
static inline void NAME(copy_over)(ptrdiff_t n, ptrdiff_t left, const REAL *from, REAL *to)
{
    if (left >= n + NAME(LANES))
        for (ptrdiff_t j = 0; j < n; j += NAME(LANES))
            memcpy(to + j, from + j, 32);
    else
        memcpy(to, from, (size_t)n * sizeof(REAL));
}

/* The same of `rows` rows, `stride` numbers apart in `from` and n in `to`; all of them may be read beyond their ends. */
static inline void NAME(copy_rows)(ptrdiff_t rows, ptrdiff_t n, const REAL *from, ptrdiff_t stride, REAL *to)
{
    for (ptrdiff_t i = 0; i < rows; i++, from += stride, to += n) {
        memcpy(to, from, 32);
        for (ptrdiff_t j = NAME(LANES); j < n; j += NAME(LANES))
            memcpy(to + j, from + j, 32);
    }
}

/* to (n) = from (n), by whole vectors as far as they go: a call of memcpy takes longer. */
static inline void NAME(copy)(ptrdiff_t n, const REAL *from, REAL *to)
{
    ptrdiff_t j = 0;
    for (; j + NAME(LANES) <= n; j += NAME(LANES))
        memcpy(to + j, from + j, 32);
    if (j < n)
        memcpy(to + j, from + j, (size_t)(n - j) * sizeof(REAL));
}

static inline void NAME(zero_over)(ptrdiff_t n, REAL *to)
{
    for (ptrdiff_t j = 0; j < n; j += NAME(LANES))
        memset(to + j, 0, 32);
}

/* Rows begin .. end of P, of p images. */
static void NAME(patches)(const svdfast_window *w, ptrdiff_t c, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t p, const void *X_, void *P_)
{
    const ptrdiff_t places = w->rows * w->columns, of_row = w->wide * c, line = w->width * c, size = w->height * line;
    const REAL *const stop = (const REAL *)X_ + p * size;
    const REAL *image = (const REAL *)X_ + begin / places * size;
    REAL *P = P_;
    ptrdiff_t row = begin % places / w->columns, column = begin % w->columns;
    for (ptrdiff_t i = begin; i < end; i++) {
        const ptrdiff_t x = column * w->across - w->left, y = row * w->down - w->top;
        const ptrdiff_t first = x < 0 ? -x : 0, last = x + w->wide > w->width ? w->width - x : w->wide;
        const REAL *at = image + y * line + x * c;
        if (first == 0 && last == w->wide && y >= 0 && y + w->tall <= w->height
            && stop - at >= (w->tall - 1) * line + of_row + NAME(LANES)) {
            NAME(copy_rows)(w->tall, of_row, at, line, P);
            P += w->tall * of_row;
        } else {
            for (ptrdiff_t k = 0; k < w->tall; k++, at += line, P += of_row) {
                if (y + k < 0 || y + k >= w->height) {
                    NAME(zero_over)(of_row, P);
                } else {
                    NAME(zero_over)(first * c, P);
                    NAME(copy_over)((last - first) * c, stop - at - first * c, at + first * c, P + first * c);
                    NAME(zero_over)((w->wide - last) * c, P + last * c);
                }
            }
        }
        if (++column == w->columns) {
            column = 0;
            if (++row == w->rows) {
                row = 0;
                image += size;
            }
        }
    }
}

/* X += rows begin .. end of P, each number where it came from. */
static void NAME(add_patches)(const svdfast_window *w, ptrdiff_t c, ptrdiff_t begin, ptrdiff_t end, const void *P_, void *X_)
{
    const ptrdiff_t places = w->rows * w->columns, of_row = w->wide * c, size = w->height * w->width * c;
    REAL *image = (REAL *)X_ + begin / places * size;
    const REAL *P = P_;
    ptrdiff_t row = begin % places / w->columns, column = begin % w->columns;
    for (ptrdiff_t i = begin; i < end; i++) {
        const ptrdiff_t x = column * w->across - w->left, y = row * w->down - w->top;
        const ptrdiff_t first = (x < 0 ? -x : 0) * c, last = (x + w->wide > w->width ? w->width - x : w->wide) * c;
        const ptrdiff_t above = y < 0 ? -y : 0, below = y + w->tall > w->height ? w->height - y : w->tall;
        for (ptrdiff_t k = above; k < below; k++) {
            REAL *restrict to = image + ((y + k) * w->width + x) * c;
            const REAL *restrict from = P + k * of_row;
            for (ptrdiff_t j = first; j < last; j++)
                to[j] += from[j];
        }
        P += w->tall * of_row;
        if (++column == w->columns) {
            column = 0;
            if (++row == w->rows) {
                row = 0;
                image += size;
            }
        }
    }
}

/* The part of a window's place within the image: rows top .. bottom, columns left .. right. */
typedef struct {
    ptrdiff_t top, bottom, left, right;
} NAME(part);

static inline NAME(part) NAME(part_of)(const svdfast_window *w, ptrdiff_t row, ptrdiff_t column)
{
    const ptrdiff_t y = row * w->down - w->top, x = column * w->across - w->left;
    const NAME(part) part = {y < 0 ? 0 : y, y + w->tall > w->height ? w->height : y + w->tall,
                             x < 0 ? 0 : x, x + w->wide > w->width ? w->width : x + w->wide};
    return part;
}

/* y (n) = the largest, or the mean, of n numbers from each of the window's positions on, which are c apart. NaN is the largest. */
static inline void NAME(largest)(ptrdiff_t n, const NAME(part) *w, ptrdiff_t c, ptrdiff_t line, const REAL *image, REAL *restrict y)
{
    NAME(copy)(n, image + w->top * line + w->left * c, y);
    for (ptrdiff_t i = w->top; i < w->bottom; i++)
        for (ptrdiff_t j = w->left; j < w->right; j++) {
            const REAL *restrict x = image + i * line + j * c;
            for (ptrdiff_t k = 0; k < n; k++)
                y[k] = (x[k] > y[k]) | (x[k] != x[k]) ? x[k] : y[k];
        }
}

static inline void NAME(mean)(ptrdiff_t n, const NAME(part) *w, ptrdiff_t c, ptrdiff_t line, const REAL *image, REAL *restrict y)
{
    const REAL share = (REAL)1 / (REAL)((w->bottom - w->top) * (w->right - w->left));
    for (ptrdiff_t k = 0; k < n; k++)
        y[k] = 0;
    for (ptrdiff_t i = w->top; i < w->bottom; i++)
        for (ptrdiff_t j = w->left; j < w->right; j++) {
            const REAL *restrict x = image + i * line + j * c;
            for (ptrdiff_t k = 0; k < n; k++)
                y[k] += x[k];
        }
    for (ptrdiff_t k = 0; k < n; k++)
        y[k] *= share;
}

static inline ptrdiff_t NAME(whole)(ptrdiff_t n) { return (n + NAME(LANES) - 1) / NAME(LANES) * NAME(LANES); }

static void NAME(pool)(int code, const svdfast_window *w, ptrdiff_t p, ptrdiff_t c, const void *X_, void *Y_)
{
    const ptrdiff_t line = w->width * c, size = w->height * line, n = NAME(whole)(c);
    const REAL *image = X_, *const stop = image + p * size;
    REAL *Y = Y_, *const Y_stop = Y + p * w->rows * w->columns * c;
    for (ptrdiff_t i = 0; i < p; i++, image += size)
        for (ptrdiff_t row = 0; row < w->rows; row++)
            for (ptrdiff_t column = 0; column < w->columns; column++, Y += c) {
                const NAME(part) part = NAME(part_of)(w, row, column);
                const REAL *last = image + (part.bottom - 1) * line + (part.right - 1) * c;
                const ptrdiff_t count = stop - last >= n && Y_stop - Y >= n ? n : c;
                if (code == SVDFAST_LARGEST)
                    NAME(largest)(count, &part, c, line, image, Y);
                else
                    NAME(mean)(count, &part, c, line, image, Y);
            }
}

enum { NAME(CHANNELS) = 64 / sizeof(REAL) * 4 }; /* that go back at a time */

/* g (n), zeros beyond, to the positions that it comes from. Where several numbers are the largest, the first has it: what has found its own has
 * none left for others. */
static inline void NAME(to_largest)(ptrdiff_t n, const NAME(part) *w, ptrdiff_t c, ptrdiff_t line, const REAL *image, const REAL *restrict y,
                                    REAL *restrict g, REAL *delta)
{
    for (ptrdiff_t i = w->top; i < w->bottom; i++)
        for (ptrdiff_t j = w->left; j < w->right; j++) {
            const REAL *restrict x = image + i * line + j * c;
            REAL *restrict to = delta + i * line + j * c;
            for (ptrdiff_t k = 0; k < n; k++) {
                const REAL here = x[k] == y[k] ? g[k] : 0;
                to[k] += here;
                g[k] = x[k] == y[k] ? 0 : g[k];
            }
        }
}

static inline void NAME(to_all)(ptrdiff_t n, const NAME(part) *w, ptrdiff_t c, ptrdiff_t line, REAL *restrict g, REAL *delta)
{
    const REAL share = (REAL)1 / (REAL)((w->bottom - w->top) * (w->right - w->left));
    for (ptrdiff_t k = 0; k < n; k++)
        g[k] *= share;
    for (ptrdiff_t i = w->top; i < w->bottom; i++)
        for (ptrdiff_t j = w->left; j < w->right; j++) {
            REAL *restrict to = delta + i * line + j * c;
            for (ptrdiff_t k = 0; k < n; k++)
                to[k] += g[k];
        }
}

static void NAME(pool_backward)(int code, const svdfast_window *w, ptrdiff_t p, ptrdiff_t c, const void *X_, const void *Y_, const void *dY_,
                                void *dX_)
{
    const ptrdiff_t line = w->width * c, size = w->height * line;
    const REAL *image = X_, *Y = Y_, *dY = dY_, *const Y_stop = Y + p * w->rows * w->columns * c;
    REAL *delta = dX_, *const stop = delta + p * size, g[NAME(CHANNELS)] = {0};
    memset(dX_, 0, (size_t)(p * size) * sizeof(REAL));
    for (ptrdiff_t i = 0; i < p; i++, image += size, delta += size)
        for (ptrdiff_t row = 0; row < w->rows; row++)
            for (ptrdiff_t column = 0; column < w->columns; column++, Y += c, dY += c) {
                const NAME(part) part = NAME(part_of)(w, row, column);
                const REAL *last = delta + (part.bottom - 1) * line + (part.right - 1) * c;
                for (ptrdiff_t j = 0; j < c; j += NAME(CHANNELS)) {
                    const ptrdiff_t n = c - j < NAME(CHANNELS) ? c - j : NAME(CHANNELS), whole = NAME(whole)(n);
                    const ptrdiff_t count = stop - last - j >= whole && Y_stop - Y - j >= whole ? whole : n;
                    NAME(copy)(count, dY + j, g);
                    for (ptrdiff_t k = n; k < whole; k++)
                        g[k] = 0;
                    if (code == SVDFAST_LARGEST)
                        NAME(to_largest)(count, &part, c, line, image + j, Y + j, g, delta + j);
                    else
                        NAME(to_all)(count, &part, c, line, g, delta + j);
                }
            }
}

#endif /* REAL */
