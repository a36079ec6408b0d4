/* Dot products of blocks of 32. Compiled for AVX2 and for AVX-512. */
#include "../blocks.h"
#include "dot_x86.h"

/* The codes of a block: signed, or without sign as stored. */
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
    return nibbles(load_16(((const struct block_q4_0 *)bytes)->codes));
}

QUENCH_INLINE __m256i codes_q4_1(const uint8_t *bytes) {
    return nibbles(load_16(((const struct block_q4_1 *)bytes)->codes));
}

QUENCH_INLINE __m256i codes_q5_0(const uint8_t *bytes) {
    const struct block_q5_0 *block = (const struct block_q5_0 *)bytes;
    return _mm256_or_si256(nibbles(load_16(block->codes)), fifth_bits(block->high));
}

QUENCH_INLINE __m256i codes_q5_1(const uint8_t *bytes) {
    const struct block_q5_1 *block = (const struct block_q5_1 *)bytes;
    return _mm256_or_si256(nibbles(load_16(block->codes)), fifth_bits(block->high));
}

QUENCH_INLINE __m256i codes_iq4_nl(const uint8_t *bytes) {
    return iq4_values(load_16(((const struct block_q4_0 *)bytes)->codes));
}

enum { SIGNED_CODES = -1 };

/* What is to be known of a type beside its codes. */
struct format {
    size_t size;
    int half; /* stored codes are code + half; SIGNED_CODES for those with a sign */
    int has_lows;
};

QUENCH_INLINE __m256 add_eight(__m256 total, codes_fn *codes, struct format format, const uint8_t *blocks, size_t n,
                               size_t first, const struct activations *x) {
    __m256i parts[8];
    prefetch(blocks, 8 * format.size);
    UNROLL_8
    for (size_t i = 0; i < 8; i++) {
        if (i >= n) {
            parts[i] = _mm256_setzero_si256();
            continue;
        }
        __m256i own = codes(blocks + i * format.size);
        __m256i other = _mm256_loadu_si256((const void *)(x->codes + (first + i) * BLOCK));
        if (format.half == SIGNED_CODES) {
            /* The unsigned side takes the magnitudes, the signed one their signs: at most 128 * 127 twice. */
            other = _mm256_sign_epi8(other, own);
            own = _mm256_abs_epi8(own);
        }
        parts[i] = _mm256_madd_epi16(_mm256_maddubs_epi16(own, other), _mm256_set1_epi16(1));
    }
    __m256i sums = sums_of_8(parts);
    if (format.half > 0) {
        const __m256i x_sums = _mm256_cvtepi16_epi32(_mm_loadu_si128((const void *)(x->sums32 + first)));
        sums = _mm256_sub_epi32(sums, _mm256_mullo_epi32(x_sums, _mm256_set1_epi32(format.half)));
    }
    __m256 values = value_of(halves(blocks, format.size, 0, n), _mm256_loadu_ps(x->scales + first), sums);
    if (format.has_lows) {
        const __m256 lows = _mm256_cvtph_ps(halves(blocks, format.size, 2, n));
        values = _mm256_add_ps(values, _mm256_mul_ps(lows, _mm256_loadu_ps(x->offsets + first)));
    }
    return _mm256_add_ps(total, values);
}

QUENCH_INLINE void dot_rows(codes_fn *codes, struct format format, const uint8_t *rows, size_t n_rows, size_t n_blocks,
                            const struct activations *x, float *out) {
    for (size_t row = 0; row < n_rows; row++, rows += n_blocks * format.size) {
        __m256 total = _mm256_setzero_ps();
        size_t i = 0;
        for (; i + 8 <= n_blocks; i += 8) {
            total = add_eight(total, codes, format, rows + i * format.size, 8, i, x);
        }
        if (i < n_blocks) {
            total = add_eight(total, codes, format, rows + i * format.size, n_blocks - i, i, x);
        }
        out[row] = row_value(total);
    }
}

#define DOT(type, layout, half, has_lows)                                                                             \
    void LANES(dot_##type)(const uint8_t *rows, size_t n_rows, size_t n_blocks, const struct activations *x,          \
                           float *out) {                                                                              \
        const struct format format = {sizeof(struct layout), half, has_lows};                                         \
        dot_rows(codes_##type, format, rows, n_rows, n_blocks, x, out);                                               \
    }

DOT(q8_0, block_q8_0, SIGNED_CODES, 0)
DOT(q4_0, block_q4_0, 8, 0)
DOT(q4_1, block_q4_1, 0, 1)
DOT(q5_0, block_q5_0, 16, 0)
DOT(q5_1, block_q5_1, 0, 1)
DOT(iq4_nl, block_q4_0, SIGNED_CODES, 0)
