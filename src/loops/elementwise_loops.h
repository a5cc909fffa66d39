/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The loops of elementwise.h, written once for a type REAL. Included by elementwise_types.h, for each type and
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

static inline REAL NAME(sigmoid)(REAL x)
{
    return (REAL)1 / ((REAL)1 + NAME(exponential)(-x));
}

/* tanh |x| = (e^2|x| - 1) / (e^2|x| + 1); 1 to the last bit beyond TANH_MAX. */
static inline REAL NAME(hyperbolic_tangent)(REAL x)
{
    REAL t = x < 0 ? -x : x;
    t = t > (REAL)TANH_MAX ? (REAL)TANH_MAX : t;
    REAL e = NAME(expm1)(2 * t);
    REAL y = e / (e + 2);
    return x < 0 ? -y : y;
}

/* Phi(x) = (1 + erf(x / sqrt 2)) / 2, the normal distribution function. erfc keeps the left tail's digits. */
static inline REAL NAME(normal_cdf)(REAL x)
{
    return (REAL)(0.5 * erfc(-(double)x * 0.70710678118654752440));
}

static void NAME(softmax_rows)(ptrdiff_t p, ptrdiff_t n, const REAL *Z, REAL *A)
{
    if (n == 0)
        return;
    for (ptrdiff_t i = 0; i < p; i++) {
        const REAL *z = Z + i * n;
        REAL *a = A + i * n;
        REAL largest = z[0];
        for (ptrdiff_t j = 1; j < n; j++)
            largest = z[j] > largest ? z[j] : largest;
        for (ptrdiff_t j = 0; j < n; j++)
            a[j] = NAME(exponential)(z[j] - largest);
        REAL sum = 0;
        for (ptrdiff_t j = 0; j < n; j++)
            sum += a[j];
        for (ptrdiff_t j = 0; j < n; j++)
            a[j] /= sum;
    }
}

/* One row of bias and activation for an expression in z; the sum is written to Z only where Z is kept apart from A. */
#define ACTIVATE(expression)                                   \
    for (ptrdiff_t i = 0; i < p; i++) {                        \
        REAL *restrict zi = Z + i * n, *ai = A + i * n;        \
        if (A == Z)                                            \
            for (ptrdiff_t j = 0; j < n; j++) {                \
                const REAL z = zi[j] + b[j];                   \
                zi[j] = (expression);                          \
            }                                                  \
        else                                                   \
            for (ptrdiff_t j = 0; j < n; j++) {                \
                const REAL z = zi[j] + b[j];                   \
                zi[j] = z;                                     \
                ai[j] = (expression);                          \
            }                                                  \
    }                                                          \
    break

static void NAME(bias_activation)(int activation, double parameter_, ptrdiff_t p, ptrdiff_t n, const void *b_, void *Z_,
                                  void *A_)
{
    const REAL parameter = (REAL)parameter_;
    const REAL *restrict b = b_;
    REAL *Z = Z_, *A = A_;
    switch (activation) {
    case SVDFAST_RELU: ACTIVATE(z < 0 ? (REAL)0 : z);
    case SVDFAST_LEAKY_RELU: ACTIVATE(z < 0 ? parameter * z : z);
    case SVDFAST_ELU: ACTIVATE(z < 0 ? parameter * NAME(expm1)(z) : z);
    case SVDFAST_CELU: ACTIVATE(z < 0 ? parameter * NAME(expm1)(z / parameter) : z);
    case SVDFAST_GELU: ACTIVATE(z * NAME(normal_cdf)(z));
    case SVDFAST_TANH: ACTIVATE(NAME(hyperbolic_tangent)(z));
    case SVDFAST_SIGMOID: ACTIVATE(NAME(sigmoid)(z));
    case SVDFAST_SOFTMAX:
        for (ptrdiff_t i = 0; i < p; i++)
            for (ptrdiff_t j = 0; j < n; j++)
                Z[i * n + j] += b[j];
        NAME(softmax_rows)(p, n, Z, A);
        break;
    default: ACTIVATE(z);
    }
}

#undef ACTIVATE

/* dZ = dA * (expression in a, g = dA). */
#define DIFFERENTIATE(expression)                                               \
    for (ptrdiff_t i = 0; i < p; i++) {                                         \
        const REAL *restrict ai = A + i * n;                                    \
        REAL *restrict gi = dZ + i * n;                                         \
        for (ptrdiff_t j = 0; j < n; j++) {                                     \
            const REAL a = ai[j], g = gi[j];                                    \
            gi[j] = (expression);                                               \
        }                                                                       \
    }                                                                           \
    break

