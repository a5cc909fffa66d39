/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The cells of recurrent layers: one step of each, forward and back, all gates in one pass. A new one is a line of the list and two
 * functions. elementwise.h includes this file for the list; elementwise_loops.h includes it again for each REAL. Not here: the
 * products of a step, and the order of steps.
 *
 *     Z (p, G n)   what the input gives to the G gates; the gates themselves after the step
 *     R (p, G n)   what the state gives to them
 *     S (p, n)     the state before the step; `next` the place of the one after it, NULL after the last step
 *     H (p, n)     the output, which is the state after it
 *     C (p, n)     the memory (LSTM) after the step; `before` the one before it, NULL: zeros
 *
 * Back: dH and, after the step, `dnext` (NULL after the last) and `carry` (p, n), what goes past the state's product; carry becomes that
 * of the step. dR may be dZ, where both are the same.
 *
 * Rows of Z and dZ are `stride` numbers apart. Where mask (p) is 0 the step is none: state and memory stay, and what comes back goes on in
 * carry (p, 2 n of LSTM with a mask, whose second half is of the state).
 *
 * Gates lie as in PyTorch: of GRU r, z, n; of LSTM i, f, g, o.
 */
#ifndef SVDFAST_CELLS

/* CELL(CODE, name, gates) */
#define SVDFAST_CELLS(CELL)      \
    CELL(RNN_TANH, rnn_tanh, 1)  \
    CELL(RNN_RELU, rnn_relu, 1)  \
    CELL(GRU, gru, 3)            \
    CELL(LSTM, lstm, 4)

typedef struct {
    ptrdiff_t p, n, stride;
    const void *mask;
    void *Z, *R, *S, *next, *H, *C, *before;
    void *dZ, *dR, *dH, *dnext, *carry;
} svdfast_cell_step;

#endif

#ifdef REAL

#define ROW(name, width) REAL *restrict name = (REAL *)s->name + i * (width)
#define GATES_ROW(name) REAL *restrict name = (REAL *)s->name + i * s->stride
#define MASKED(i) (s->mask != NULL && ((const REAL *)s->mask)[i] == 0)

/* A step that is none: forward. */
static void NAME(pass)(const svdfast_cell_step *s, ptrdiff_t i)
{
    const size_t size = (size_t)s->n * sizeof(REAL);
    const ptrdiff_t n = s->n;
    memcpy((REAL *)s->H + i * n, (REAL *)s->S + i * n, size);
    if (s->next != NULL)
        memcpy((REAL *)s->next + i * n, (REAL *)s->S + i * n, size);
    if (s->C != NULL) {
        if (s->before != NULL)
            memcpy((REAL *)s->C + i * n, (REAL *)s->before + i * n, size);
        else
            memset((REAL *)s->C + i * n, 0, size);
    }
}

/* Back: the state's delta goes on in `passed` (n), that of gates is 0. */
static void NAME(pass_backward)(const svdfast_cell_step *s, ptrdiff_t i, ptrdiff_t gates, REAL *passed)
{
    const ptrdiff_t n = s->n;
    const REAL *dH = (const REAL *)s->dH + i * n, *dnext = s->dnext == NULL ? NULL : (const REAL *)s->dnext + i * n;
    for (ptrdiff_t j = 0; j < n; j++)
        passed[j] += dH[j] + (dnext == NULL ? 0 : dnext[j]);
    memset((REAL *)s->dZ + i * s->stride, 0, (size_t)(gates * n) * sizeof(REAL));
    if (s->dR != s->dZ)
        memset((REAL *)s->dR + i * gates * n, 0, (size_t)(gates * n) * sizeof(REAL));
}

