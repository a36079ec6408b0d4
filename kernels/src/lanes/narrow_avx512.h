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
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
QUENCH_INLINE float half_at(const uint8_t *p) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(load16(p))));
}

QUENCH_INLINE vi vi_truncated(vf a) { return _mm512_cvttps_epi32(a); }
QUENCH_INLINE vi vi_down(vi a, int count) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(count)); }
QUENCH_INLINE vm vm_of_bits(uint32_t bits) { return (vm)bits; }

typedef __m512 vtable;
QUENCH_INLINE vtable vtable_load(const float *p) { return _mm512_loadu_ps(p); }
QUENCH_INLINE vf vtable_at(vtable table, vi index) { return _mm512_permutexvar_ps(index, table); }

typedef __m512d v8d;
QUENCH_INLINE v8d v8d_load(const double *p) { return _mm512_loadu_pd(p); }
QUENCH_INLINE void v8d_store(double *p, v8d a) { _mm512_storeu_pd(p, a); }
QUENCH_INLINE v8d v8d_from_floats(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
QUENCH_INLINE v8d v8d_add(v8d a, v8d b) { return _mm512_add_pd(a, b); }
QUENCH_INLINE v8d v8d_sub(v8d a, v8d b) { return _mm512_sub_pd(a, b); }
QUENCH_INLINE v8d v8d_mul(v8d a, v8d b) { return _mm512_mul_pd(a, b); }
