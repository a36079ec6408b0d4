/* Eight lanes: AVX2. */
#include <immintrin.h>

enum { W = 8 };
#define QUENCH_W 8

typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;

QUENCH_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
QUENCH_INLINE void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
QUENCH_INLINE vf vf_set(float a) { return _mm256_set1_ps(a); }
QUENCH_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
QUENCH_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
QUENCH_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
QUENCH_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
QUENCH_INLINE vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
QUENCH_INLINE vf vf_least(vf a, vf b) { return _mm256_min_ps(a, b); }
QUENCH_INLINE vf vf_most(vf a, vf b) { return _mm256_max_ps(a, b); }
QUENCH_INLINE vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
QUENCH_INLINE vf vf_neg(vf a) { return _mm256_xor_ps(_mm256_set1_ps(-0.0f), a); }
QUENCH_INLINE vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
QUENCH_INLINE vf vf_pick(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, m); }

QUENCH_INLINE vm vf_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
QUENCH_INLINE vm vf_le(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
QUENCH_INLINE vm vf_gt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
QUENCH_INLINE vm vf_ge(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
QUENCH_INLINE vm vf_eq(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }

QUENCH_INLINE vm vm_and(vm a, vm b) { return _mm256_and_ps(a, b); }
QUENCH_INLINE vm vm_or(vm a, vm b) { return _mm256_or_ps(a, b); }
QUENCH_INLINE vm vm_not(vm a) { return _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-1))); }
QUENCH_INLINE vm vm_none(void) { return _mm256_setzero_ps(); }
QUENCH_INLINE vm vm_all(void) { return _mm256_castsi256_ps(_mm256_set1_epi32(-1)); }
QUENCH_INLINE uint32_t vm_bits(vm a) { return (uint32_t)_mm256_movemask_ps(a); }
QUENCH_INLINE int vm_any(vm a) { return _mm256_movemask_ps(a) != 0; }

QUENCH_INLINE vi vi_load(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
QUENCH_INLINE void vi_store(int32_t *p, vi a) { _mm256_storeu_si256((__m256i *)(void *)p, a); }
QUENCH_INLINE vi vi_set(int32_t a) { return _mm256_set1_epi32(a); }
QUENCH_INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
QUENCH_INLINE vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
QUENCH_INLINE vi vi_mul(vi a, vi b) { return _mm256_mullo_epi32(a, b); }
QUENCH_INLINE vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
QUENCH_INLINE vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
QUENCH_INLINE vi vi_least(vi a, vi b) { return _mm256_min_epi32(a, b); }
QUENCH_INLINE vi vi_most(vi a, vi b) { return _mm256_max_epi32(a, b); }
QUENCH_INLINE vi vi_pick(vm m, vi a, vi b) { return _mm256_blendv_epi8(b, a, _mm256_castps_si256(m)); }
QUENCH_INLINE vm vi_eq(vi a, vi b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }
QUENCH_INLINE vm vi_gt(vi a, vi b) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)); }
#define vi_left(a, count) _mm256_slli_epi32(a, count)
#define vi_right(a, count) _mm256_srli_epi32(a, count)        /* zeros come in */
#define vi_right_signed(a, count) _mm256_srai_epi32(a, count) /* the sign comes in */

QUENCH_INLINE vi vi_of_bits(vf a) { return _mm256_castps_si256(a); }
QUENCH_INLINE vf vf_of_bits(vi a) { return _mm256_castsi256_ps(a); }
QUENCH_INLINE vf vf_from_vi(vi a) { return _mm256_cvtepi32_ps(a); }
QUENCH_INLINE vi vi_nearest(vf a) { return _mm256_cvtps_epi32(a); }
QUENCH_INLINE vi vi_half(vf a) { return _mm256_cvtepu16_epi32(_mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT)); }
QUENCH_INLINE vf vf_from_half(vi a) {
    __m256i pairs = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, a), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(pairs));
}
QUENCH_INLINE void vi_store_bytes(uint8_t *p, vi a) {
    const __m256i first = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                                           -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i bytes = _mm256_shuffle_epi8(a, first);
    __m128i both = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64((__m128i *)(void *)p, both);
}


/* out[i] = the i-th floats of W rows that are `stride` floats apart; for i from 0 to 7. */
QUENCH_INLINE void vf_transpose8(const float *p, size_t stride, vf out[8]) {
    vf a[8], b[8];
    for (int i = 0; i < 8; i++) {
        a[i] = _mm256_loadu_ps(p + (size_t)i * stride);
    }
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        out[i] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x20);
        out[i + 4] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x31);
    }
}
