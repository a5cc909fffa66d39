/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Information for AddressSanitizer that the compiler does not give, in a build with SVDFAST_SANITIZE=1:
 * the space between parts of one allocation is no one's, and the bytes that a masked load or store
 * touches. Other builds do nothing here.
 */
#ifndef SVDFAST_SANITIZE_H
#define SVDFAST_SANITIZE_H

#include <stddef.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>

/* Bytes left free after each part. More than what NumPy keeps for itself after it is freed (1 KiB): that would stay forbidden. */
enum { SVDFAST_GAP = 1024 };

static inline void svdfast_forbid(size_t address, size_t size) { ASAN_POISON_MEMORY_REGION((void *)address, size); }

/* The compiler's own checks, which it leaves out where an instruction is called by its name. */
void __asan_loadN(void *address, size_t size);
void __asan_storeN(void *address, size_t size);

static inline size_t svdfast_masked_size(unsigned mask)
{
    return mask == 0 ? 0 : (32 - (size_t)__builtin_clz(mask)) * sizeof(float);
}
#define SVDFAST_LOADS(x, mask) __asan_loadN((void *)(x), svdfast_masked_size(mask))
#define SVDFAST_STORES(x, mask) __asan_storeN((void *)(x), svdfast_masked_size(mask))

#else

enum { SVDFAST_GAP = 0 };
static inline void svdfast_forbid(size_t address, size_t size) { (void)address, (void)size; }
#define SVDFAST_LOADS(x, mask) ((void)0)
#define SVDFAST_STORES(x, mask) ((void)0)

#endif

#endif
