/* Dot products of super-blocks: 32 weights in a vector. */
#include "../blocks.h"
#include "dot_x86.h"

/* What a type's kernel finds of up to eight super-blocks; those that are missing count as zeros. */
struct eight {
    __m256i sums[8]; /* eight parts of each block sum */
    __m256i lows;    /* all low sums */
    __m128i scales, low_scales;
};

typedef void eight_fn(const uint8_t *blocks, size_t n, const int8_t *codes, const int16_t *sums16,
                      const int16_t *sums32, struct eight *out);

#define REPEAT(...) _mm256_broadcastsi128_si256(_mm_setr_epi8(__VA_ARGS__))

QUENCH_INLINE __m256i load(const void *bytes) {
    return _mm256_loadu_si256(bytes);
}

/* sum + codes * x * level: codes without sign, levels as words. */
QUENCH_INLINE __m256i add_products(__m256i sum, __m256i codes, const int8_t *x, __m256i levels) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, load(x)), levels));
}

/* Bits `first` to `first + bits - 1` of each byte, moved to bit `place`. */
QUENCH_INLINE __m256i bits_at(__m256i bytes, int bits, int first, int place) {
    const __m256i moved = first >= place ? _mm256_srli_epi16(bytes, first - place)
                                         : _mm256_slli_epi16(bytes, place - first);
    return _mm256_and_si256(moved, _mm256_set1_epi8((char)(((1 << bits) - 1) << place)));
}

/* The headers of two blocks, one in each half. */
QUENCH_INLINE __m256i headers(const uint8_t *blocks, size_t size, size_t offset, size_t first, size_t n) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(header(blocks, size, offset, first, n)),
                                   header(blocks, size, offset, first + 1, n), 1);
}

/* ---- groups of 32: Q4_K, Q5_K ---- */

