/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The activations: their list and their formulas. A new one is a line of the list and an entry in
 * svdfast/model/activations.py. elementwise.h includes this file for the list; elementwise_loops.h
 * includes it again for each REAL. Elsewhere: the loops over samples (elementwise_loops.h).
 */
#ifndef SVDFAST_ACTIVATIONS

/* BY_ELEMENT(CODE, name, reads, f, derivative): A = f(z) and dZ = derivative, expressions in the
 * pre-activation z, the activation a, its `parameter` and the gradient g = dA.
 * BY_ROW(CODE, name, reads): a whole row at a time, by the functions name_rows and
 * name_rows_backward.
 * reads: what the derivative needs, A or Z; NOTHING: dZ = dA. Only with Z is Z kept beside A. */
#define SVDFAST_ACTIVATIONS(BY_ELEMENT, BY_ROW)                                                    \
    BY_ELEMENT(IDENTITY, identity, NOTHING, z, g)                                                  \
    BY_ELEMENT(RELU, relu, A, z < 0 ? (REAL)0 : z, a <= 0 ? (REAL)0 : g)                           \
    BY_ELEMENT(CLIPPED_RELU, clipped_relu, A,                                                      \
               z < 0 ? (REAL)0 : z > parameter ? parameter : z,                                    \
               a <= 0 || a >= parameter ? (REAL)0 : g)                                             \
    BY_ELEMENT(HARDTANH, hardtanh, A,                                                              \
               z < -parameter ? -parameter : z > parameter ? parameter : z,                        \
               a <= -parameter || a >= parameter ? (REAL)0 : g)                                    \
    BY_ELEMENT(LEAKY_RELU, leaky_relu, A, z < 0 ? parameter * z : z, a <= 0 ? parameter * g : g)   \
    /* A = alpha (e^z - 1), so its derivative alpha e^z is A + alpha. */                           \
    BY_ELEMENT(ELU, elu, A, z < 0 ? parameter * NAME(expm1)(z) : z,                                \
               a <= 0 ? (a + parameter) * g : g)                                                   \
    BY_ELEMENT(CELU, celu, A, z < 0 ? parameter * NAME(expm1)(z / parameter) : z,                  \
               a <= 0 ? (a / parameter + 1) * g : g)                                               \
    BY_ELEMENT(GELU, gelu, Z, z * NAME(normal_cdf)(z), NAME(gelu_slope)(z) * g)                    \
    BY_ELEMENT(GELU_TANH, gelu_tanh, Z, z * NAME(near_normal_cdf)(z),                              \
               NAME(gelu_tanh_slope)(z) * g)                                                       \
    BY_ELEMENT(SILU, silu, Z, z * NAME(logistic)(z), NAME(silu_slope)(z) * g)                      \
    /* A = log(1 + e^z), so its derivative e^z / (1 + e^z) is 1 - e^-A. */                         \
    BY_ELEMENT(SOFTPLUS, softplus, A, NAME(softplus)(z), -NAME(expm1)(-a) * g)                     \
    BY_ELEMENT(TANH, tanh, A, NAME(hyperbolic_tangent)(z), (1 - a) * (1 + a) * g)                  \
    BY_ELEMENT(SIGMOID, sigmoid, A, NAME(logistic)(z), a * (1 - a) * g)                            \
    BY_ELEMENT(EXP, exp, A, NAME(exponential)(z), a * g)                                           \
    BY_ROW(SOFTMAX, softmax, A)

#endif

#ifdef REAL

static inline REAL NAME(logistic)(REAL x)
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

/* d z Phi(z) / dz = Phi(z) + z phi(z), phi(z) = e^(-z^2/2) / sqrt(2 pi). */
static inline REAL NAME(gelu_slope)(REAL z)
{
    const REAL density = (REAL)0.39894228040143267794 * NAME(exponential)((REAL)-0.5 * z * z);
    return NAME(normal_cdf)(z) + z * density;
}

/* Phi(z) by tanh: (1 + tanh u) / 2 = logistic(2 u), u = sqrt(2 / pi) (z + 0.044715 z^3). */
static inline REAL NAME(near_normal_cdf)(REAL z)
{
    return NAME(logistic)((REAL)1.59576912160573071176 * (z + (REAL)0.044715 * z * z * z));
}

/* d z s(2u) / dz = s(2u) + z s(2u) s(-2u) 2u', s the logistic function. Beyond 12 it is 0 or 1 to the last bit, and z^2 is kept finite. */
static inline REAL NAME(gelu_tanh_slope)(REAL z)
{
    REAL t = z < -12 ? (REAL)-12 : z;
    t = t > 12 ? (REAL)12 : t;
    const REAL slope = (REAL)1.59576912160573071176 * (1 + (REAL)0.134145 * t * t); /* 2u' */
    const REAL s = NAME(near_normal_cdf)(t);
    return s * (1 + t * slope * NAME(near_normal_cdf)(-t));
}

/* d z s(z) / dz = s(z) (1 + z s(-z)), s the logistic function. */
static inline REAL NAME(silu_slope)(REAL z)
{
    return NAME(logistic)(z) * (1 + z * NAME(logistic)(-z));
}

/* log(1 + e^z); beyond 20 it is z, as in PyTorch, which is less by 2e-9. */
static inline REAL NAME(softplus)(REAL z)
{
    return z > 20 ? z : (REAL)log1p((double)NAME(exponential)(z));
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

/* dz_j = a_j (g_j - sum_k a_k g_k) */
static void NAME(softmax_rows_backward)(ptrdiff_t p, ptrdiff_t n, const REAL *Z, const REAL *A,
                                        REAL *restrict dZ)
{
    (void)Z;
    for (ptrdiff_t i = 0; i < p; i++) {
        REAL inner = 0;
        for (ptrdiff_t j = 0; j < n; j++)
            inner += A[i * n + j] * dZ[i * n + j];
        for (ptrdiff_t j = 0; j < n; j++)
            dZ[i * n + j] = A[i * n + j] * (dZ[i * n + j] - inner);
    }
}

#endif /* REAL */
