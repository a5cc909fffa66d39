/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The losses: their list and their formulas. A new one is a line of the list, a function, and an
 * entry in svdfast/model/losses.py. elementwise.h includes this file for the list;
 * elementwise_loops.h includes it again for each REAL.
 *
 * Each function computes losses[i] and delta of a tile; elementwise.h says what these are.
 */
#ifndef SVDFAST_LOSSES

/* X(CODE, name, reads): computed by the function `name` from Z, including the output's activation,
 * or from A. */
#define SVDFAST_LOSSES(X)                            \
    X(BINARY_CROSS_ENTROPY, binary_cross_entropy, Z) \
    X(CROSS_ENTROPY, cross_entropy, Z)               \
    X(HUBER, huber, A)                               \
    X(MEAN_ABSOLUTE_ERROR, mean_absolute_error, A)   \
    X(MEAN_SQUARED_ERROR, mean_squared_error, A)     \
    X(POISSON, poisson, Z)

#endif

#ifdef REAL

/* Cross-entropy with softmax, from the pre-activation:
 *
 *     loss_i = sum_j y_ij (s_i - z_ij),  s_i = log sum_j e^z_ij;    d loss_i / dz_ij = softmax(z_i)_j sum_k y_ik - y_ij
 *
 * In passes over a block of rows, so that the exponentials run over one long row however few the classes. */
static void NAME(cross_entropy)(ptrdiff_t p, ptrdiff_t n, const REAL *Z, const int32_t *labels, const REAL *targets,
                                const REAL *weights, const int64_t *rows, double scale, REAL *delta, double *losses)
{
    enum { BLOCK = 64 };
    REAL largest[BLOCK];
    for (ptrdiff_t first = 0; first < p; first += BLOCK) {
        const ptrdiff_t count = p - first < BLOCK ? p - first : BLOCK;
        const REAL *z = Z + first * n;
        REAL *restrict e = delta + first * n;
        for (ptrdiff_t i = 0; i < count; i++) {
            REAL top = z[i * n];
            for (ptrdiff_t j = 1; j < n; j++)
                top = z[i * n + j] > top ? z[i * n + j] : top;
            largest[i] = top;
            for (ptrdiff_t j = 0; j < n; j++)
                e[i * n + j] = z[i * n + j] - top;
        }
        for (ptrdiff_t k = 0; k < count * n; k++)
            e[k] = NAME(exponential)(e[k]);
        for (ptrdiff_t i = 0; i < count; i++) {
            const ptrdiff_t row = rows == NULL ? first + i : rows[first + i];
            const double weight = weights == NULL ? 1 : (double)weights[row];
            const REAL c = (REAL)(scale * weight);
            REAL sum = 0;
            for (ptrdiff_t j = 0; j < n; j++)
                sum += e[i * n + j];
            const double log_sum = (double)largest[i] + log((double)sum);
            if (labels != NULL) {
                const ptrdiff_t y = labels[row];
                /* They were checked, but are the caller's, who may have changed them since. */
                if (y < 0 || y >= n) {
                    losses[first + i] = NAN;
                    continue;
                }
                losses[first + i] = weight * (log_sum - (double)z[i * n + y]);
                const REAL factor = c / sum;
                for (ptrdiff_t j = 0; j < n; j++)
                    e[i * n + j] *= factor;
                e[i * n + y] -= c;
            } else {
                const REAL *y = targets + row * n;
                double loss = 0;
                REAL mass = 0;
                for (ptrdiff_t j = 0; j < n; j++) {
                    /* 0 log 0 = 0, also where z is -inf. */
                    loss += y[j] == 0 ? 0 : (double)y[j] * (log_sum - (double)z[i * n + j]);
                    mass += y[j];
                }
                losses[first + i] = weight * loss;
                const REAL factor = mass / sum;
                for (ptrdiff_t j = 0; j < n; j++)
                    e[i * n + j] = c * (e[i * n + j] * factor - y[j]);
            }
        }
    }
}

