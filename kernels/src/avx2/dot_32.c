/* Dot products of blocks of 32. Compiled for AVX2 and for AVX-512. */
#include "../blocks.h"
#include "dot_x86.h"

/* The codes of a block with their sign. */
typedef __m256i codes_fn(const uint8_t *block);

QUENCH_INLINE __m128i load_16(const uint8_t *bytes) {
    return _mm_loadu_si128((const void *)bytes);
}

/* Bit i of four bytes at bit 4 of byte i. */
QUENCH_INLINE __m256i fifth_bits(const uint8_t *high) {
    const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i place = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_broadcastd_epi32(_mm_loadu_si32(high)), spread);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, place), place), _mm256_set1_epi8(16));
}

QUENCH_INLINE __m256i codes_q8_0(const uint8_t *bytes) {
    return _mm256_loadu_si256((const void *)((const struct block_q8_0 *)bytes)->codes);
}

QUENCH_INLINE __m256i codes_q4_0(const uint8_t *bytes) {
    return _mm256_sub_epi8(nibbles(load_16(((const struct block_q4_0 *)bytes)->codes)), _mm256_set1_epi8(8));
}

QUENCH_INLINE __m256i codes_q4_1(const uint8_t *bytes) {
    return nibbles(load_16(((const struct block_q4_1 *)bytes)->codes));
}

QUENCH_INLINE __m256i codes_q5_0(const uint8_t *bytes) {
    const struct block_q5_0 *block = (const struct block_q5_0 *)bytes;
    return _mm256_sub_epi8(_mm256_or_si256(nibbles(load_16(block->codes)), fifth_bits(block->high)), _mm256_set1_epi8(16));
}

QUENCH_INLINE __m256i codes_q5_1(const uint8_t *bytes) {
    const struct block_q5_1 *block = (const struct block_q5_1 *)bytes;
    return _mm256_or_si256(nibbles(load_16(block->codes)), fifth_bits(block->high));
}

QUENCH_INLINE __m256i codes_iq4_nl(const uint8_t *bytes) {
    return iq4_values(load_16(((const struct block_q4_0 *)bytes)->codes));
}

QUENCH_INLINE __m256 add_eight(__m256 total, codes_fn *codes, size_t size, int has_lows, const uint8_t *blocks, size_t n,
                               size_t first, const struct activations *x) {
    __m256i sums[8];
    uint16_t scales[8] = {0}, lows[8] = {0};
    for (size_t i = 0; i < 8; i++) {
        sums[i] = _mm256_setzero_si256();
    }
    for (size_t i = 0; i < 8 && i < n; i++) {
        const uint8_t *block = blocks + i * size;
        const __m256i own = codes(block), other = _mm256_loadu_si256((const void *)(x->codes + (first + i) * BLOCK));
        prefetch(block, size);
        /* The unsigned side takes the magnitudes, the signed one their signs; only -128 times 128 would not fit. */
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(own), _mm256_sign_epi8(other, own));
        sums[i] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        scales[i] = (uint16_t)(block[0] | block[1] << 8);
        lows[i] = has_lows ? (uint16_t)(block[2] | block[3] << 8) : 0;
    }
    const __m256 x_scales = _mm256_loadu_ps(x->scales + first);
    __m256 values = value_of(_mm_loadu_si128((const void *)scales), x_scales, sums_of_8(sums));
    if (has_lows) {
        const __m256 low = _mm256_cvtph_ps(_mm_loadu_si128((const void *)lows));
        values = _mm256_add_ps(values, _mm256_mul_ps(low, _mm256_loadu_ps(x->offsets + first)));
    }
    return _mm256_add_ps(total, values);
}

QUENCH_INLINE void dot_rows(codes_fn *codes, size_t size, int has_lows, const uint8_t *rows, size_t n_rows,
                            size_t n_blocks, const struct activations *x, float *out) {
    for (size_t row = 0; row < n_rows; row++, rows += n_blocks * size) {
        __m256 total = _mm256_setzero_ps();
        size_t i = 0;
        for (; i + 8 <= n_blocks; i += 8) {
            total = add_eight(total, codes, size, has_lows, rows + i * size, 8, i, x);
        }
        if (i < n_blocks) {
            total = add_eight(total, codes, size, has_lows, rows + i * size, n_blocks - i, i, x);
        }
        out[row] = row_value(total);
    }
}

#define DOT(type, layout, has_lows)                                                                                   \
    void LANES(dot_##type)(const uint8_t *rows, size_t n_rows, size_t n_blocks, const struct activations *x,          \
                           float *out) {                                                                              \
        dot_rows(codes_##type, sizeof(struct layout), has_lows, rows, n_rows, n_blocks, x, out);                      \
    }

DOT(q8_0, block_q8_0, 0)
DOT(q4_0, block_q4_0, 0)
DOT(q4_1, block_q4_1, 1)
DOT(q5_0, block_q5_0, 0)
DOT(q5_1, block_q5_1, 1)
DOT(iq4_nl, block_q4_0, 0)
