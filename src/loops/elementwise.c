/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Compiles elementwise_loops.h once per type and instruction set, and chooses among them. No loop is written here.
 *
 * Why not -march=native or target_clones: a wheel must run on any CPU of its kind, and target_clones needs
 * ifunc, which musl and some clangs lack. Where neither GCC's nor clang's target pragma exists, only the baseline is built.
 */
#include "elementwise.h"
#include "timing.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#define JOIN_(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define NAME(function) JOIN(function, TYPE, SET)

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAVE_X86_SETS 1
#else
#define HAVE_X86_SETS 0
#endif

/* Rows that are fetched before they are copied, and bytes of each: beyond, the CPU fetches by itself. */
enum { AHEAD = 4, FETCHED = 4096 };

static inline void fetch_row(const void *row, ptrdiff_t size)
{
#if defined(__GNUC__) || defined(__clang__)
    for (ptrdiff_t i = 0; i < size && i < FETCHED; i += 64)
        __builtin_prefetch((const char *)row + i, 0, 3);
#else
    (void)row, (void)size;
#endif
}

#define SET baseline
#include "elementwise_types.h"
#undef SET

#if HAVE_X86_SETS

#define SET avx2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "elementwise_types.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SET

#define SET avx512
#if defined(__clang__)
/* One attribute to each: clang before 15 takes no more. */
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#pragma clang attribute push(__attribute__((min_vector_width(512))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#include "elementwise_types.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SET

#endif /* HAVE_X86_SETS */

typedef struct {
    const char *name;
    const svdfast_elementwise *f32, *f64;
} instruction_set;

/* Best last. */
static const instruction_set SETS[] = {
    {"baseline", &table_f32_baseline, &table_f64_baseline},
#if HAVE_X86_SETS
    {"avx2", &table_f32_avx2, &table_f64_avx2},
    {"avx512", &table_f32_avx512, &table_f64_avx512},
#endif
};
enum { N_SETS = sizeof(SETS) / sizeof(SETS[0]) };

static const instruction_set *selected = &SETS[0];

#define SET timed
#define TYPE f32
#include "elementwise_timed.h"
#undef TYPE
#define TYPE f64
#include "elementwise_timed.h"
#undef TYPE
#undef SET

static const instruction_set timed = {"timed", &table_f32_timed, &table_f64_timed};
static int measuring = 0;

#define NAMED(CODE, name, reads) {#name, #reads},
#define NAMED_BY_ELEMENT(CODE, name, reads, f, derivative) {#name, #reads},
#define NAMED_UPDATE(CODE, name) {#name, "NOTHING"},
const svdfast_named svdfast_activations[] = {SVDFAST_ACTIVATIONS(NAMED_BY_ELEMENT, NAMED) {NULL, NULL}};
const svdfast_named svdfast_losses[] = {SVDFAST_LOSSES(NAMED) {NULL, NULL}};
#define NAMED_CELL(CODE, name, gates) {#name, "NOTHING"},
const svdfast_named svdfast_cells[] = {SVDFAST_CELLS(NAMED_CELL) {NULL, NULL}};
const svdfast_named svdfast_updates[] = {SVDFAST_UPDATES(NAMED_UPDATE) {NULL, NULL}};

int svdfast_elementwise_available(const char *name)
{
    if (strcmp(name, "baseline") == 0)
        return 1;
#if HAVE_X86_SETS
    __builtin_cpu_init();
    if (strcmp(name, "avx2") == 0)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strcmp(name, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
    return 0;
}

int svdfast_elementwise_select(const char *name)
{
    for (int i = N_SETS - 1; i >= 0; i--) {
        if ((name == NULL || strcmp(name, SETS[i].name) == 0) && svdfast_elementwise_available(SETS[i].name)) {
            selected = &SETS[i];
            return 0;
        }
    }
    return -1;
}

const char *svdfast_elementwise_selected(void)
{
    return selected->name;
}

const svdfast_elementwise *svdfast_elementwise_for(int itemsize)
{
    const instruction_set *set = measuring ? &timed : selected;
    return itemsize == 4 ? set->f32 : set->f64;
}

void svdfast_elementwise_measure(int on)
{
    if (on)
        svdfast_reset_times();
    measuring = on;
}

void svdfast_elementwise_measured(double *loops, double *gather, double *update)
{
    *loops = svdfast_total_seconds(SVDFAST_LOOPS);
    *gather = svdfast_total_seconds(SVDFAST_GATHERING);
    *update = svdfast_total_seconds(SVDFAST_UPDATING);
}
