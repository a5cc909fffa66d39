/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Numbers below the smallest normal one taken as zero, for a while and in the calling thread only.
 *
 * Why: Adam's moments of a weight whose gradient stays zero shrink until they are such numbers, and stay there (0.9 times the smallest
 * rounds to the smallest); the CPU then takes a hundred times as long for them. Without x86's control register nothing is changed.
 */
#ifndef SVDFAST_DENORMALS_H
#define SVDFAST_DENORMALS_H

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
/* Returns what `svdfast_restore_denormals` gives back. 0x8000: results are flushed; 0x0040: operands are. */
static inline unsigned int svdfast_flush_denormals(void)
{
    const unsigned int before = _mm_getcsr();
    _mm_setcsr(before | 0x8040u);
    return before;
}
static inline void svdfast_restore_denormals(unsigned int before) { _mm_setcsr(before); }
#else
static inline unsigned int svdfast_flush_denormals(void) { return 0; }
static inline void svdfast_restore_denormals(unsigned int before) { (void)before; }
#endif

#endif
