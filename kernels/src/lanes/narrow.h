/* Vectors from and to narrower numbers, sixteen-entry tables, and doubles: what the coding of blocks needs beside vec.h.
 * Addresses need no alignment; no load or store touches more than it names.
 *
 *   vi_from_bytes(p)         W unsigned bytes; vi_from_signed_bytes the same with sign
 *   vi_from_words(p)         W unsigned 16-bit integers
 *   vi_store_words(p, a)     the low two bytes of each lane
 *   vi_store_block(p, a)     a[0] to a[32 / W - 1], each from -128 to 127, as 32 bytes
 *   vf_from_halves(p)        W binary16 numbers, NaNs as in numeric.h
 *   vf_store_halves(p, a)    rounded to nearest even; a NaN has no payload, as those that arithmetic makes
 *   half_at(p)               one of them
 *   vi_truncated(a)          toward zero, for |a| < 2^31
 *   vi_down(a, count)        shifted right by a count that is no constant, zeros come in
 *   vm_of_bits(bits)         lane i is true where bit i is set
 *   vtable vtable_load vtable_at(t, i)   a table of sixteen floats, and its entries i, each lane from 0 to 15
 *   v8d v8d_...                eight doubles
 */
#ifndef QUENCH_NARROW_H
#define QUENCH_NARROW_H

#include "../numeric.h"
#include "vec.h"

/* Four bytes as one number. */
QUENCH_INLINE uint32_t word_at(const uint8_t *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

#if defined(QUENCH_LANES_AVX512)
#  include "narrow_avx512.h"
#elif defined(QUENCH_LANES_AVX2)
#  include "narrow_avx2.h"
#else
#  include "narrow_neon.h"
#endif

#endif