/* Levels of eight blocks, in the order scales 0-3, lows 0-3, scales 4-7, lows 4-7; what the lows amount to; scales. */
QUENCH_INLINE void unpack_levels(const uint8_t *blocks, size_t size, size_t n, const int16_t *sums32,
                                 uint8_t levels[8][16], struct eight *out) {
    const __m256i low_bits = REPEAT(4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 12, 13, 14, 15);
    const __m256i shifts = _mm256_setr_epi32(0, 0, 0, 4, 0, 0, 0, 4);
    const __m256i low_mask = _mm256_set_epi64x(0x0f0f0f0f0f0f0f0f, 0x3f3f3f3f3f3f3f3f, 0x0f0f0f0f0f0f0f0f,
                                               0x3f3f3f3f3f3f3f3f);
    const __m256i high_bits = REPEAT(-1, -1, -1, -1, -1, -1, -1, -1, 4, 5, 6, 7, 8, 9, 10, 11);
    const __m256i lows = REPEAT(4, -1, 5, -1, 6, -1, 7, -1, 12, -1, 13, -1, 14, -1, 15, -1);
    __m256i product[4], pairs[2];
    for (size_t pair = 0; pair < 4; pair++) {
        const __m256i head = headers(blocks, size, 0, 2 * pair, n);
        const __m256i low = _mm256_srlv_epi32(_mm256_shuffle_epi8(head, low_bits), shifts);
        const __m256i high = _mm256_shuffle_epi8(_mm256_srli_epi32(head, 2), high_bits);
        const __m256i all = _mm256_or_si256(_mm256_and_si256(low, low_mask),
                                            _mm256_and_si256(high, _mm256_set1_epi8(0x30)));
        _mm256_store_si256((void *)levels[2 * pair], all);
        product[pair] = _mm256_madd_epi16(_mm256_shuffle_epi8(all, lows), load(sums32 + 16 * pair));
    }
    for (int i = 0; i < 2; i++) {
        pairs[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(product[2 * i], product[2 * i + 1]),
                                    _mm256_unpackhi_epi32(product[2 * i], product[2 * i + 1]));
    }
    out->lows = _mm256_permutevar8x32_epi32(
        _mm256_add_epi32(_mm256_unpacklo_epi64(pairs[0], pairs[1]), _mm256_unpackhi_epi64(pairs[0], pairs[1])),
        _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    out->scales = halves(blocks, size, 0, n);
    out->low_scales = halves(blocks, size, 2, n);
}

/* Every word is the level of that group. */
QUENCH_INLINE __m256i one_level(__m256i levels, int group) {
    return _mm256_shuffle_epi8(levels, _mm256_set1_epi16((short)(0x8000 | (group < 4 ? group : group + 4))));
}

QUENCH_INLINE void eight_q4_k(const uint8_t *blocks, size_t n, const int8_t *x, const int16_t *sums16,
                              const int16_t *sums32, struct eight *out) {
    _Alignas(32) uint8_t levels[8][16];
    (void)sums16;
    unpack_levels(blocks, sizeof(struct block_q4_k), n, sums32, levels, out);
    for (size_t i = 0; i < 8 && i < n; i++, x += SUPER_BLOCK) {
        const struct block_q4_k *block = (const struct block_q4_k *)blocks + i;
        const __m256i level = _mm256_broadcastsi128_si256(_mm_load_si128((const void *)levels[i]));
        __m256i sum = _mm256_setzero_si256();
        prefetch(block->scale, sizeof *block);
        for (int group = 0; group < 8; group++) {
            const __m256i codes = bits_at(load(block->codes + group / 2 * 32), 4, group % 2 * 4, 0);
            sum = add_products(sum, codes, x + 32 * group, one_level(level, group));
        }
        out->sums[i] = sum;
    }
}

QUENCH_INLINE void eight_q5_k(const uint8_t *blocks, size_t n, const int8_t *x, const int16_t *sums16,
                              const int16_t *sums32, struct eight *out) {
    _Alignas(32) uint8_t levels[8][16];
    (void)sums16;
    unpack_levels(blocks, sizeof(struct block_q5_k), n, sums32, levels, out);
    for (size_t i = 0; i < 8 && i < n; i++, x += SUPER_BLOCK) {
        const struct block_q5_k *block = (const struct block_q5_k *)blocks + i;
        const __m256i level = _mm256_broadcastsi128_si256(_mm_load_si128((const void *)levels[i]));
        const __m256i high = load(block->high);
        __m256i sum = _mm256_setzero_si256();
        prefetch(block->scale, sizeof *block);
        for (int group = 0; group < 8; group++) {
            const __m256i codes = _mm256_or_si256(bits_at(load(block->codes + group / 2 * 32), 4, group % 2 * 4, 0),
                                                  bits_at(high, 1, group, 4));
            sum = add_products(sum, codes, x + 32 * group, one_level(level, group));
        }
        out->sums[i] = sum;
    }
}

/* ---- groups of 16: Q2_K, Q3_K, Q6_K ---- */

/* Sixteen words of levels as two vectors: groups 0-7 in both halves, groups 8-15 in both halves. */
struct sixteen_levels {
    __m256i eights[2];
};

QUENCH_INLINE struct sixteen_levels spread(__m256i levels) {
    return (struct sixteen_levels){
        {_mm256_permute2x128_si256(levels, levels, 0x00), _mm256_permute2x128_si256(levels, levels, 0x11)}};
}

/* Every word of a half is the level of group 2 * pair, or of the next one. */
QUENCH_INLINE __m256i two_levels(struct sixteen_levels levels, int pair) {
    const int byte = pair % 4 * 4;
    const __m128i first = _mm_set1_epi16((short)((byte + 1) << 8 | byte));
    return _mm256_shuffle_epi8(levels.eights[pair / 4],
                               _mm256_inserti128_si256(_mm256_castsi128_si256(first),
                                                       _mm_add_epi8(first, _mm_set1_epi8(2)), 1));
}

/* Codes are stored as code + half: what that adds, to begin the sum with. */
QUENCH_INLINE __m256i centred(__m256i levels, short half, const int16_t *sums16) {
    return _mm256_madd_epi16(_mm256_mullo_epi16(levels, _mm256_set1_epi16((short)-half)), load(sums16));
}

QUENCH_INLINE void eight_q2_k(const uint8_t *blocks, size_t n, const int8_t *x, const int16_t *sums16,
                              const int16_t *sums32, struct eight *out) {
    const size_t size = sizeof(struct block_q2_k);
    __m256i lows[8];
    (void)sums32;
    for (size_t i = 0; i < 8 && i < n; i++, x += SUPER_BLOCK, sums16 += 16) {
        const struct block_q2_k *block = (const struct block_q2_k *)blocks + i;
        const __m256i both = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)block->levels));
        const struct sixteen_levels levels = spread(_mm256_and_si256(both, _mm256_set1_epi16(15)));
        __m256i sum = _mm256_setzero_si256();
        prefetch(block->levels, sizeof *block);
        lows[i] = _mm256_madd_epi16(_mm256_srli_epi16(both, 4), load(sums16));
        for (int pair = 0; pair < 8; pair++) {
            const __m256i codes = bits_at(load(block->codes + pair / 4 * 32), 2, pair % 4 * 2, 0);
            sum = add_products(sum, codes, x + 32 * pair, two_levels(levels, pair));
        }
        out->sums[i] = sum;
    }
    for (size_t i = n; i < 8; i++) {
        lows[i] = _mm256_setzero_si256();
    }
    out->lows = sums_of_8(lows);
    out->scales = halves(blocks, size, size - 4, n);
    out->low_scales = halves(blocks, size, size - 2, n);
}

