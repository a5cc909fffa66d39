/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Where a training step's time goes: seconds by kind of work, and operations, added up for each thread at the leaves, which
 * are the products (_blas.pyx) and the loops (elementwise.c). Only while somebody asks (svdfast/_process/timing.py).
 * Only leaves are timed. The rest of the wall clock is waiting at barriers, the engine's own work and
 * Python's.
 *
 * Each compiled module that includes this has sums of its own. A place in them belongs to the thread of that number in a team,
 * so one training can be timed at a time, and nothing is shared while it runs.
 */
#ifndef SVDFAST_TIMING_H
#define SVDFAST_TIMING_H

#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef _WIN32
#include <windows.h>
#else
#include <time.h>
#endif

enum { SVDFAST_PRODUCTS, SVDFAST_LOOPS, SVDFAST_GATHERING, SVDFAST_UPDATING, SVDFAST_N_KINDS };

/* Twice a cache line with the numbers in its first part: wherever the array begins, no two threads write to one line. */
typedef struct {
    double seconds[SVDFAST_N_KINDS];
    double operations;
    double unused[16 - SVDFAST_N_KINDS - 1];
} svdfast_times;

enum { SVDFAST_MAX_TIMED = 512 }; /* threads; what others do is not counted */

static svdfast_times svdfast_sums[SVDFAST_MAX_TIMED];

/* Seconds since some moment, never 0. */
static inline double svdfast_clock(void)
{
#ifdef _WIN32
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (double)count.QuadPart / (double)frequency.QuadPart;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#endif
}

/* Adds what the calling thread did from `start` until now. */
static inline void svdfast_add_time(int kind, double start, double operations)
{
#ifdef _OPENMP
    const int t = omp_get_thread_num();
#else
    const int t = 0;
#endif
    if (t < SVDFAST_MAX_TIMED) {
        svdfast_sums[t].seconds[kind] += svdfast_clock() - start;
        svdfast_sums[t].operations += operations;
    }
}

static inline void svdfast_reset_times(void)
{
    memset(svdfast_sums, 0, sizeof(svdfast_sums));
}

static inline double svdfast_total_seconds(int kind)
{
    double total = 0;
    for (int t = 0; t < SVDFAST_MAX_TIMED; t++)
        total += svdfast_sums[t].seconds[kind];
    return total;
}

static inline double svdfast_total_operations(void)
{
    double total = 0;
    for (int t = 0; t < SVDFAST_MAX_TIMED; t++)
        total += svdfast_sums[t].operations;
    return total;
}

#endif
