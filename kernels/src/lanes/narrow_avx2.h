/* narrow.h for AVX2 with F16C. */
QUENCH_INLINE __m128i eight_bytes(const uint8_t *p) { return _mm_loadl_epi64((const __m128i *)(const void *)p); }
QUENCH_INLINE vi vi_from_bytes(const uint8_t *p) { return _mm256_cvtepu8_epi32(eight_bytes(p)); }
QUENCH_INLINE vi vi_from_signed_bytes(const uint8_t *p) { return _mm256_cvtepi8_epi32(eight_bytes(p)); }
QUENCH_INLINE vi vi_from_words(const uint8_t *p) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
QUENCH_INLINE void vi_store_words(uint8_t *p, vi a) {
    const __m256i first = _mm256_set1_epi64x(0x0d0c090805040100);
    const __m256i words = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(a, first), 0x08);
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(words));
}
QUENCH_INLINE void vi_store_block(uint8_t *p, const vi *a) {
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a[0], a[1]), _mm256_packs_epi32(a[2], a[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_permutevar8x32_epi32(bytes, order));
}

QUENCH_INLINE vf vf_from_halves(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
QUENCH_INLINE void vf_store_halves(uint8_t *p, vf a) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
QUENCH_INLINE float half_at(const uint8_t *p) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(load16(p))));
}

QUENCH_INLINE vi vi_truncated(vf a) { return _mm256_cvttps_epi32(a); }
QUENCH_INLINE vi vi_down(vi a, int count) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(count)); }
QUENCH_INLINE vm vm_of_bits(uint32_t bits) {
    const __m256i place = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32((int32_t)bits), place);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, place));
}

typedef struct {
    __m256 low, high;
} vtable;
QUENCH_INLINE vtable vtable_load(const float *p) {
    const vtable table = {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
    return table;
}
QUENCH_INLINE vf vtable_at(vtable table, vi index) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, index), _mm256_permutevar8x32_ps(table.high, index),
                            _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}

typedef struct {
    __m256d low, high;
} v8d;
QUENCH_INLINE v8d v8d_load(const double *p) {
    const v8d a = {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)};
    return a;
}
QUENCH_INLINE void v8d_store(double *p, v8d a) {
    _mm256_storeu_pd(p, a.low);
    _mm256_storeu_pd(p + 4, a.high);
}
QUENCH_INLINE v8d v8d_from_floats(const float *p) {
    const v8d a = {_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4))};
    return a;
}
QUENCH_INLINE v8d v8d_add(v8d a, v8d b) {
    const v8d c = {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)};
    return c;
}
QUENCH_INLINE v8d v8d_sub(v8d a, v8d b) {
    const v8d c = {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)};
    return c;
}
QUENCH_INLINE v8d v8d_mul(v8d a, v8d b) {
    const v8d c = {_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)};
    return c;
}