/* A loss that is a mean over the n outputs: for each of them, x of X and its target y, the statements add to `loss` and set *g, the delta,
 * c = factor * scale * w_i / n times the derivative. */
#define MEAN_OVER_OUTPUTS(name, X, factor, ...)                                                                              \
    static void NAME(name)(ptrdiff_t p, ptrdiff_t n, const REAL *X, const int32_t *labels, const REAL *targets,              \
                           const REAL *weights, const int64_t *rows, double scale, REAL *delta, double *losses)              \
    {                                                                                                                        \
        (void)labels;                                                                                                        \
        for (ptrdiff_t i = 0; i < p; i++) {                                                                                  \
            const ptrdiff_t row = rows == NULL ? i : rows[i];                                                                \
            const double weight = weights == NULL ? 1 : (double)weights[row];                                                \
            const REAL c = (REAL)(factor * scale * weight / (double)n);                                                      \
            double loss = 0;                                                                                                 \
            for (ptrdiff_t j = 0; j < n; j++) {                                                                              \
                const REAL x = X[i * n + j], y = targets[row * n + j];                                                       \
                REAL *g = delta + i * n + j;                                                                                 \
                __VA_ARGS__                                                                                                  \
            }                                                                                                                \
            losses[i] = weight * loss / (double)n;                                                                           \
        }                                                                                                                    \
    }

/* Binary cross-entropy with sigmoid, from the pre-activation:
 *
 *     loss = max(z, 0) - z y + log(1 + e^-|z|);    d loss / dz = sigmoid(z) - y */
MEAN_OVER_OUTPUTS(binary_cross_entropy, Z, 1,
    const REAL e = NAME(exponential)(x < 0 ? x : -x);
    const REAL right = (REAL)1 / (1 + e);
    loss += (double)(x < 0 ? (REAL)0 : x) - (double)x * (double)y + log1p((double)e);
    *g = c * ((x < 0 ? e * right : right) - y);)

/* (a - y)^2, from the activation. */
MEAN_OVER_OUTPUTS(mean_squared_error, A, 2,
    const REAL d = x - y;
    loss += (double)d * (double)d;
    *g = c * d;)

/* |a - y|, from the activation; the derivative at 0 is 0. */
MEAN_OVER_OUTPUTS(mean_absolute_error, A, 1,
    const REAL d = x - y;
    loss += (double)(d < 0 ? -d : d);
    *g = d < 0 ? -c : d > 0 ? c : c * d;)

/* h(a - y), from the activation:
 *
 *     h(d) = d^2/2 where |d| <= 1, else |d| - 1/2;    h'(d) = s = d cut to [-1, 1]
 *
 * s d - s^2/2 is both cases of h. */
MEAN_OVER_OUTPUTS(huber, A, 1,
    const REAL d = x - y;
    const REAL slope = d < -1 ? (REAL)-1 : d > 1 ? (REAL)1 : d;
    loss += (double)slope * ((double)d - 0.5 * (double)slope);
    *g = c * slope;)

/* Half the Poisson deviance with a = e^z, from the pre-activation:
 *
 *     loss = y log y - y - (y z - e^z);    d loss / dz = e^z - y
 *
 * In two passes, so that the exponentials, in delta, are a loop of their own. 0 log 0 = 0, also where z is -inf. */
MEAN_OVER_OUTPUTS(poisson_of_exponentials, Z, 1,
    const double e = (double)*g;
    const double t = (double)y;
    loss += (e - t) + (t == 0 ? 0 : t * (log(t) - (double)x));
    *g = c * (*g - y);)

static void NAME(poisson)(ptrdiff_t p, ptrdiff_t n, const REAL *Z, const int32_t *labels, const REAL *targets,
                          const REAL *weights, const int64_t *rows, double scale, REAL *delta, double *losses)
{
    for (ptrdiff_t k = 0; k < p * n; k++)
        delta[k] = NAME(exponential)(Z[k]);
    NAME(poisson_of_exponentials)(p, n, Z, labels, targets, weights, rows, scale, delta, losses);
}

#undef MEAN_OVER_OUTPUTS

#endif /* REAL */
