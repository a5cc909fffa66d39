/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A table whose entries call those of the chosen instruction set between two looks at the clock. Included by elementwise.c for
 * each TYPE, with SET timed. No include guard: that is its purpose. Not here: the loops, and what is done with the times.
 */
static void NAME(bias_activation)(int activation, double parameter, ptrdiff_t p, ptrdiff_t n, const void *b, void *Z, void *A)
{
    const double start = svdfast_clock();
    selected->TYPE->bias_activation(activation, parameter, p, n, b, Z, A);
    svdfast_add_time(SVDFAST_LOOPS, start, 0);
}

static void NAME(activation_backward)(int activation, double parameter, ptrdiff_t p, ptrdiff_t n, const void *Z, const void *A,
                                      void *dZ)
{
    const double start = svdfast_clock();
    selected->TYPE->activation_backward(activation, parameter, p, n, Z, A, dZ);
    svdfast_add_time(SVDFAST_LOOPS, start, 0);
}

static void NAME(loss)(int loss, ptrdiff_t p, ptrdiff_t n, const void *Z, const void *A, const int32_t *labels, const void *targets,
                       const void *weights, const int64_t *rows, double scale, void *delta, double *losses)
{
    const double start = svdfast_clock();
    selected->TYPE->loss(loss, p, n, Z, A, labels, targets, weights, rows, scale, delta, losses);
    svdfast_add_time(SVDFAST_LOOPS, start, 0);
}

static double NAME(update)(const svdfast_update_rule *rule, ptrdiff_t n, const void *g, void *w, void *m, void *v)
{
    const double start = svdfast_clock();
    const double penalty = selected->TYPE->update(rule, n, g, w, m, v);
    svdfast_add_time(SVDFAST_UPDATING, start, 0);
    return penalty;
}

static double NAME(add_penalty)(const svdfast_update_rule *rule, ptrdiff_t n, const void *w, void *g)
{
    const double start = svdfast_clock();
    const double penalty = selected->TYPE->add_penalty(rule, n, w, g);
    svdfast_add_time(SVDFAST_UPDATING, start, 0);
    return penalty;
}

static void NAME(add_rows)(ptrdiff_t p, ptrdiff_t n, const void *X, ptrdiff_t stride, void *y)
{
    const double start = svdfast_clock();
    selected->TYPE->add_rows(p, n, X, stride, y);
    svdfast_add_time(SVDFAST_UPDATING, start, 0);
}

static void NAME(gather)(int type, ptrdiff_t p, ptrdiff_t m, const void *X, ptrdiff_t stride, const int64_t *rows,
                         double scale, void *out)
{
    const double start = svdfast_clock();
    selected->TYPE->gather(type, p, m, X, stride, rows, scale, out);
    svdfast_add_time(SVDFAST_GATHERING, start, 0);
}

static const svdfast_elementwise NAME(table) = {
    NAME(bias_activation), NAME(activation_backward), NAME(loss), NAME(update), NAME(add_penalty), NAME(add_rows), NAME(gather),
};
