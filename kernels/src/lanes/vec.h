/* The few vector operations that the lane kernels are written over. A file in lanes/ is compiled once for each vector
 * backend, with QUENCH_LANES naming it; its public functions are spelled LANES(name) and become quench_avx2_name and so on.
 *
 *   W               floats in a vector: 16 (AVX-512), 8 (AVX2) or 4 (NEON)
 *   vf vi vm        floats, 32-bit integers, and one truth value a lane
 *   vf_pick(m,a,b)  a where m is true, b elsewhere
 *   vf_least(a,b)   a < b ? a : b, so b where one is NaN, as in C on every processor; vf_most the same with >
 *   vf_round        nearest integer, ties to even, as a float: exact below 2^23, and larger values stay what they are
 *   vi_nearest(a)   the same as an integer, for |a| < 2^31
 *   vi_half(a)      bits of the nearest 16-bit float, ties to even; the payload of a NaN is the processor's own
 *   vf_from_half(a) the float of those bits, which are the low half of each lane; the other half is zero
 *   vi_store_bytes  the low byte of every lane, W bytes
 *   vm_bits(m)      lane i in bit i
 *
 * No operation contracts a*b+c, and none depends on the optimizer: the float operations that a kernel writes are those
 * that run, in that order. */
#ifndef QUENCH_VEC_H
#define QUENCH_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define QUENCH_PASTE_(a, b, c) a##b##_##c
#define QUENCH_PASTE(a, b, c) QUENCH_PASTE_(a, b, c)
#define LANES(name) QUENCH_PASTE(quench_, QUENCH_LANES, name)

#if defined(QUENCH_COMPACT)
#  define QUENCH_INLINE static inline
#elif defined(__GNUC__)
#  define QUENCH_INLINE static inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#  define QUENCH_INLINE static __forceinline
#else
#  define QUENCH_INLINE static inline
#endif

#if defined(QUENCH_LANES_AVX512)
#  include "vec_avx512.h"
#elif defined(QUENCH_LANES_AVX2)
#  include "vec_avx2.h"
#elif defined(QUENCH_LANES_NEON)
#  include "vec_neon.h"
#else
#  error "QUENCH_LANES_... says which vectors to use"
#endif

#endif