/* Levels 0-7 are the low four bits of eight bytes, 8-15 the high ones; four more bytes have their two upper bits. */
QUENCH_INLINE __m256i unpack_levels_of_two_q3_k(__m256i head) {
    const __m256i low_bits = REPEAT(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9);
    const __m256i high_bits = REPEAT(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13);
    const __m256i low = _mm256_srlv_epi64(_mm256_shuffle_epi8(head, low_bits), _mm256_set_epi64x(4, 0, 4, 0));
    const __m256i high = _mm256_srlv_epi32(_mm256_shuffle_epi8(head, high_bits),
                                           _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    const __m256i all = _mm256_or_si256(bits_at(low, 4, 0, 0), bits_at(high, 2, 0, 4));
    return _mm256_sub_epi8(all, _mm256_set1_epi8(32));
}

QUENCH_INLINE void eight_q3_k(const uint8_t *blocks, size_t n, const int8_t *x, const int16_t *sums16,
                              const int16_t *sums32, struct eight *out) {
    const size_t size = sizeof(struct block_q3_k);
    _Alignas(32) int8_t stored[8][16];
    (void)sums32;
    for (size_t pair = 0; pair < 4; pair++) {
        const __m256i head = headers(blocks, size, size - 16, 2 * pair, n);
        _mm256_store_si256((void *)stored[2 * pair], unpack_levels_of_two_q3_k(head));
    }
    out->scales = halves(blocks, size, size - 2, n);
    for (size_t i = 0; i < 8 && i < n; i++, x += SUPER_BLOCK, sums16 += 16) {
        const struct block_q3_k *block = (const struct block_q3_k *)blocks + i;
        const __m256i words = _mm256_cvtepi8_epi16(_mm_load_si128((const void *)stored[i]));
        const struct sixteen_levels levels = spread(words);
        const __m256i high = load(block->high);
        __m256i sum = centred(words, 4, sums16);
        prefetch(block->high, sizeof *block);
        for (int pair = 0; pair < 8; pair++) {
            const __m256i codes = _mm256_or_si256(bits_at(load(block->codes + pair / 4 * 32), 2, pair % 4 * 2, 0),
                                                  bits_at(high, 1, pair, 2));
            sum = add_products(sum, codes, x + 32 * pair, two_levels(levels, pair));
        }
        out->sums[i] = sum;
    }
}

QUENCH_INLINE void eight_q6_k(const uint8_t *blocks, size_t n, const int8_t *x, const int16_t *sums16,
                              const int16_t *sums32, struct eight *out) {
    const size_t size = sizeof(struct block_q6_k);
    (void)sums32;
    for (size_t i = 0; i < 8 && i < n; i++, x += SUPER_BLOCK, sums16 += 16) {
        const struct block_q6_k *block = (const struct block_q6_k *)blocks + i;
        const __m256i words = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)block->levels));
        const struct sixteen_levels levels = spread(words);
        __m256i sum = centred(words, 32, sums16);
        prefetch(block->codes, sizeof *block);
        for (int pair = 0; pair < 8; pair++) {
            const __m256i low = bits_at(load(block->codes + pair / 4 * 64 + pair % 2 * 32), 4, pair % 4 / 2 * 4, 0);
            const __m256i high = bits_at(load(block->high + pair / 4 * 32), 2, pair % 4 * 2, 4);
            sum = add_products(sum, _mm256_or_si256(low, high), x + 32 * pair, two_levels(levels, pair));
        }
        out->sums[i] = sum;
    }
    out->scales = halves(blocks, size, size - 2, n);
}

