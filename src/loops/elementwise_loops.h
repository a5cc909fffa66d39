/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The loops of elementwise.h, written once for a type REAL; the formulas of activations, losses and
 * updates are in the files that are included below. Included by elementwise_types.h, for each type and
 * instruction set; NAME(f) is f with both appended. No include guard: that is its purpose.
 *
 * Written so that GCC and clang turn each inner loop into vector instructions: no calls but to the inline functions here (erf
 * and log1p apart), choices as ?: on values, no sum whose order would have to change except where lanes are spelled out.
 * Comparisons are arranged so that NaN passes through: x < 0 ? 0 : x is NaN for NaN.
 */

/* e^x - 1, and through `exponential` e^x, on EXP_MIN <= x <= EXP_MAX.
 *
 *     x = n log 2 + r,  |r| <= log(2)/2,    e^x - 1 = 2^n q + (2^n - 1),    q = e^r - 1 = r + r^2/2! + ...
 *
 * q is small when x is small (n = 0), so nothing cancels near 0. */
static inline REAL NAME(expm1_)(REAL x, REAL *power, REAL *q)
{
    REAL shifted = x * (REAL)1.44269504088896340736 + ROUNDER;
    REAL n = shifted - ROUNDER;
    REAL r = (x - n * (REAL)LN2_HIGH) - n * (REAL)LN2_LOW;
    BITS bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << MANTISSA) + ((BITS)BIAS << MANTISSA);
    memcpy(power, &bits, sizeof bits);
    static const REAL c[] = {
        (REAL)1, (REAL)1 / 2, (REAL)1 / 6, (REAL)1 / 24, (REAL)1 / 120, (REAL)1 / 720, (REAL)1 / 5040, (REAL)1 / 40320,
        (REAL)1 / 362880, (REAL)1 / 3628800, (REAL)1 / 39916800, (REAL)1 / 479001600, (REAL)1 / 6227020800.0};
    REAL s = c[TERMS - 1];
    for (int i = TERMS - 2; i >= 0; i--)
        s = s * r + c[i];
    *q = s * r;
    return *power * *q + (*power - (REAL)1);
}

static inline REAL NAME(expm1)(REAL x)
{
    REAL power, q;
    x = x < (REAL)EXP_MIN ? (REAL)EXP_MIN : x;
    x = x > (REAL)EXP_MAX ? (REAL)EXP_MAX : x;
    return NAME(expm1_)(x, &power, &q);
}

/* e^x; 0 below EXP_MIN, infinity above EXP_MAX. */
static inline REAL NAME(exponential)(REAL x)
{
    REAL power, q;
    REAL y = x < (REAL)EXP_MIN ? (REAL)EXP_MIN : x;
    y = y > (REAL)EXP_MAX ? (REAL)EXP_MAX : y;
    NAME(expm1_)(y, &power, &q);
    y = power * q + power;
    y = x < (REAL)EXP_MIN ? (REAL)0 : y;
    return x > (REAL)EXP_MAX ? (REAL)INFINITY : y;
}

#include "activations.h"
#include "cells.h"
#include "losses.h"
#include "sparse.h"
#include "updates.h"
#include "windows.h"

/* The cases of bias_activation, for each activation of the list. The sum is written to Z only where
 * Z is kept apart from A. */
#define FORWARD_BY_ELEMENT(CODE, name, reads, f, derivative)   \
    case SVDFAST_##CODE:                                       \
        for (ptrdiff_t i = 0; i < p; i++) {                    \
            REAL *restrict zi = Z + i * n, *ai = A + i * n;    \
            if (A == Z)                                        \
                for (ptrdiff_t j = 0; j < n; j++) {            \
                    const REAL z = zi[j] + b[j];               \
                    zi[j] = (f);                               \
                }                                              \
            else                                               \
                for (ptrdiff_t j = 0; j < n; j++) {            \
                    const REAL z = zi[j] + b[j];               \
                    zi[j] = z;                                 \
                    ai[j] = (f);                               \
                }                                              \
        }                                                      \
        break;
