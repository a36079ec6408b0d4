/* What the dot products of AVX2 and AVX-512 share: eight blocks at a time, whose sums meet in one vector of floats. */
#ifndef QUENCH_DOT_X86_H
#define QUENCH_DOT_X86_H

#include <immintrin.h>
#include <stdint.h>

#include "../dot.h"
#include "../lanes/vec.h"
#include "../numeric.h"

/* Loops over the eight blocks are unrolled: their constants stay in registers. */
#if defined(QUENCH_COMPACT)
#  define UNROLL_8
#elif defined(__clang__)
#  define UNROLL_8 _Pragma("clang loop unroll_count(8)")
#elif defined(__GNUC__)
#  define UNROLL_8 _Pragma("GCC unroll 8")
#else
#  define UNROLL_8
#endif

/* In place of the blocks that are missing behind the end of a row. */
static const uint8_t no_block[16] = {0};

/* The 16 bytes at `offset` of block i of n. */
QUENCH_INLINE __m128i header(const uint8_t *blocks, size_t size, size_t offset, size_t i, size_t n) {
    return _mm_loadu_si128((const void *)(i < n ? blocks + i * size + offset : no_block));
}

/* The lines of a block that is DOT_AHEAD bytes away; often behind the end of the rows, where nothing happens. */
QUENCH_INLINE void prefetch(const uint8_t *block, size_t size) {
    for (size_t line = 0; line < size; line += 64) {
        _mm_prefetch((const char *)((uintptr_t)block + DOT_AHEAD + line), _MM_HINT_T0);
    }
}

/* sums[i] = sum of the lanes of parts[i]. */
QUENCH_INLINE __m256i sums_of_8(const __m256i parts[8]) {
    __m256i pairs[4], fours[2];
    for (int i = 0; i < 4; i++) {
        pairs[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(parts[2 * i], parts[2 * i + 1]),
                                    _mm256_unpackhi_epi32(parts[2 * i], parts[2 * i + 1]));
    }
    for (int i = 0; i < 2; i++) {
        fours[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                    _mm256_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
    }
    return _mm256_add_epi32(_mm256_permute2x128_si256(fours[0], fours[1], 0x20),
                            _mm256_permute2x128_si256(fours[0], fours[1], 0x31));
}

/* The 16-bit float at `offset` of each of eight blocks. */
QUENCH_INLINE __m128i halves(const uint8_t *blocks, size_t size, size_t offset, size_t n) {
#define HALF(i) (i < n ? load16(blocks + i * size + offset) : 0)
    const __m128i even = _mm_insert_epi16(
        _mm_insert_epi16(_mm_insert_epi16(_mm_cvtsi32_si128(HALF(0)), HALF(2), 2), HALF(4), 4), HALF(6), 6);
    const __m128i odd = _mm_insert_epi16(
        _mm_insert_epi16(_mm_insert_epi16(_mm_cvtsi32_si128(HALF(1) << 16), HALF(3), 3), HALF(5), 5), HALF(7), 7);
#undef HALF
    return _mm_or_si128(even, odd);
}

QUENCH_INLINE __m256 value_of(__m128i scales, __m256 x_scales, __m256i sums) {
    return _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtph_ps(scales), x_scales), _mm256_cvtepi32_ps(sums));
}

/* In halves, as dot.h wants it. */
QUENCH_INLINE float row_value(__m256 sums) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

/* Sixteen bytes of codes as values: low nibbles, then high ones. */
QUENCH_INLINE __m256i nibbles(__m128i bytes) {
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(bytes), _mm_srli_epi16(bytes, 4), 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

QUENCH_INLINE __m256i iq4_values(__m128i bytes) {
    const __m128i table = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles(bytes));
}

/* Blocks of 32, compiled for each backend; they do not fill more than AVX2's vectors. */
dot_fn LANES(dot_q8_0), LANES(dot_q4_0), LANES(dot_q4_1), LANES(dot_q5_0), LANES(dot_q5_1), LANES(dot_iq4_nl);

#endif
