/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The cells of recurrent layers: one step of each, forward and back, all gates in one pass. A new one is a line of the list and two
 * functions. elementwise.h includes this file for the list; elementwise_loops.h includes it again for each REAL. Elsewhere: the
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

/* With constants for `with_next`, so that each loop is without a choice, and a pointer for each gate, so that none may be another. */
static inline void NAME(gru_row_backward)(const int with_next, ptrdiff_t n, const REAL *restrict r_, const REAL *restrict u_,
                                          const REAL *restrict c_, const REAL *restrict Rn, const REAL *restrict S,
                                          const REAL *restrict dH, const REAL *restrict dnext, REAL *restrict carry,
                                          REAL *restrict dZr, REAL *restrict dZu, REAL *restrict dZn, REAL *restrict dRr,
                                          REAL *restrict dRu, REAL *restrict dRn)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        const REAL r = r_[j], u = u_[j], c = c_[j];
        const REAL g = dH[j] + carry[j] + (with_next ? dnext[j] : 0);
        const REAL of_c = g * (1 - u) * (1 - c) * (1 + c), of_u = g * (S[j] - c) * u * (1 - u);
        const REAL of_r = of_c * Rn[j] * r * (1 - r);
        carry[j] = g * u;
        dZr[j] = of_r;
        dRr[j] = of_r;
        dZu[j] = of_u;
        dRu[j] = of_u;
        dZn[j] = of_c;
        dRn[j] = of_c * r;
    }
}

static void NAME(gru_backward)(const svdfast_cell_step *s)
{
    const ptrdiff_t n = s->n;
    for (ptrdiff_t i = 0; i < s->p; i++) {
        REAL *Z = (REAL *)s->Z + i * s->stride, *dZ = (REAL *)s->dZ + i * s->stride, *dR = (REAL *)s->dR + i * 3 * n;
        REAL *carry = (REAL *)s->carry + i * n;
        const REAL *R = (const REAL *)s->R + i * 3 * n, *S = (const REAL *)s->S + i * n, *dH = (const REAL *)s->dH + i * n;
        const REAL *dnext = s->dnext == NULL ? NULL : (const REAL *)s->dnext + i * n;
        if (dnext == NULL)
            memset(carry, 0, (size_t)n * sizeof(REAL));
        if (MASKED(i))
            NAME(pass_backward)(s, i, 3, carry);
        else if (dnext == NULL)
            NAME(gru_row_backward)(0, n, Z, Z + n, Z + 2 * n, R + 2 * n, S, dH, dnext, carry, dZ, dZ + n, dZ + 2 * n, dR, dR + n, dR + 2 * n);
        else
            NAME(gru_row_backward)(1, n, Z, Z + n, Z + 2 * n, R + 2 * n, S, dH, dnext, carry, dZ, dZ + n, dZ + 2 * n, dR, dR + n, dR + 2 * n);
    }
}

/* i, f, o = sigmoid, g = tanh of z + r; c' = f c + i g, h = o tanh(c'). Z holds the gates after it, R's first n columns tanh(c'). */
static inline void NAME(lstm_row)(const int with_before, ptrdiff_t n, const REAL *restrict in, const REAL *restrict f,
                                  const REAL *restrict g, const REAL *restrict o, const REAL *restrict before, REAL *restrict C,
                                  REAL *restrict T, REAL *restrict H)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        const REAL c = in[j] * g[j] + (with_before ? f[j] * before[j] : 0);
        const REAL t = NAME(hyperbolic_tangent)(c);
        C[j] = c;
        T[j] = t;
        H[j] = o[j] * t;
    }
}

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
        const REAL *before = s->before == NULL ? NULL : (const REAL *)s->before + i * n;
        for (ptrdiff_t j = 0; j < 2 * n; j++)
            Z[j] = NAME(logistic)(Z[j] + R[j]);
        for (ptrdiff_t j = 2 * n; j < 3 * n; j++)
            Z[j] = NAME(hyperbolic_tangent)(Z[j] + R[j]);
        for (ptrdiff_t j = 3 * n; j < 4 * n; j++)
            Z[j] = NAME(logistic)(Z[j] + R[j]);
        if (before == NULL)
            NAME(lstm_row)(0, n, Z, Z + n, Z + 2 * n, Z + 3 * n, before, C, R, H);
        else
            NAME(lstm_row)(1, n, Z, Z + n, Z + 2 * n, Z + 3 * n, before, C, R, H);
        if (s->next != NULL)
            memcpy((REAL *)s->next + i * n, H, (size_t)n * sizeof(REAL));
    }
}

static inline void NAME(lstm_row_backward)(const int with_before, ptrdiff_t n, const REAL *restrict in, const REAL *restrict f,
                                           const REAL *restrict g, const REAL *restrict o, const REAL *restrict T,
                                           const REAL *restrict before, const REAL *restrict dh, REAL *restrict carry,
                                           REAL *restrict din, REAL *restrict df, REAL *restrict dg, REAL *restrict d_o)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        const REAL t = T[j], dc = dh[j] * o[j] * (1 - t) * (1 + t) + carry[j];
        carry[j] = dc * f[j];
        din[j] = dc * g[j] * in[j] * (1 - in[j]);
        df[j] = with_before ? dc * before[j] * f[j] * (1 - f[j]) : 0;
        dg[j] = dc * in[j] * (1 - g[j]) * (1 + g[j]);
        d_o[j] = dh[j] * t * o[j] * (1 - o[j]);
    }
}

static void NAME(lstm_backward)(const svdfast_cell_step *s)
{
    const ptrdiff_t n = s->n, wide = s->mask == NULL ? n : 2 * n;
    for (ptrdiff_t i = 0; i < s->p; i++) {
        REAL *Z = (REAL *)s->Z + i * s->stride, *dZ = (REAL *)s->dZ + i * s->stride;
        REAL *carry = (REAL *)s->carry + i * wide, *passed = s->mask == NULL ? NULL : carry + n;
        const REAL *R = (const REAL *)s->R + i * 4 * n, *before = s->before == NULL ? NULL : (const REAL *)s->before + i * n;
        const REAL *dnext = s->dnext == NULL ? NULL : (const REAL *)s->dnext + i * n;
        REAL *restrict dh = (REAL *)s->dH + i * n; /* has the other parts added: nobody reads it after the step */
        if (dnext == NULL)
            memset(carry, 0, (size_t)wide * sizeof(REAL));
        if (MASKED(i)) {
            NAME(pass_backward)(s, i, 4, passed);
            continue;
        }
        if (dnext != NULL)
            for (ptrdiff_t j = 0; j < n; j++)
                dh[j] += dnext[j];
        if (passed != NULL) {
            for (ptrdiff_t j = 0; j < n; j++)
                dh[j] += passed[j];
            memset(passed, 0, (size_t)n * sizeof(REAL));
        }
        if (before == NULL)
            NAME(lstm_row_backward)(0, n, Z, Z + n, Z + 2 * n, Z + 3 * n, R, before, dh, carry, dZ, dZ + n, dZ + 2 * n, dZ + 3 * n);
        else
            NAME(lstm_row_backward)(1, n, Z, Z + n, Z + 2 * n, Z + 3 * n, R, before, dh, carry, dZ, dZ + n, dZ + 2 * n, dZ + 3 * n);
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