#define FORWARD_BY_ROW(CODE, name, reads)      \
    case SVDFAST_##CODE:                       \
        for (ptrdiff_t i = 0; i < p; i++)      \
            for (ptrdiff_t j = 0; j < n; j++)  \
                Z[i * n + j] += b[j];          \
        NAME(name##_rows)(p, n, Z, A);         \
        break;

/* Elements that a row has at least, where several may stand for one. */
enum { NAME(WIDE) = 128 };

static void NAME(bias_activation)(int activation, double parameter_, ptrdiff_t p, ptrdiff_t n, const void *b_, void *Z_,
                                  void *A_)
{
    const REAL parameter = (REAL)parameter_;
    const REAL *restrict b = b_;
    REAL *Z = Z_, *A = A_, wide[NAME(WIDE)];
    /* Short rows, channels of images say, as fewer long ones with the bias as often; a row's own functions need it as it is. */
    if (n < NAME(WIDE) / 2 && p * n >= 8 * NAME(WIDE) && activation != SVDFAST_SOFTMAX) {
        const ptrdiff_t times = NAME(WIDE) / n, together = p / times;
        for (ptrdiff_t k = 0; k < times; k++)
            memcpy(wide + k * n, b, (size_t)n * sizeof(REAL));
        NAME(bias_activation)(activation, parameter_, together, times * n, wide, Z, A);
        const ptrdiff_t done = together * times;
        Z += done * n;
        A += done * n;
        p -= done;
    }
    switch (activation) {
        SVDFAST_ACTIVATIONS(FORWARD_BY_ELEMENT, FORWARD_BY_ROW)
    }
}

#undef FORWARD_BY_ELEMENT
#undef FORWARD_BY_ROW

/* The cases of activation_backward. */
#define DIFFERENTIATE(x, X, derivative)                 \
    for (ptrdiff_t j = 0; j < p * n; j++) {             \
        const REAL x = X[j], g = dZ[j];                 \
        dZ[j] = (derivative);                           \
    }
#define DIFFERENTIATE_BY_NOTHING(derivative)
#define DIFFERENTIATE_BY_A(derivative) DIFFERENTIATE(a, A, derivative)
#define DIFFERENTIATE_BY_Z(derivative) DIFFERENTIATE(z, Z, derivative)
#define BACKWARD_BY_ELEMENT(CODE, name, reads, f, derivative) \
    case SVDFAST_##CODE: DIFFERENTIATE_BY_##reads(derivative) break;
#define BACKWARD_BY_ROW(CODE, name, reads) \
    case SVDFAST_##CODE: NAME(name##_rows_backward)(p, n, Z, A, dZ); break;

static void NAME(activation_backward)(int activation, double parameter_, ptrdiff_t p, ptrdiff_t n, const void *Z_,
                                      const void *A_, void *dZ_)
{
    const REAL parameter = (REAL)parameter_;
    const REAL *restrict Z = Z_, *restrict A = A_;
    REAL *restrict dZ = dZ_;
    switch (activation) {
        SVDFAST_ACTIVATIONS(BACKWARD_BY_ELEMENT, BACKWARD_BY_ROW)
    }
}

#undef DIFFERENTIATE
#undef DIFFERENTIATE_BY_NOTHING
#undef DIFFERENTIATE_BY_A
#undef DIFFERENTIATE_BY_Z
#undef BACKWARD_BY_ELEMENT
#undef BACKWARD_BY_ROW

#define LOSS(CODE, name, reads) \
    case SVDFAST_##CODE: NAME(name)(p, n, reads, labels, targets, weights, rows, scale, delta, losses); break;

static void NAME(loss)(int loss, ptrdiff_t p, ptrdiff_t n, const void *Z, const void *A, const int32_t *labels, const void *targets,
                       const void *weights, const int64_t *rows, double scale, void *delta, double *losses)
{
    switch (loss) {
        SVDFAST_LOSSES(LOSS)
    }
}

#undef LOSS

/* out = g + l1 sign(w) + l2 w; returns l1 sum|w| + l2/2 sum w^2. For blocks: the sums are of type REAL. out may be g. */
static inline double NAME(penalize_)(const int with_l1, const svdfast_update_rule *rule, ptrdiff_t count, const REAL *w, const REAL *g,
                                     REAL *out)
{
    /* Sixteen partial sums, so that the loop is vector instructions without reordering a sum. */
    enum { LANES = 16 };
    const REAL l1 = (REAL)rule->l1, l2 = (REAL)rule->l2;
    REAL absolute[LANES] = {0}, square[LANES] = {0};
    double sum_absolute = 0, sum_square = 0;
    ptrdiff_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        REAL sum[LANES];
        for (int k = 0; k < LANES; k++) {
            const REAL x = w[i + k];
            square[k] += x * x;
            sum[k] = g[i + k] + l2 * x;
            if (with_l1) {
                const REAL sign = (REAL)(x > 0) - (REAL)(x < 0);
                absolute[k] += x * sign;
                sum[k] += l1 * sign;
            }
        }
        memcpy(out + i, sum, sizeof sum);
    }
    for (; i < count; i++) {
        const REAL x = w[i];
        sum_square += (double)x * (double)x;
        sum_absolute += (double)(x < 0 ? -x : x);
        out[i] = g[i] + l2 * x + (x > 0 ? l1 : x < 0 ? -l1 : (REAL)0);
    }
    for (int k = 0; k < LANES; k++) {
        sum_absolute += (double)absolute[k];
        sum_square += (double)square[k];
    }
    return rule->l1 * sum_absolute + 0.5 * rule->l2 * sum_square;
}

