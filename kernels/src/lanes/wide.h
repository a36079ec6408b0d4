/* W doubles beside W floats, small tables, and a hint to the cache: what sums over rows need beside vec.h.
 *
 *   vw               W doubles, in two vectors
 *   vw_widen(a)      the floats of a; vw_narrow(a) the nearest floats of a
 *   vf_fused(a,b,c)  a * b + c, rounded once; vw_fused the same
 *   v8 v8_load       a table of eight integers; v8_at(t, i) its entries i & 7
 *   v_prefetch(p)    p will be read soon; any address
 */
#ifndef QUENCH_WIDE_H
#define QUENCH_WIDE_H

#include "vec.h"

#if defined(QUENCH_LANES_AVX512)

typedef __m512d wide;
QUENCH_INLINE wide wide_load(const double *p) { return _mm512_loadu_pd(p); }
QUENCH_INLINE void wide_store(double *p, wide a) { _mm512_storeu_pd(p, a); }
QUENCH_INLINE wide wide_set(double a) { return _mm512_set1_pd(a); }
QUENCH_INLINE wide wide_add(wide a, wide b) { return _mm512_add_pd(a, b); }
QUENCH_INLINE wide wide_sub(wide a, wide b) { return _mm512_sub_pd(a, b); }
QUENCH_INLINE wide wide_mul(wide a, wide b) { return _mm512_mul_pd(a, b); }
QUENCH_INLINE wide wide_fused(wide a, wide b, wide c) { return _mm512_fmadd_pd(a, b, c); }
QUENCH_INLINE wide wide_low(vf a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
QUENCH_INLINE wide wide_high(vf a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)); }
QUENCH_INLINE vf vf_join(wide low, wide high) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1);
}

QUENCH_INLINE vf vf_fused(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }

typedef __m512i v8;
QUENCH_INLINE v8 v8_load(const int32_t *p) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
QUENCH_INLINE vi v8_at(v8 table, vi index) { return _mm512_permutexvar_epi32(index, table); }

QUENCH_INLINE void v_prefetch(const char *p) { _mm_prefetch(p, _MM_HINT_T0); }

#elif defined(QUENCH_LANES_AVX2)

typedef __m256d wide;
QUENCH_INLINE wide wide_load(const double *p) { return _mm256_loadu_pd(p); }
QUENCH_INLINE void wide_store(double *p, wide a) { _mm256_storeu_pd(p, a); }
QUENCH_INLINE wide wide_set(double a) { return _mm256_set1_pd(a); }
QUENCH_INLINE wide wide_add(wide a, wide b) { return _mm256_add_pd(a, b); }
QUENCH_INLINE wide wide_sub(wide a, wide b) { return _mm256_sub_pd(a, b); }
QUENCH_INLINE wide wide_mul(wide a, wide b) { return _mm256_mul_pd(a, b); }
QUENCH_INLINE wide wide_fused(wide a, wide b, wide c) { return _mm256_fmadd_pd(a, b, c); }
QUENCH_INLINE wide wide_low(vf a) { return _mm256_cvtps_pd(_mm256_castps256_ps128(a)); }
QUENCH_INLINE wide wide_high(vf a) { return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)); }
QUENCH_INLINE vf vf_join(wide low, wide high) { return _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low)); }

QUENCH_INLINE vf vf_fused(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }

typedef __m256i v8;
QUENCH_INLINE v8 v8_load(const int32_t *p) { return vi_load(p); }
QUENCH_INLINE vi v8_at(v8 table, vi index) { return _mm256_permutevar8x32_epi32(table, index); }

QUENCH_INLINE void v_prefetch(const char *p) { _mm_prefetch(p, _MM_HINT_T0); }

#else

typedef float64x2_t wide;
QUENCH_INLINE wide wide_load(const double *p) { return vld1q_f64(p); }
QUENCH_INLINE void wide_store(double *p, wide a) { vst1q_f64(p, a); }
QUENCH_INLINE wide wide_set(double a) { return vdupq_n_f64(a); }
QUENCH_INLINE wide wide_add(wide a, wide b) { return vaddq_f64(a, b); }
QUENCH_INLINE wide wide_sub(wide a, wide b) { return vsubq_f64(a, b); }
QUENCH_INLINE wide wide_mul(wide a, wide b) { return vmulq_f64(a, b); }
QUENCH_INLINE wide wide_fused(wide a, wide b, wide c) { return vfmaq_f64(c, a, b); }
QUENCH_INLINE wide wide_low(vf a) { return vcvt_f64_f32(vget_low_f32(a)); }
QUENCH_INLINE wide wide_high(vf a) { return vcvt_high_f64_f32(a); }
QUENCH_INLINE vf vf_join(wide low, wide high) { return vcvt_high_f32_f64(vcvt_f32_f64(low), high); }

QUENCH_INLINE vf vf_fused(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }

typedef uint8x16x2_t v8;
QUENCH_INLINE v8 v8_load(const int32_t *p) {
    v8 table;
    table.val[0] = vreinterpretq_u8_s32(vld1q_s32(p));
    table.val[1] = vreinterpretq_u8_s32(vld1q_s32(p + 4));
    return table;
}
QUENCH_INLINE vi v8_at(v8 table, vi index) {
    const vi place = vandq_s32(index, vdupq_n_s32(7));
    const vi bytes = vmlaq_s32(vdupq_n_s32(0x03020100), place, vdupq_n_s32(0x04040404));
    return vreinterpretq_s32_u8(vqtbl2q_u8(table, vreinterpretq_u8_s32(bytes)));
}

#  if defined(_MSC_VER)
QUENCH_INLINE void v_prefetch(const char *p) { __prefetch(p); }
#  else
QUENCH_INLINE void v_prefetch(const char *p) { __builtin_prefetch(p); }
#  endif

#endif

typedef struct {
    wide low, high;
} vw;

QUENCH_INLINE vw vw_of(wide low, wide high) {
    const vw a = {low, high};
    return a;
}
QUENCH_INLINE vw vw_load(const double *p) { return vw_of(wide_load(p), wide_load(p + QUENCH_W / 2)); }
QUENCH_INLINE void vw_store(double *p, vw a) {
    wide_store(p, a.low);
    wide_store(p + QUENCH_W / 2, a.high);
}
QUENCH_INLINE vw vw_set(double a) { return vw_of(wide_set(a), wide_set(a)); }
QUENCH_INLINE vw vw_add(vw a, vw b) { return vw_of(wide_add(a.low, b.low), wide_add(a.high, b.high)); }
QUENCH_INLINE vw vw_sub(vw a, vw b) { return vw_of(wide_sub(a.low, b.low), wide_sub(a.high, b.high)); }
QUENCH_INLINE vw vw_mul(vw a, vw b) { return vw_of(wide_mul(a.low, b.low), wide_mul(a.high, b.high)); }
QUENCH_INLINE vw vw_fused(vw a, vw b, vw c) {
    return vw_of(wide_fused(a.low, b.low, c.low), wide_fused(a.high, b.high, c.high));
}
QUENCH_INLINE vw vw_widen(vf a) { return vw_of(wide_low(a), wide_high(a)); }
QUENCH_INLINE vf vw_narrow(vw a) { return vf_join(a.low, a.high); }

#endif
