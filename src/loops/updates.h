/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The optimizers' updates: their list, their constants and their loops. A new one is a line of the
 * list, a loop, and a class in svdfast/training/optimizers.py. elementwise.h includes this file for
 * the list; elementwise_loops.h includes it again for each REAL. Elsewhere: penalties, which
 * are already in g (elementwise_loops.h).
 *
 * Each loop is  w -= learning_rate * step.  m and v are the moments, NULL where the optimizer has
 * none. They are stored as they are; only the copies in `step` are corrected.
 */
#ifndef SVDFAST_UPDATES

/* X(CODE, name): done by the function `name`. */
#define SVDFAST_UPDATES(X)                \
    X(GRADIENT_DESCENT, gradient_descent) \
    X(ADAM, adam)

typedef struct {
    int rule;
    int nesterov;
    double learning_rate;
    double beta1;           /* gradient descent: the momentum */
    double beta2;
    double epsilon;
    double correction1;     /* 1 - beta1^t */
    double correction2;     /* 1 - beta2^t */
    double weight_decay;    /* decoupled (AdamW): w -= learning_rate * weight_decay * w */
    double l1;              /* gradient += l1 * sign(w) */
    double l2;              /* gradient += l2 * w */
} svdfast_update_rule;

#endif

#ifdef REAL

/* v = momentum v + g;  step = v, or g + momentum v (Nesterov). */
static void NAME(gradient_descent)(const svdfast_update_rule *rule, ptrdiff_t count,
                                   const REAL *restrict g, REAL *restrict w, REAL *restrict m,
                                   REAL *restrict v)
{
    (void)v;
    const REAL keep = (REAL)(1 - rule->learning_rate * rule->weight_decay);
    const REAL rate = (REAL)rule->learning_rate, momentum = (REAL)rule->beta1;
    if (m == NULL) {
        for (ptrdiff_t i = 0; i < count; i++)
            w[i] = keep * w[i] - rate * g[i];
    } else if (rule->nesterov) {
        for (ptrdiff_t i = 0; i < count; i++) {
            m[i] = momentum * m[i] + g[i];
            w[i] = keep * w[i] - rate * (g[i] + momentum * m[i]);
        }
    } else {
        for (ptrdiff_t i = 0; i < count; i++) {
            m[i] = momentum * m[i] + g[i];
            w[i] = keep * w[i] - rate * m[i];
        }
    }
}

/* m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2;
 * step = (m / correction1) / (sqrt(v / correction2) + epsilon). */
static void NAME(adam)(const svdfast_update_rule *rule, ptrdiff_t count, const REAL *restrict g,
                       REAL *restrict w, REAL *restrict m, REAL *restrict v)
{
    const REAL keep = (REAL)(1 - rule->learning_rate * rule->weight_decay);
    const REAL beta1 = (REAL)rule->beta1, beta2 = (REAL)rule->beta2;
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
}

#endif /* REAL */
