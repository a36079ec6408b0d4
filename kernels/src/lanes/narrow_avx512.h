/* narrow.h for AVX-512. */
QUENCH_INLINE vi vi_from_bytes(const uint8_t *p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
QUENCH_INLINE vi vi_from_signed_bytes(const uint8_t *p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
QUENCH_INLINE vi vi_from_words(const uint8_t *p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
QUENCH_INLINE void vi_store_words(uint8_t *p, vi a) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(a));
}
QUENCH_INLINE void vi_store_block(uint8_t *p, const vi *a) {
    vi_store_bytes(p, a[0]);
    vi_store_bytes(p + 16, a[1]);
}

QUENCH_INLINE vf vf_from_halves(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
QUENCH_INLINE void vf_store_halves(uint8_t *p, vf a) {
    const __m512i sign = _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN));
    const __m512 quiet = _mm512_castsi512_ps(_mm512_or_si512(sign, _mm512_set1_epi32(0x7fc00000)));
    a = _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), quiet);
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
QUENCH_INLINE float half_at(const uint8_t *p) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(load16(p))));
}

QUENCH_INLINE vi vi_truncated(vf a) { return _mm512_cvttps_epi32(a); }
QUENCH_INLINE vi vi_down(vi a, int count) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(count)); }
QUENCH_INLINE vm vm_of_bits(uint32_t bits) { return (vm)bits; }

typedef __m512 vt;
QUENCH_INLINE vt vt_load(const float *p) { return _mm512_loadu_ps(p); }
QUENCH_INLINE vf vt_at(vt table, vi index) { return _mm512_permutexvar_ps(index, table); }

typedef __m512d vd;
QUENCH_INLINE vd vd_load(const double *p) { return _mm512_loadu_pd(p); }
QUENCH_INLINE void vd_store(double *p, vd a) { _mm512_storeu_pd(p, a); }
QUENCH_INLINE vd vd_from_floats(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
QUENCH_INLINE vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
QUENCH_INLINE vd vd_sub(vd a, vd b) { return _mm512_sub_pd(a, b); }
QUENCH_INLINE vd vd_mul(vd a, vd b) { return _mm512_mul_pd(a, b); }
