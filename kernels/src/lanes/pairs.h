/* Two signed 16-bit integers in each lane, for work that needs no more digits.
 *
 *   pairs_set, add, sub, least, most
 *   pairs(a, b)         of 32-bit lanes that fit: a in the low half
 *   pairs_scaled(a, b)  a * b / 2^15, rounded up at a half; not for both -2^15
 *   pairs_dot(a, b)     a.low * b.low + a.high * b.high as 32 bits */
#ifndef QUENCH_PAIRS_H
#define QUENCH_PAIRS_H

#include "vec.h"

QUENCH_INLINE vi pairs(vi a, vi b) {
    return vi_or(vi_and(a, vi_set(0xffff)), vi_left(b, 16));
}

#if defined(QUENCH_LANES_AVX512)
QUENCH_INLINE vi pairs_set(int16_t a) { return _mm512_set1_epi16(a); }
QUENCH_INLINE vi pairs_add(vi a, vi b) { return _mm512_add_epi16(a, b); }
QUENCH_INLINE vi pairs_sub(vi a, vi b) { return _mm512_sub_epi16(a, b); }
QUENCH_INLINE vi pairs_least(vi a, vi b) { return _mm512_min_epi16(a, b); }
QUENCH_INLINE vi pairs_most(vi a, vi b) { return _mm512_max_epi16(a, b); }
QUENCH_INLINE vi pairs_scaled(vi a, vi b) { return _mm512_mulhrs_epi16(a, b); }
QUENCH_INLINE vi pairs_dot(vi a, vi b) { return _mm512_madd_epi16(a, b); }
#  define pairs_left(a, count) _mm512_slli_epi16(a, count)
#  define pairs_right_signed(a, count) _mm512_srai_epi16(a, count)
#elif defined(QUENCH_LANES_AVX2)
QUENCH_INLINE vi pairs_set(int16_t a) { return _mm256_set1_epi16(a); }
QUENCH_INLINE vi pairs_add(vi a, vi b) { return _mm256_add_epi16(a, b); }
QUENCH_INLINE vi pairs_sub(vi a, vi b) { return _mm256_sub_epi16(a, b); }
QUENCH_INLINE vi pairs_least(vi a, vi b) { return _mm256_min_epi16(a, b); }
QUENCH_INLINE vi pairs_most(vi a, vi b) { return _mm256_max_epi16(a, b); }
QUENCH_INLINE vi pairs_scaled(vi a, vi b) { return _mm256_mulhrs_epi16(a, b); }
QUENCH_INLINE vi pairs_dot(vi a, vi b) { return _mm256_madd_epi16(a, b); }
#  define pairs_left(a, count) _mm256_slli_epi16(a, count)
#  define pairs_right_signed(a, count) _mm256_srai_epi16(a, count)
#else
QUENCH_INLINE int16x8_t to_shorts(vi a) { return vreinterpretq_s16_s32(a); }
QUENCH_INLINE vi from_shorts(int16x8_t a) { return vreinterpretq_s32_s16(a); }
QUENCH_INLINE vi pairs_set(int16_t a) { return from_shorts(vdupq_n_s16(a)); }
QUENCH_INLINE vi pairs_add(vi a, vi b) { return from_shorts(vaddq_s16(to_shorts(a), to_shorts(b))); }
QUENCH_INLINE vi pairs_sub(vi a, vi b) { return from_shorts(vsubq_s16(to_shorts(a), to_shorts(b))); }
QUENCH_INLINE vi pairs_least(vi a, vi b) { return from_shorts(vminq_s16(to_shorts(a), to_shorts(b))); }
QUENCH_INLINE vi pairs_most(vi a, vi b) { return from_shorts(vmaxq_s16(to_shorts(a), to_shorts(b))); }
QUENCH_INLINE vi pairs_scaled(vi a, vi b) {
    return vreinterpretq_s32_s16(vqrdmulhq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
}
QUENCH_INLINE vi pairs_dot(vi a, vi b) {
    const int16x8_t c = vreinterpretq_s16_s32(a), d = vreinterpretq_s16_s32(b);
    return vpaddq_s32(vmull_s16(vget_low_s16(c), vget_low_s16(d)), vmull_high_s16(c, d));
}
#  define pairs_left(a, count) vreinterpretq_s32_s16(vshlq_n_s16(vreinterpretq_s16_s32(a), count))
#  define pairs_right_signed(a, count) vreinterpretq_s32_s16(vshrq_n_s16(vreinterpretq_s16_s32(a), count))
#endif

#endif