static double NAME(penalize)(const svdfast_update_rule *rule, ptrdiff_t count, const REAL *w, const REAL *g, REAL *out)
{
    return rule->l1 == 0 ? NAME(penalize_)(0, rule, count, w, g, out) : NAME(penalize_)(1, rule, count, w, g, out);
}

#define UPDATE(CODE, name) \
    case SVDFAST_##CODE: NAME(name)(rule, count, g, w, m, v); break;

static void NAME(update_block)(const svdfast_update_rule *rule, ptrdiff_t count, const REAL *restrict g, REAL *restrict w,
                               REAL *restrict m, REAL *restrict v)
{
    switch (rule->rule) {
        SVDFAST_UPDATES(UPDATE)
    }
}

#undef UPDATE

enum { NAME(BLOCK) = 1024 };

static double NAME(update)(const svdfast_update_rule *rule, ptrdiff_t n, const void *g_, void *w_, void *m_, void *v_)
{
    const REAL *g = g_;
    REAL *w = w_, *m = m_, *v = v_;
    if (rule->l1 == 0 && rule->l2 == 0) {
        NAME(update_block)(rule, n, g, w, m, v);
        return 0;
    }
    REAL sum[NAME(BLOCK)];
    double penalty = 0;
    for (ptrdiff_t first = 0; first < n; first += NAME(BLOCK)) {
        const ptrdiff_t count = n - first < NAME(BLOCK) ? n - first : NAME(BLOCK);
        penalty += NAME(penalize)(rule, count, w + first, g + first, sum);
        NAME(update_block)(rule, count, sum, w + first, m == NULL ? NULL : m + first, v == NULL ? NULL : v + first);
    }
    return penalty;
}

static double NAME(add_penalty)(const svdfast_update_rule *rule, ptrdiff_t n, const void *w_, void *g_)
{
    const REAL *w = w_;
    REAL *g = g_;
    double penalty = 0;
    if (rule->l1 == 0 && rule->l2 == 0)
        return 0;
    for (ptrdiff_t first = 0; first < n; first += NAME(BLOCK)) {
        const ptrdiff_t count = n - first < NAME(BLOCK) ? n - first : NAME(BLOCK);
        penalty += NAME(penalize)(rule, count, w + first, g + first, g + first);
    }
    return penalty;
}

static void NAME(add_rows)(ptrdiff_t p, ptrdiff_t n, const void *X_, ptrdiff_t stride, void *y_)
{
    const REAL *X = X_;
    REAL *restrict y = y_;
    for (ptrdiff_t i = 0; i < p; i++) {
        const REAL *restrict x = X + i * stride;
        for (ptrdiff_t j = 0; j < n; j++)
            y[j] += x[j];
    }
}

/* One loop for each type of the source; a row's elements lie together. Rows in random order are far from each other, so a row is fetched
 * while those before it are copied. */
#define GATHER(SOURCE)                                                                              \
    for (ptrdiff_t i = 0; i < p; i++) {                                                             \
        const SOURCE *restrict x = (const SOURCE *)X + (rows == NULL ? i : (ptrdiff_t)rows[i]) * stride; \
        REAL *restrict o = (REAL *)out + i * m;                                                     \
        if (rows != NULL && i + AHEAD < p)                                                          \
            fetch_row((const SOURCE *)X + (ptrdiff_t)rows[i + AHEAD] * stride, m * (ptrdiff_t)sizeof(SOURCE)); \
        for (ptrdiff_t j = 0; j < m; j++)                                                           \
            o[j] = (REAL)x[j] * factor;                                                             \
    }                                                                                               \
    break

static void NAME(gather)(int type, ptrdiff_t p, ptrdiff_t m, const void *X, ptrdiff_t stride, const int64_t *rows,
                         double scale, void *out)
{
    const REAL factor = (REAL)scale;
    switch (type) {
    case SVDFAST_UINT8: GATHER(uint8_t);
    case SVDFAST_FLOAT32: GATHER(float);
    default: GATHER(double);
    }
}

#undef GATHER

static const svdfast_elementwise NAME(table) = {
    NAME(bias_activation), NAME(activation_backward), NAME(loss), NAME(update), NAME(add_penalty), NAME(add_rows), NAME(gather),
    NAME(cell), NAME(cell_backward), NAME(patches), NAME(add_patches), NAME(pool), NAME(pool_backward),
    NAME(make_dense), NAME(by_columns), NAME(sparse_product), NAME(take_lanes), NAME(sparse_gradient), NAME(take_columns), NAME(put_columns),
};

/* The macros that elementwise_types.h defined for the type. */
#undef REAL
#undef SQRT
#undef TYPE
#undef BITS
#undef MANTISSA
#undef BIAS
#undef ROUNDER
#undef LN2_HIGH
#undef LN2_LOW
#undef EXP_MIN
#undef EXP_MAX
#undef TANH_MAX
#undef TERMS