/* h = f(z + r) */
#define RNN(name, f, derivative)                                               \
    static void NAME(name)(const svdfast_cell_step *s)                         \
    {                                                                          \
        const ptrdiff_t n = s->n;                                              \
        for (ptrdiff_t i = 0; i < s->p; i++) {                                 \
            if (MASKED(i)) {                                                   \
                NAME(pass)(s, i);                                              \
                continue;                                                      \
            }                                                                  \
            GATES_ROW(Z);                                                         \
            ROW(R, n);                                                         \
            ROW(H, n);                                                         \
            for (ptrdiff_t j = 0; j < n; j++) {                                \
                const REAL z = Z[j] + R[j];                                    \
                H[j] = (f);                                                    \
            }                                                                  \
            if (s->next != NULL)                                               \
                memcpy((REAL *)s->next + i * n, H, (size_t)n * sizeof(REAL));  \
        }                                                                      \
    }                                                                          \
    static void NAME(name##_backward)(const svdfast_cell_step *s)              \
    {                                                                          \
        const ptrdiff_t n = s->n;                                              \
        for (ptrdiff_t i = 0; i < s->p; i++) {                                 \
            ROW(H, n);                                                         \
            ROW(carry, n);                                                     \
            if (s->mask != NULL && s->dnext == NULL)                           \
                memset(carry, 0, (size_t)n * sizeof(REAL));                    \
            if (MASKED(i)) {                                                   \
                NAME(pass_backward)(s, i, 1, carry);                           \
                continue;                                                      \
            }                                                                  \
            ROW(dH, n);                                                        \
            GATES_ROW(dZ);                                                        \
            const REAL *restrict dnext = s->dnext == NULL ? NULL : (const REAL *)s->dnext + i * n; \
            for (ptrdiff_t j = 0; j < n; j++) {                                \
                const REAL a = H[j], g = dH[j] + (dnext == NULL ? 0 : dnext[j]) + (s->mask == NULL ? 0 : carry[j]); \
                dZ[j] = (derivative);                                          \
            }                                                                  \
            if (s->dR != s->dZ)                                                \
                memcpy((REAL *)s->dR + i * n, dZ, (size_t)n * sizeof(REAL));   \
            if (s->mask != NULL)                                               \
                memset(carry, 0, (size_t)n * sizeof(REAL));                    \
        }                                                                      \
    }
RNN(rnn_tanh, NAME(hyperbolic_tangent)(z), (1 - a) * (1 + a) * g)
RNN(rnn_relu, z < 0 ? (REAL)0 : z, a <= 0 ? (REAL)0 : g)
#undef RNN

/* r = sigmoid(zr + rr), u = sigmoid(zu + ru), c = tanh(zn + r rn), h = (1 - u) c + u s. Z holds r, u, c after it. */
static void NAME(gru)(const svdfast_cell_step *s)
{
    const ptrdiff_t n = s->n;
    for (ptrdiff_t i = 0; i < s->p; i++) {
        if (MASKED(i)) {
            NAME(pass)(s, i);
            continue;
        }
        GATES_ROW(Z);
        ROW(R, 3 * n);
        ROW(S, n);
        ROW(H, n);
        for (ptrdiff_t j = 0; j < 2 * n; j++)
            Z[j] = NAME(logistic)(Z[j] + R[j]);
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL u = Z[n + j], c = NAME(hyperbolic_tangent)(Z[2 * n + j] + Z[j] * R[2 * n + j]);
            Z[2 * n + j] = c;
            H[j] = c + u * (S[j] - c);
        }
        if (s->next != NULL)
            memcpy((REAL *)s->next + i * n, H, (size_t)n * sizeof(REAL));
    }
}

static void NAME(gru_backward)(const svdfast_cell_step *s)
{
    const ptrdiff_t n = s->n;
    for (ptrdiff_t i = 0; i < s->p; i++) {
        GATES_ROW(Z);
        ROW(R, 3 * n);
        ROW(S, n);
        ROW(dH, n);
        GATES_ROW(dZ);
        ROW(dR, 3 * n);
        ROW(carry, n);
        const REAL *restrict dnext = s->dnext == NULL ? NULL : (const REAL *)s->dnext + i * n;
        if (dnext == NULL)
            memset(carry, 0, (size_t)n * sizeof(REAL));
        if (MASKED(i)) {
            NAME(pass_backward)(s, i, 3, carry);
            continue;
        }
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL r = Z[j], u = Z[n + j], c = Z[2 * n + j];
            const REAL g = dH[j] + carry[j] + (dnext == NULL ? 0 : dnext[j]);
            const REAL of_c = g * (1 - u) * (1 - c) * (1 + c), of_u = g * (S[j] - c) * u * (1 - u);
            const REAL of_r = of_c * R[2 * n + j] * r * (1 - r);
            carry[j] = g * u;
            dZ[j] = of_r;
            dR[j] = of_r;
            dZ[n + j] = of_u;
            dR[n + j] = of_u;
            dZ[2 * n + j] = of_c;
            dR[2 * n + j] = of_c * r;
        }
    }
}

