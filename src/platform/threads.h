/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The engine's calls of OpenMP beside its loops, so that a build without OpenMP compiles, too.
 */
#ifndef SVDFAST_THREADS_H
#define SVDFAST_THREADS_H

#ifdef _OPENMP
#include <omp.h>
#define SVDFAST_HAS_OPENMP 1
static inline int svdfast_max_threads(void) { return omp_get_max_threads(); }
/* The calling thread's place in its team, and the size of that. */
static inline int svdfast_thread(void) { return omp_get_thread_num(); }
static inline int svdfast_team_size(void) { return omp_get_num_threads(); }
/* All threads of the parallel region wait for each other: Cython's loops over threads do not end in a barrier. */
static inline void svdfast_barrier(void)
{
#ifdef _MSC_VER
    __pragma(omp barrier)
#else
    _Pragma("omp barrier")
#endif
}
#else
#define SVDFAST_HAS_OPENMP 0
static inline int svdfast_max_threads(void) { return 1; }
static inline int svdfast_thread(void) { return 0; }
static inline int svdfast_team_size(void) { return 1; }
static inline void svdfast_barrier(void) {}
#endif

#endif
