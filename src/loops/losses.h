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

/* Binary cross-entropy with sigmoid, from the pre-activation, mean over the n outputs:
 *
 *     loss = max(z, 0) - z y + log(1 + e^-|z|);    d loss / dz = sigmoid(z) - y */
static void NAME(binary_cross_entropy)(ptrdiff_t p, ptrdiff_t n, const REAL *Z, const int32_t *labels, const REAL *targets,
                                       const REAL *weights, const int64_t *rows, double scale, REAL *delta, double *losses)
{
    (void)labels;
    for (ptrdiff_t i = 0; i < p; i++) {
        const ptrdiff_t row = rows == NULL ? i : rows[i];
        const double weight = weights == NULL ? 1 : (double)weights[row];
        const REAL c = (REAL)(scale * weight / (double)n);
        const REAL *y = targets + row * n;
        double loss = 0;
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL z = Z[i * n + j];
            const REAL e = NAME(exponential)(z < 0 ? z : -z);
            const REAL right = (REAL)1 / (1 + e);
            loss += (double)(z < 0 ? (REAL)0 : z) - (double)z * (double)y[j] + log1p((double)e);
            delta[i * n + j] = c * ((z < 0 ? e * right : right) - y[j]);
        }
        losses[i] = weight * loss / (double)n;
    }
}

/* Mean over the n outputs of (a - y)^2, from the activation. */
static void NAME(mean_squared_error)(ptrdiff_t p, ptrdiff_t n, const REAL *A, const int32_t *labels, const REAL *targets,
                                     const REAL *weights, const int64_t *rows, double scale, REAL *delta, double *losses)
{
    (void)labels;
    for (ptrdiff_t i = 0; i < p; i++) {
        const ptrdiff_t row = rows == NULL ? i : rows[i];
        const double weight = weights == NULL ? 1 : (double)weights[row];
        const REAL c = (REAL)(2 * scale * weight / (double)n);
        const REAL *y = targets + row * n;
        double loss = 0;
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL d = A[i * n + j] - y[j];
            loss += (double)d * (double)d;
            delta[i * n + j] = c * d;
        }
        losses[i] = weight * loss / (double)n;
    }
}

/* Mean over the n outputs of |a - y|, from the activation; the derivative at 0 is 0. */
static void NAME(mean_absolute_error)(ptrdiff_t p, ptrdiff_t n, const REAL *A, const int32_t *labels, const REAL *targets,
                                      const REAL *weights, const int64_t *rows, double scale, REAL *delta, double *losses)
{
    (void)labels;
    for (ptrdiff_t i = 0; i < p; i++) {
        const ptrdiff_t row = rows == NULL ? i : rows[i];
        const double weight = weights == NULL ? 1 : (double)weights[row];
        const REAL c = (REAL)(scale * weight / (double)n);
        const REAL *y = targets + row * n;
        double loss = 0;
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL d = A[i * n + j] - y[j];
            loss += (double)(d < 0 ? -d : d);
            delta[i * n + j] = d < 0 ? -c : d > 0 ? c : c * d;
        }
        losses[i] = weight * loss / (double)n;
    }
}

/* Mean over the n outputs of h(a - y), from the activation:
 *
 *     h(d) = d^2/2 where |d| <= 1, else |d| - 1/2;    h'(d) = d cut to [-1, 1] */
static void NAME(huber)(ptrdiff_t p, ptrdiff_t n, const REAL *A, const int32_t *labels, const REAL *targets,
                        const REAL *weights, const int64_t *rows, double scale, REAL *delta, double *losses)
{
    (void)labels;
    for (ptrdiff_t i = 0; i < p; i++) {
        const ptrdiff_t row = rows == NULL ? i : rows[i];
        const double weight = weights == NULL ? 1 : (double)weights[row];
        const REAL c = (REAL)(scale * weight / (double)n);
        const REAL *y = targets + row * n;
        double loss = 0;
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL d = A[i * n + j] - y[j];
            const REAL slope = d < -1 ? (REAL)-1 : d > 1 ? (REAL)1 : d;
            /* With s the slope, s d - s^2/2 is both cases of h. */
            loss += (double)slope * ((double)d - 0.5 * (double)slope);
            delta[i * n + j] = c * slope;
        }
        losses[i] = weight * loss / (double)n;
    }
}

/* Half the Poisson deviance with a = e^z, from the pre-activation, mean over the n outputs:
 *
 *     loss = y log y - y - (y z - e^z);    d loss / dz = e^z - y
 *
 * In two passes, so that the exponentials are a loop of their own. */
static void NAME(poisson)(ptrdiff_t p, ptrdiff_t n, const REAL *Z, const int32_t *labels, const REAL *targets,
                          const REAL *weights, const int64_t *rows, double scale, REAL *delta, double *losses)
{
    (void)labels;
    for (ptrdiff_t k = 0; k < p * n; k++)
        delta[k] = NAME(exponential)(Z[k]);
    for (ptrdiff_t i = 0; i < p; i++) {
        const ptrdiff_t row = rows == NULL ? i : rows[i];
        const double weight = weights == NULL ? 1 : (double)weights[row];
        const REAL c = (REAL)(scale * weight / (double)n);
        const REAL *y = targets + row * n;
        double loss = 0;
        for (ptrdiff_t j = 0; j < n; j++) {
            const double e = (double)delta[i * n + j], t = (double)y[j];
            /* 0 log 0 = 0, also where z is -inf. */
            loss += (e - t) + (t == 0 ? 0 : t * (log(t) - (double)Z[i * n + j]));
            delta[i * n + j] = c * (delta[i * n + j] - y[j]);
        }
        losses[i] = weight * loss / (double)n;
    }
}

#endif /* REAL */