/* i, f, o = sigmoid, g = tanh of z + r; c' = f c + i g, h = o tanh(c'). Z holds the gates after it, R's first n columns tanh(c'). */
static void NAME(lstm)(const svdfast_cell_step *s)
{
    const ptrdiff_t n = s->n;
    for (ptrdiff_t i = 0; i < s->p; i++) {
        if (MASKED(i)) {
            NAME(pass)(s, i);
            continue;
        }
        GATES_ROW(Z);
        ROW(R, 4 * n);
        ROW(H, n);
        ROW(C, n);
        const REAL *restrict before = s->before == NULL ? NULL : (const REAL *)s->before + i * n;
        for (ptrdiff_t j = 0; j < 2 * n; j++)
            Z[j] = NAME(logistic)(Z[j] + R[j]);
        for (ptrdiff_t j = 2 * n; j < 3 * n; j++)
            Z[j] = NAME(hyperbolic_tangent)(Z[j] + R[j]);
        for (ptrdiff_t j = 3 * n; j < 4 * n; j++)
            Z[j] = NAME(logistic)(Z[j] + R[j]);
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL c = Z[j] * Z[2 * n + j] + (before == NULL ? 0 : Z[n + j] * before[j]);
            const REAL t = NAME(hyperbolic_tangent)(c);
            C[j] = c;
            R[j] = t;
            H[j] = Z[3 * n + j] * t;
        }
        if (s->next != NULL)
            memcpy((REAL *)s->next + i * n, H, (size_t)n * sizeof(REAL));
    }
}

static void NAME(lstm_backward)(const svdfast_cell_step *s)
{
    const ptrdiff_t n = s->n;
    const ptrdiff_t wide = s->mask == NULL ? n : 2 * n;
    for (ptrdiff_t i = 0; i < s->p; i++) {
        GATES_ROW(Z);
        ROW(R, 4 * n);
        ROW(dH, n);
        GATES_ROW(dZ);
        ROW(carry, wide);
        REAL *restrict passed = s->mask == NULL ? NULL : carry + n;
        const REAL *restrict before = s->before == NULL ? NULL : (const REAL *)s->before + i * n;
        const REAL *restrict dnext = s->dnext == NULL ? NULL : (const REAL *)s->dnext + i * n;
        if (dnext == NULL)
            memset(carry, 0, (size_t)wide * sizeof(REAL));
        if (MASKED(i)) {
            NAME(pass_backward)(s, i, 4, passed);
            continue;
        }
        for (ptrdiff_t j = 0; j < n; j++) {
            const REAL in = Z[j], f = Z[n + j], g = Z[2 * n + j], o = Z[3 * n + j], t = R[j];
            const REAL dh = dH[j] + (dnext == NULL ? 0 : dnext[j]) + (passed == NULL ? 0 : passed[j]);
            const REAL dc = dh * o * (1 - t) * (1 + t) + carry[j];
            carry[j] = dc * f;
            dZ[j] = dc * g * in * (1 - in);
            dZ[n + j] = before == NULL ? 0 : dc * before[j] * f * (1 - f);
            dZ[2 * n + j] = dc * in * (1 - g) * (1 + g);
            dZ[3 * n + j] = dh * t * o * (1 - o);
        }
        if (passed != NULL)
            memset(passed, 0, (size_t)n * sizeof(REAL));
        if (s->dR != s->dZ)
            memcpy((REAL *)s->dR + i * 4 * n, dZ, (size_t)(4 * n) * sizeof(REAL));
    }
}

#undef ROW
#undef GATES_ROW
#undef MASKED

static void NAME(cell)(int cell, const svdfast_cell_step *s)
{
    switch (cell) {
#define CASE(CODE, name, gates) case SVDFAST_##CODE: NAME(name)(s); break;
        SVDFAST_CELLS(CASE)
#undef CASE
    }
}

static void NAME(cell_backward)(int cell, const svdfast_cell_step *s)
{
    switch (cell) {
#define CASE(CODE, name, gates) case SVDFAST_##CODE: NAME(name##_backward)(s); break;
        SVDFAST_CELLS(CASE)
#undef CASE
    }
}

#endif /* REAL */
