/* Sixteen lanes: AVX-512 F, BW, DQ and VL. */
#include <immintrin.h>

enum { W = 16 };
#define QUENCH_W 16

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

QUENCH_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
QUENCH_INLINE void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
QUENCH_INLINE vf vf_set(float a) { return _mm512_set1_ps(a); }
QUENCH_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
QUENCH_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
QUENCH_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
QUENCH_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
QUENCH_INLINE vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
QUENCH_INLINE vf vf_least(vf a, vf b) { return _mm512_min_ps(a, b); }
QUENCH_INLINE vf vf_most(vf a, vf b) { return _mm512_max_ps(a, b); }
QUENCH_INLINE vf vf_abs(vf a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
QUENCH_INLINE vf vf_neg(vf a) { return _mm512_xor_ps(_mm512_set1_ps(-0.0f), a); }
QUENCH_INLINE vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
QUENCH_INLINE vf vf_pick(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }

QUENCH_INLINE vm vf_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
QUENCH_INLINE vm vf_le(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
QUENCH_INLINE vm vf_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
QUENCH_INLINE vm vf_ge(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
QUENCH_INLINE vm vf_eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }

QUENCH_INLINE vm vm_and(vm a, vm b) { return (vm)(a & b); }
QUENCH_INLINE vm vm_or(vm a, vm b) { return (vm)(a | b); }
QUENCH_INLINE vm vm_not(vm a) { return (vm)~a; }
QUENCH_INLINE vm vm_none(void) { return 0; }
QUENCH_INLINE vm vm_all(void) { return 0xffff; }
QUENCH_INLINE uint32_t vm_bits(vm a) {
    uint32_t bits = a;
#if defined(__GNUC__) && !defined(__clang__)
    /* When registers run short, gcc 12 stores 16 bits of a widened mask and reads back 32: keep it out of the masks. */
    __asm__("" : "+r"(bits));
#endif
    return bits;
}
QUENCH_INLINE int vm_any(vm a) { return a != 0; }

QUENCH_INLINE vi vi_load(const int32_t *p) { return _mm512_loadu_si512(p); }
QUENCH_INLINE void vi_store(int32_t *p, vi a) { _mm512_storeu_si512(p, a); }
QUENCH_INLINE vi vi_set(int32_t a) { return _mm512_set1_epi32(a); }
QUENCH_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
QUENCH_INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
QUENCH_INLINE vi vi_mul(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
QUENCH_INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
QUENCH_INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
QUENCH_INLINE vi vi_least(vi a, vi b) { return _mm512_min_epi32(a, b); }
QUENCH_INLINE vi vi_most(vi a, vi b) { return _mm512_max_epi32(a, b); }
QUENCH_INLINE vi vi_pick(vm m, vi a, vi b) { return _mm512_mask_blend_epi32(m, b, a); }
QUENCH_INLINE vm vi_eq(vi a, vi b) { return _mm512_cmpeq_epi32_mask(a, b); }
QUENCH_INLINE vm vi_gt(vi a, vi b) { return _mm512_cmpgt_epi32_mask(a, b); }
#define vi_left(a, count) _mm512_slli_epi32(a, count)
#define vi_right(a, count) _mm512_srli_epi32(a, count)        /* zeros come in */
#define vi_right_signed(a, count) _mm512_srai_epi32(a, count) /* the sign comes in */

QUENCH_INLINE vi vi_of_bits(vf a) { return _mm512_castps_si512(a); }
QUENCH_INLINE vf vf_of_bits(vi a) { return _mm512_castsi512_ps(a); }
QUENCH_INLINE vf vf_from_vi(vi a) { return _mm512_cvtepi32_ps(a); }
QUENCH_INLINE vi vi_nearest(vf a) { return _mm512_cvtps_epi32(a); }
QUENCH_INLINE vi vi_half(vf a) { return _mm512_cvtepu16_epi32(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT)); }
QUENCH_INLINE vf vf_from_half(vi a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); }
QUENCH_INLINE void vi_store_bytes(uint8_t *p, vi a) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(a));
}


/* out[i] = the i-th floats of W rows that are `stride` floats apart; for i from 0 to 7. */
QUENCH_INLINE void vf_transpose8(const float *p, size_t stride, vf out[8]) {
    vf a[8], b[8];
    for (int i = 0; i < 8; i++) {
        a[i] = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(p + (size_t)i * stride)),
                                  _mm256_loadu_ps(p + (size_t)(i + 8) * stride), 1);
    }
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm512_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm512_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    /* Quarters of a[i]: rows 0-3 and 8-11 of column i, then of column i + 4; of a[i + 4]: rows 4-7 and 12-15. */
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
    const __m512i high = _mm512_setr_epi32(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    for (int i = 0; i < 4; i++) {
        out[i] = _mm512_permutex2var_ps(a[i], low, a[i + 4]);
        out[i + 4] = _mm512_permutex2var_ps(a[i], high, a[i + 4]);
    }
}
