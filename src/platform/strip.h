/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A thread's own memory for a strip of a matrix that never exists as a whole: half a second-level
 * cache, and the space that vectors may write to beyond it. Elsewhere: its contents.
 */
#ifndef SVDFAST_STRIP_H
#define SVDFAST_STRIP_H

#include "windows.h"

enum { SVDFAST_STRIP_BYTES = 512 * 1024 };

#if defined(_MSC_VER)
#define SVDFAST_THREAD __declspec(thread)
#define SVDFAST_ALIGNED __declspec(align(64))
#else
#define SVDFAST_THREAD __thread
#define SVDFAST_ALIGNED __attribute__((aligned(64)))
#endif

static SVDFAST_THREAD SVDFAST_ALIGNED char svdfast_kept_strip[SVDFAST_STRIP_BYTES + SVDFAST_BEYOND_PATCHES];

static inline void *svdfast_strip(void)
{
    return svdfast_kept_strip;
}

#endif
