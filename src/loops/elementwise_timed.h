/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A table whose entries call those of the chosen instruction set between two looks at the clock. Included by elementwise.c for
 * each TYPE, with SET timed. No include guard: that is its purpose. Elsewhere: the loops, and the use of the times.
 */
#define BETWEEN(kind, call)                  \
    {                                        \
        const double start = svdfast_clock(); \
        selected->TYPE->call;                 \
        svdfast_add_time(kind, start, 0);    \
    }
#define RETURNED(kind, call)                                 \
    {                                                        \
        const double start = svdfast_clock();                \
        const double result = selected->TYPE->call;          \
        svdfast_add_time(kind, start, 0);                    \
        return result;                                       \
    }

static void NAME(bias_activation)(int activation, double parameter, ptrdiff_t p, ptrdiff_t n, const void *b, void *Z, void *A)
BETWEEN(SVDFAST_LOOPS, bias_activation(activation, parameter, p, n, b, Z, A))

static void NAME(activation_backward)(int activation, double parameter, ptrdiff_t p, ptrdiff_t n, const void *Z, const void *A,
                                      void *dZ)
BETWEEN(SVDFAST_LOOPS, activation_backward(activation, parameter, p, n, Z, A, dZ))

static void NAME(loss)(int loss, ptrdiff_t p, ptrdiff_t n, const void *Z, const void *A, const int32_t *labels, const void *targets,
                       const void *weights, const int64_t *rows, double scale, void *delta, double *losses)
BETWEEN(SVDFAST_LOOPS, loss(loss, p, n, Z, A, labels, targets, weights, rows, scale, delta, losses))

static double NAME(update)(const svdfast_update_rule *rule, ptrdiff_t n, const void *g, void *w, void *m, void *v)
RETURNED(SVDFAST_UPDATING, update(rule, n, g, w, m, v))

static double NAME(add_penalty)(const svdfast_update_rule *rule, ptrdiff_t n, const void *w, void *g)
RETURNED(SVDFAST_UPDATING, add_penalty(rule, n, w, g))

static void NAME(add_rows)(ptrdiff_t p, ptrdiff_t n, const void *X, ptrdiff_t stride, void *y)
BETWEEN(SVDFAST_UPDATING, add_rows(p, n, X, stride, y))

static void NAME(gather)(int type, ptrdiff_t p, ptrdiff_t m, const void *X, ptrdiff_t stride, const int64_t *rows,
                         double scale, void *out)
BETWEEN(SVDFAST_GATHERING, gather(type, p, m, X, stride, rows, scale, out))

static void NAME(cell)(int cell, const svdfast_cell_step *step)
BETWEEN(SVDFAST_LOOPS, cell(cell, step))

static void NAME(cell_backward)(int cell, const svdfast_cell_step *step)
BETWEEN(SVDFAST_LOOPS, cell_backward(cell, step))

static void NAME(patches)(const svdfast_window *window, ptrdiff_t c, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t p, const void *X, void *P)
BETWEEN(SVDFAST_LOOPS, patches(window, c, begin, end, p, X, P))

static void NAME(add_patches)(const svdfast_window *window, ptrdiff_t c, ptrdiff_t begin, ptrdiff_t end, const void *P, void *X)
BETWEEN(SVDFAST_LOOPS, add_patches(window, c, begin, end, P, X))

static void NAME(pool)(int code, const svdfast_window *window, ptrdiff_t p, ptrdiff_t c, const void *X, void *Y)
BETWEEN(SVDFAST_LOOPS, pool(code, window, p, c, X, Y))

static void NAME(pool_backward)(int code, const svdfast_window *window, ptrdiff_t p, ptrdiff_t c, const void *X, const void *Y,
                                const void *dY, void *dX)
BETWEEN(SVDFAST_LOOPS, pool_backward(code, window, p, c, X, Y, dY, dX))

static void NAME(make_dense)(const svdfast_entries *X, ptrdiff_t p, ptrdiff_t m, ptrdiff_t first, const int64_t *rows, void *out)
BETWEEN(SVDFAST_GATHERING, make_dense(X, p, m, first, rows, out))

static void NAME(by_columns)(const svdfast_entries *X, ptrdiff_t p, ptrdiff_t m, ptrdiff_t first, const int64_t *rows,
                             svdfast_columns *out)
BETWEEN(SVDFAST_GATHERING, by_columns(X, p, m, first, rows, out))

static void NAME(sparse_product)(const svdfast_columns *X, ptrdiff_t p, ptrdiff_t m, ptrdiff_t n, ptrdiff_t first, ptrdiff_t stop,
                                 const void *W, void *strip, void *Y)
BETWEEN(SVDFAST_LOOPS, sparse_product(X, p, m, n, first, stop, W, strip, Y))

static void NAME(take_lanes)(ptrdiff_t p, ptrdiff_t n, ptrdiff_t first, ptrdiff_t lanes, const void *dY, void *strip)
BETWEEN(SVDFAST_LOOPS, take_lanes(p, n, first, lanes, dY, strip))

static void NAME(sparse_gradient)(const svdfast_columns *X, ptrdiff_t c, ptrdiff_t stop, ptrdiff_t lanes, const void *strip, int close,
                                  ptrdiff_t base, ptrdiff_t stride, int accumulate, void *g)
BETWEEN(SVDFAST_LOOPS, sparse_gradient(X, c, stop, lanes, strip, close, base, stride, accumulate, g))

static void NAME(take_columns)(ptrdiff_t count, const int32_t *columns, const void *w, void *out)
BETWEEN(SVDFAST_UPDATING, take_columns(count, columns, w, out))

static void NAME(put_columns)(ptrdiff_t count, const int32_t *columns, const void *from, void *w)
BETWEEN(SVDFAST_UPDATING, put_columns(count, columns, from, w))

#undef BETWEEN
#undef RETURNED

static const svdfast_elementwise NAME(table) = {
    NAME(bias_activation), NAME(activation_backward), NAME(loss), NAME(update), NAME(add_penalty), NAME(add_rows), NAME(gather),
    NAME(cell), NAME(cell_backward), NAME(patches), NAME(add_patches), NAME(pool), NAME(pool_backward),
    NAME(make_dense), NAME(by_columns), NAME(sparse_product), NAME(take_lanes), NAME(sparse_gradient), NAME(take_columns), NAME(put_columns),
};
