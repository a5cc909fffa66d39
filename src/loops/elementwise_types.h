/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Includes the loops for float and double, with what differs between the two. Included by elementwise.c once for each
 * instruction set SET. elementwise_loops.h takes back at its end what is defined for a type. No include guard: that is its purpose.
 *
 * exp needs of a type: the integer of its size, the bits of its mantissa, its exponent's bias, log 2 in two parts (the first
 * with trailing zeros, so that n * LN2_HIGH is exact), the range in which e^x is a normal number, and how many Taylor terms reach
 * its precision on |r| <= log(2)/2.
 */
#define REAL float
#define SQRT sqrtf
#define TYPE f32
#define BITS uint32_t
#define MANTISSA 23
#define BIAS 127
#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, kept in the low bits */
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440e-4f
#define EXP_MIN -87.0f
#define EXP_MAX 88.0f
#define TANH_MAX 20.0f
#define TERMS 7
#include "elementwise_loops.h"

#define REAL double
#define SQRT sqrt
#define TYPE f64
#define BITS uint64_t
#define MANTISSA 52
#define BIAS 1023
#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52 */
#define LN2_HIGH 6.93147180369123816490e-01
#define LN2_LOW 1.90821492927058770002e-10
#define EXP_MIN -708.0
#define EXP_MAX 709.0
#define TANH_MAX 40.0
#define TERMS 13
#include "elementwise_loops.h"