/* ---- IQ4_XS: signed values from a table, groups of 32 ---- */

QUENCH_INLINE void eight_iq4_xs(const uint8_t *blocks, size_t n, const int8_t *x, const int16_t *sums16,
                                const int16_t *sums32, struct eight *out) {
    const size_t size = sizeof(struct block_iq4_xs);
    const __m128i low_bytes = _mm_setr_epi8(-1, 4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7);
    const __m128i low_shifts = _mm_setr_epi16(1 << 4, 1, 1 << 4, 1, 1 << 4, 1, 1 << 4, 1);
    const __m128i high_bytes = _mm_set1_epi16(0x0302);
    const __m128i high_shifts = _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1);
    (void)sums16, (void)sums32;
    for (size_t i = 0; i < 8 && i < n; i++, x += SUPER_BLOCK) {
        const struct block_iq4_xs *block = (const struct block_iq4_xs *)blocks + i;
        const __m128i head = _mm_loadu_si128((const void *)block->scale);
        /* AVX2 shifts words by one count only; a product moves the wanted bits to the top instead. */
        const __m128i low = _mm_srli_epi16(_mm_mullo_epi16(_mm_shuffle_epi8(head, low_bytes), low_shifts), 12);
        const __m128i high = _mm_srli_epi16(_mm_mullo_epi16(_mm_shuffle_epi8(head, high_bytes), high_shifts), 14);
        const __m128i words = _mm_sub_epi16(_mm_or_si128(low, _mm_slli_epi16(high, 4)), _mm_set1_epi16(32));
        const __m256i levels = _mm256_broadcastsi128_si256(words);
        __m256i sum = _mm256_setzero_si256();
        prefetch(block->scale, sizeof *block);
        for (int group = 0; group < 8; group++) {
            const __m256i values = iq4_values(_mm_loadu_si128((const void *)(block->codes + 16 * group)));
            const __m256i pick = _mm256_set1_epi16((short)((2 * group + 1) << 8 | 2 * group));
            /* The unsigned side takes the magnitudes, the signed one their signs. */
            const __m256i product =
                _mm256_maddubs_epi16(_mm256_abs_epi8(values), _mm256_sign_epi8(load(x + 32 * group), values));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(product, _mm256_shuffle_epi8(levels, pick)));
        }
        out->sums[i] = sum;
    }
    out->scales = halves(blocks, size, 0, n);
}

/* ---- rows ---- */

QUENCH_INLINE __m256i no_sum(void) { return _mm256_setzero_si256(); }
QUENCH_INLINE __m256i sums_of(const __m256i parts[8]) { return sums_of_8(parts); }

#include "dot_rows.h"

const struct dots quench_avx2_dots = {
    .types =
        {
            [QUENCH_Q8_0] = LANES(dot_q8_0),
            [QUENCH_Q6_K] = dot_q6_k,
            [QUENCH_Q5_K] = dot_q5_k,
            [QUENCH_Q5_1] = LANES(dot_q5_1),
            [QUENCH_Q5_0] = LANES(dot_q5_0),
            [QUENCH_Q4_K] = dot_q4_k,
            [QUENCH_Q4_1] = LANES(dot_q4_1),
            [QUENCH_Q4_0] = LANES(dot_q4_0),
            [QUENCH_IQ4_XS] = dot_iq4_xs,
            [QUENCH_IQ4_NL] = LANES(dot_iq4_nl),
            [QUENCH_Q3_K] = dot_q3_k,
            [QUENCH_Q2_K] = dot_q2_k,
        },
};