static void NAME(activation_backward)(int activation, double parameter_, ptrdiff_t p, ptrdiff_t n, const void *Z_,
                                      const void *A_, void *dZ_)
{
    const REAL parameter = (REAL)parameter_;
    const REAL *Z = Z_, *A = A_;
    REAL *restrict dZ = dZ_;
    switch (activation) {
    case SVDFAST_RELU: DIFFERENTIATE(a <= 0 ? (REAL)0 : g);
    case SVDFAST_LEAKY_RELU: DIFFERENTIATE(a <= 0 ? parameter * g : g);
    /* A = alpha (e^z - 1), so its derivative alpha e^z is A + alpha. */
    case SVDFAST_ELU: DIFFERENTIATE(a <= 0 ? (a + parameter) * g : g);
    case SVDFAST_CELU: DIFFERENTIATE(a <= 0 ? (a / parameter + 1) * g : g);
    case SVDFAST_TANH: DIFFERENTIATE((1 - a) * (1 + a) * g);
    case SVDFAST_SIGMOID: DIFFERENTIATE(a * (1 - a) * g);
    case SVDFAST_GELU:
        /* d z Phi(z) / dz = Phi(z) + z phi(z), phi(z) = e^(-z^2/2) / sqrt(2 pi). */
        for (ptrdiff_t i = 0; i < p; i++)
            for (ptrdiff_t j = 0; j < n; j++) {
                const REAL z = Z[i * n + j];
                const REAL density = (REAL)0.39894228040143267794 * NAME(exponential)((REAL)-0.5 * z * z);
                dZ[i * n + j] = (NAME(normal_cdf)(z) + z * density) * dZ[i * n + j];
            }
        break;
    case SVDFAST_SOFTMAX:
        /* dz_j = a_j (g_j - sum_k a_k g_k) */
        for (ptrdiff_t i = 0; i < p; i++) {
            REAL inner = 0;
            for (ptrdiff_t j = 0; j < n; j++)
                inner += A[i * n + j] * dZ[i * n + j];
            for (ptrdiff_t j = 0; j < n; j++)
                dZ[i * n + j] = A[i * n + j] * (dZ[i * n + j] - inner);
        }
        break;
    default: break;
    }
}

#undef DIFFERENTIATE

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
static void NAME(binary_cross_entropy)(ptrdiff_t p, ptrdiff_t n, const REAL *Z, const REAL *targets, const REAL *weights,
                                         const int64_t *rows, double scale, REAL *delta, double *losses)
{
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
static void NAME(mean_squared_error)(ptrdiff_t p, ptrdiff_t n, const REAL *A, const REAL *targets, const REAL *weights,
                                       const int64_t *rows, double scale, REAL *delta, double *losses)
{
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

static void NAME(loss)(int loss, ptrdiff_t p, ptrdiff_t n, const void *Z, const void *A, const int32_t *labels, const void *targets,
                       const void *weights, const int64_t *rows, double scale, void *delta, double *losses)
{
    switch (loss) {
    case SVDFAST_CROSS_ENTROPY: NAME(cross_entropy)(p, n, Z, labels, targets, weights, rows, scale, delta, losses); break;
    case SVDFAST_BINARY_CROSS_ENTROPY: NAME(binary_cross_entropy)(p, n, Z, targets, weights, rows, scale, delta, losses); break;
    default: NAME(mean_squared_error)(p, n, A, targets, weights, rows, scale, delta, losses);
    }
}

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

/* w -= learning_rate * step:
 *
 *     gradient descent   v = momentum v + g;  step = v, or g + momentum v (Nesterov)
 *     Adam               m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2;
 *                        step = (m / correction1) / (sqrt(v / correction2) + epsilon)
 *
 * The moments are stored as they are; only the copies in `step` are corrected. */
static void NAME(update_block)(const svdfast_update_rule *rule, ptrdiff_t count, const REAL *restrict g, REAL *restrict w,
                               REAL *restrict m, REAL *restrict v)
{
    const REAL keep = (REAL)(1 - rule->learning_rate * rule->weight_decay);
    const REAL beta1 = (REAL)rule->beta1, beta2 = (REAL)rule->beta2;
    if (rule->rule == SVDFAST_ADAM) {
        const REAL rest1 = (REAL)(1 - rule->beta1), rest2 = (REAL)(1 - rule->beta2);
        const REAL rate = (REAL)(rule->learning_rate / rule->correction1);
        const REAL scale = (REAL)(1 / sqrt(rule->correction2)), epsilon = (REAL)rule->epsilon;
        for (ptrdiff_t i = 0; i < count; i++) {
            const REAL mi = beta1 * m[i] + rest1 * g[i];
            const REAL vi = beta2 * v[i] + rest2 * g[i] * g[i];
            m[i] = mi;
            v[i] = vi;
            w[i] = keep * w[i] - rate * mi / (SQRT(vi) * scale + epsilon);
        }
        return;
    }
    const REAL rate = (REAL)rule->learning_rate;
    if (m == NULL) {
        for (ptrdiff_t i = 0; i < count; i++)
            w[i] = keep * w[i] - rate * g[i];
    } else if (rule->nesterov) {
        for (ptrdiff_t i = 0; i < count; i++) {
            m[i] = beta1 * m[i] + g[i];
            w[i] = keep * w[i] - rate * (g[i] + beta1 * m[i]);
        }
    } else {
        for (ptrdiff_t i = 0; i < count; i++) {
            m[i] = beta1 * m[i] + g[i];
            w[i] = keep * w[i] - rate * m[i];
        }
    }
}

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

/* One loop for each type of the source; a row's elements lie together. */
#define GATHER(SOURCE)                                                                              \
    for (ptrdiff_t i = 0; i < p; i++) {                                                             \
        const SOURCE *restrict x = (const SOURCE *)X + (rows == NULL ? i : (ptrdiff_t)rows[i]) * stride; \
        REAL *restrict o = (REAL *)out + i * m;                                                     \
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
};
