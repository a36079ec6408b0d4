/* Dot products of super-blocks: 64 weights in a vector. Compiled twice, with and without VNNI. */
#include "../avx2/dot_x86.h"
#include "../blocks.h"

/* What a type's kernel finds of up to eight super-blocks; those that are missing count as zeros. */
struct eight {
    __m512i sums[8]; /* sixteen parts of each block sum */
    __m256i lows;    /* all low sums */
    __m128i scales, low_scales;
};

typedef void eight_fn(const uint8_t *blocks, size_t n, const int8_t *codes, const int16_t *sums16,
                      const int16_t *sums32, struct eight *out);

#define SPLIT(low, high) _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1)
#define REPEAT(...) _mm512_broadcast_i32x4(_mm_setr_epi8(__VA_ARGS__))
/* One value for each quarter. */
#define QUARTERS(set, a, b, c, d)                                                                                     \
    _mm512_inserti32x4(                                                                                               \
        _mm512_inserti32x4(_mm512_inserti32x4(_mm512_castsi128_si512(set(a)), set(b), 1), set(c), 2), set(d), 3)

/* sum += a pair of words times a pair of words. */
QUENCH_INLINE __m512i add_pairs(__m512i sum, __m512i a, __m512i b) {
#if defined(QUENCH_VNNI)
    return _mm512_dpwssd_epi32(sum, a, b);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}

/* 32 bytes twice; the second copy is shifted by more bits. */
QUENCH_INLINE __m512i twice(const uint8_t *bytes, int shift, int second_shift) {
    const __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)bytes));
    return _mm512_srlv_epi64(both, SPLIT(_mm256_set1_epi64x(shift), _mm256_set1_epi64x(second_shift)));
}

/* The same, rotated: bits may move up as well. */
QUENCH_INLINE __m512i twice_rotated(const uint8_t *bytes, int right, int second_right) {
    const __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)bytes));
    return _mm512_rorv_epi64(both, SPLIT(_mm256_set1_epi64x(right & 63), _mm256_set1_epi64x(second_right & 63)));
}

/* Bits of `high` where the mask has ones, of `low` elsewhere. */
QUENCH_INLINE __m512i merge(__m512i mask, __m512i high, __m512i low) {
    return _mm512_ternarylogic_epi32(mask, high, low, 0xca);
}

/* sums_of_8 for vectors of sixteen. */
QUENCH_INLINE __m256i sums_of_8_wide(const __m512i parts[8]) {
    __m512i pairs[4], fours[2];
    for (int i = 0; i < 4; i++) {
        pairs[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(parts[2 * i], parts[2 * i + 1]),
                                    _mm512_unpackhi_epi32(parts[2 * i], parts[2 * i + 1]));
    }
    for (int i = 0; i < 2; i++) {
        fours[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                    _mm512_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
    }
    __m512i eights = _mm512_add_epi32(_mm512_shuffle_i64x2(fours[0], fours[1], 0x44),
                                      _mm512_shuffle_i64x2(fours[0], fours[1], 0xee));
    eights = _mm512_add_epi32(eights, _mm512_shuffle_i64x2(eights, eights, 0xb1));
    return _mm512_castsi512_si256(_mm512_shuffle_i64x2(eights, eights, 0x08));
}

/* The headers of four blocks, one in each quarter. */
QUENCH_INLINE __m512i headers(const uint8_t *blocks, size_t size, size_t offset, size_t first, size_t n) {
    __m512i all = _mm512_castsi128_si512(header(blocks, size, offset, first, n));
    all = _mm512_inserti32x4(all, header(blocks, size, offset, first + 1, n), 1);
    all = _mm512_inserti32x4(all, header(blocks, size, offset, first + 2, n), 2);
    return _mm512_inserti32x4(all, header(blocks, size, offset, first + 3, n), 3);
}

/* Word `word` of each of eight headers. */
QUENCH_INLINE __m128i words_of(__m512i a, int word, __m512i b) {
    const __m128i index = _mm_add_epi16(_mm_setr_epi16(0, 8, 16, 24, 32, 40, 48, 56), _mm_set1_epi16((short)word));
    return _mm512_castsi512_si128(_mm512_permutex2var_epi16(a, _mm512_castsi128_si512(index), b));
}

/* ---- groups of 32: Q4_K, Q5_K ---- */

/* Levels of eight blocks, in the order scales 0-3, lows 0-3, scales 4-7, lows 4-7; what the lows amount to; scales. */
QUENCH_INLINE void unpack_levels(const uint8_t *blocks, size_t size, size_t n, const int16_t *sums32,
                                 uint8_t levels[8][16], struct eight *out) {
    const __m512i low_bits = REPEAT(4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 12, 13, 14, 15);
    const __m512i shifts = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 0, 4));
    const __m512i low_mask = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0f0f0f0f0f0f0f0f, 0x3f3f3f3f3f3f3f3f));
    const __m512i high_bits = REPEAT(-1, -1, -1, -1, -1, -1, -1, -1, 4, 5, 6, 7, 8, 9, 10, 11);
    const __m512i lows = REPEAT(4, -1, 5, -1, 6, -1, 7, -1, 12, -1, 13, -1, 14, -1, 15, -1);
    __m512i head[2], product[2];
    for (size_t half = 0; half < 2; half++) {
        head[half] = headers(blocks, size, 0, 4 * half, n);
        const __m512i low = _mm512_srlv_epi32(_mm512_shuffle_epi8(head[half], low_bits), shifts);
        const __m512i high = _mm512_shuffle_epi8(_mm512_srli_epi32(head[half], 2), high_bits);
        const __m512i all = _mm512_or_si512(_mm512_and_si512(low, low_mask),
                                            _mm512_and_si512(high, _mm512_set1_epi8(0x30)));
        _mm512_store_si512(levels + 4 * half, all);
        product[half] = _mm512_madd_epi16(_mm512_shuffle_epi8(all, lows), _mm512_loadu_si512(sums32 + 32 * half));
    }
    __m512i pairs = _mm512_add_epi32(_mm512_unpacklo_epi32(product[0], product[1]),
                                     _mm512_unpackhi_epi32(product[0], product[1]));
    pairs = _mm512_add_epi32(pairs, _mm512_shuffle_epi32(pairs, _MM_PERM_BADC));
    out->lows = _mm512_castsi512_si256(
        _mm512_permutexvar_epi32(_mm512_castsi256_si512(_mm256_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13)), pairs));
    out->scales = words_of(head[0], 0, head[1]);
    out->low_scales = words_of(head[0], 1, head[1]);
}

/* Each word of the lower half is the level of group 2 * pair, of the upper half that of the next one. */
QUENCH_INLINE __m512i two_levels(__m512i levels, int pair) {
    const int byte = pair < 2 ? 2 * pair : 2 * pair + 4;
    return _mm512_shuffle_epi8(levels, SPLIT(_mm256_set1_epi16((short)(0x8000 | byte)),
                                             _mm256_set1_epi16((short)(0x8000 | (byte + 1)))));
}

QUENCH_INLINE void eight_q4_k(const uint8_t *blocks, size_t n, const int8_t *codes, const int16_t *sums16,
                              const int16_t *sums32, struct eight *out) {
    _Alignas(64) uint8_t levels[8][16];
    const __m512i low_4 = _mm512_set1_epi8(15);
    (void)sums16;
    unpack_levels(blocks, sizeof(struct block_q4_k), n, sums32, levels, out);
    UNROLL_8
    for (size_t i = 0; i < 8 && i < n; i++, codes += SUPER_BLOCK) {
        const struct block_q4_k *block = (const struct block_q4_k *)blocks + i;
        const __m512i level = _mm512_broadcast_i32x4(_mm_load_si128((const void *)levels[i]));
        __m512i sum = _mm512_setzero_si512();
        prefetch(block->scale, sizeof *block);
        for (int pair = 0; pair < 4; pair++) {
            const __m512i own = _mm512_and_si512(twice(block->codes + 32 * pair, 0, 4), low_4);
            const __m512i product = _mm512_maddubs_epi16(own, _mm512_loadu_si512(codes + 64 * pair));
            sum = add_pairs(sum, product, two_levels(level, pair));
        }
        out->sums[i] = sum;
    }
}

QUENCH_INLINE void eight_q5_k(const uint8_t *blocks, size_t n, const int8_t *codes, const int16_t *sums16,
                              const int16_t *sums32, struct eight *out) {
    _Alignas(64) uint8_t levels[8][16];
    const __m512i low_4 = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16);
    (void)sums16;
    unpack_levels(blocks, sizeof(struct block_q5_k), n, sums32, levels, out);
    UNROLL_8
    for (size_t i = 0; i < 8 && i < n; i++, codes += SUPER_BLOCK) {
        const struct block_q5_k *block = (const struct block_q5_k *)blocks + i;
        const __m512i level = _mm512_broadcast_i32x4(_mm_load_si128((const void *)levels[i]));
        __m512i sum = _mm512_setzero_si512();
        prefetch(block->scale, sizeof *block);
        for (int pair = 0; pair < 4; pair++) {
            const __m512i low = _mm512_and_si512(twice(block->codes + 32 * pair, 0, 4), low_4);
            const __m512i own = merge(fifth, twice_rotated(block->high, 2 * pair - 4, 2 * pair - 3), low);
            const __m512i product = _mm512_maddubs_epi16(own, _mm512_loadu_si512(codes + 64 * pair));
            sum = add_pairs(sum, product, two_levels(level, pair));
        }
        out->sums[i] = sum;
    }
}

/* ---- groups of 16: Q2_K, Q3_K, Q6_K ---- */

/* Sixteen words of levels; in the result those of groups 4 * part to 4 * part + 3, one in each quarter. */
QUENCH_INLINE __m512i four_levels(__m512i levels, int part) {
    return _mm512_permutexvar_epi16(
        _mm512_add_epi16(QUARTERS(_mm_set1_epi16, 0, 1, 2, 3), _mm512_set1_epi16((short)(4 * part))), levels);
}

/* Codes are stored as code + half: what that adds, to begin the sum with. */
QUENCH_INLINE __m512i centred(__m256i levels, short half, const int16_t *sums16) {
    const __m256i scaled = _mm256_mullo_epi16(levels, _mm256_set1_epi16((short)-half));
    return _mm512_zextsi256_si512(_mm256_madd_epi16(scaled, _mm256_loadu_si256((const void *)sums16)));
}

QUENCH_INLINE void eight_q2_k(const uint8_t *blocks, size_t n, const int8_t *codes, const int16_t *sums16,
                              const int16_t *sums32, struct eight *out) {
    const size_t size = sizeof(struct block_q2_k);
    const __m512i low_2 = _mm512_set1_epi8(3);
    __m256i lows[8];
    (void)sums32;
    UNROLL_8
    for (size_t i = 0; i < 8 && i < n; i++, codes += SUPER_BLOCK, sums16 += 16) {
        const struct block_q2_k *block = (const struct block_q2_k *)blocks + i;
        const __m256i both = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)block->levels));
        const __m512i levels = _mm512_castsi256_si512(_mm256_and_si256(both, _mm256_set1_epi16(15)));
        lows[i] = _mm256_madd_epi16(_mm256_srli_epi16(both, 4), _mm256_loadu_si256((const void *)sums16));
        __m512i sum = _mm512_setzero_si512();
        prefetch(block->levels, sizeof *block);
        for (int part = 0; part < 4; part++) {
            const __m512i own = _mm512_and_si512(
                twice(block->codes + part / 2 * 32, part % 2 * 4, part % 2 * 4 + 2), low_2);
            const __m512i product = _mm512_maddubs_epi16(own, _mm512_loadu_si512(codes + 64 * part));
            sum = add_pairs(sum, product, four_levels(levels, part));
        }
        out->sums[i] = sum;
    }
    for (size_t i = n; i < 8; i++) {
        lows[i] = _mm256_setzero_si256();
    }
    const __m512i first = headers(blocks, size, size - 16, 0, n), second = headers(blocks, size, size - 16, 4, n);
    out->lows = sums_of_8(lows);
    out->scales = words_of(first, 6, second);
    out->low_scales = words_of(first, 7, second);
}

/* Levels 0-7 are the low four bits of eight bytes, 8-15 the high ones; four more bytes have their two upper bits. */
QUENCH_INLINE __m512i unpack_levels_of_four_q3_k(__m512i head) {
    const __m512i low_bits = REPEAT(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9);
    const __m512i high_bits = REPEAT(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13);
    const __m512i low = _mm512_srlv_epi64(_mm512_shuffle_epi8(head, low_bits),
                                          _mm512_broadcast_i32x4(_mm_set_epi64x(4, 0)));
    const __m512i high = _mm512_rorv_epi32(_mm512_shuffle_epi8(head, high_bits),
                                           _mm512_broadcast_i32x4(_mm_setr_epi32(28, 30, 0, 2)));
    const __m512i all = merge(_mm512_set1_epi8(0x30), high, _mm512_and_si512(low, _mm512_set1_epi8(15)));
    return _mm512_sub_epi8(all, _mm512_set1_epi8(32));
}

QUENCH_INLINE void eight_q3_k(const uint8_t *blocks, size_t n, const int8_t *codes, const int16_t *sums16,
                              const int16_t *sums32, struct eight *out) {
    const size_t size = sizeof(struct block_q3_k);
    const __m512i low_2 = _mm512_set1_epi8(3), third = _mm512_set1_epi8(4);
    _Alignas(64) int8_t stored[8][16];
    (void)sums32;
    const __m512i first = headers(blocks, size, size - 16, 0, n), second = headers(blocks, size, size - 16, 4, n);
    _mm512_store_si512(stored, unpack_levels_of_four_q3_k(first));
    _mm512_store_si512(stored + 4, unpack_levels_of_four_q3_k(second));
    out->scales = words_of(first, 7, second);
    UNROLL_8
    for (size_t i = 0; i < 8 && i < n; i++, codes += SUPER_BLOCK, sums16 += 16) {
        const struct block_q3_k *block = (const struct block_q3_k *)blocks + i;
        const __m256i levels = _mm256_cvtepi8_epi16(_mm_load_si128((const void *)stored[i]));
        __m512i sum = centred(levels, 4, sums16);
        prefetch(block->high, sizeof *block);
        for (int part = 0; part < 4; part++) {
            const __m512i low = _mm512_and_si512(
                twice(block->codes + part / 2 * 32, part % 2 * 4, part % 2 * 4 + 2), low_2);
            const __m512i own = merge(third, twice_rotated(block->high, 2 * part - 2, 2 * part - 1), low);
            const __m512i product = _mm512_maddubs_epi16(own, _mm512_loadu_si512(codes + 64 * part));
            sum = add_pairs(sum, product, four_levels(_mm512_castsi256_si512(levels), part));
        }
        out->sums[i] = sum;
    }
}

QUENCH_INLINE void eight_q6_k(const uint8_t *blocks, size_t n, const int8_t *codes, const int16_t *sums16,
                              const int16_t *sums32, struct eight *out) {
    const size_t size = sizeof(struct block_q6_k);
    const __m512i low_4 = _mm512_set1_epi8(15), upper_2 = _mm512_set1_epi8(0x30);
    (void)sums32;
    UNROLL_8
    for (size_t i = 0; i < 8 && i < n; i++, codes += SUPER_BLOCK, sums16 += 16) {
        const struct block_q6_k *block = (const struct block_q6_k *)blocks + i;
        const __m256i levels = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)block->levels));
        __m512i sum = centred(levels, 32, sums16);
        prefetch(block->codes, sizeof *block);
        for (int part = 0; part < 4; part++) {
            const __m512i bytes = _mm512_loadu_si512(block->codes + part / 2 * 64);
            const __m512i low = _mm512_and_si512(part % 2 ? _mm512_srli_epi16(bytes, 4) : bytes, low_4);
            const int shift = part % 2 * 4 - 4;
            const __m512i own = merge(upper_2, twice_rotated(block->high + part / 2 * 32, shift, shift + 2), low);
            const __m512i product = _mm512_maddubs_epi16(own, _mm512_loadu_si512(codes + 64 * part));
            sum = add_pairs(sum, product, four_levels(_mm512_castsi256_si512(levels), part));
        }
        out->sums[i] = sum;
    }
    out->scales = words_of(headers(blocks, size, size - 16, 0, n), 7, headers(blocks, size, size - 16, 4, n));
}

/* ---- IQ4_XS: signed values from a table, groups of 32 ---- */

QUENCH_INLINE void eight_iq4_xs(const uint8_t *blocks, size_t n, const int8_t *codes, const int16_t *sums16,
                                const int16_t *sums32, struct eight *out) {
    const size_t size = sizeof(struct block_iq4_xs);
    const __m512i table = REPEAT(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    const __m512i spread = _mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3);
    const __m512i nibble = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    const __m512i low_4 = _mm512_set1_epi8(15);
    _Alignas(64) int16_t stored[8][8];
    __m512i head[2];
    (void)sums16, (void)sums32;
    for (size_t half = 0; half < 2; half++) {
        head[half] = headers(blocks, size, 0, 4 * half, n);
        const __m512i low = _mm512_srlv_epi16(
            _mm512_shuffle_epi8(head[half], REPEAT(4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7, -1)),
            _mm512_broadcast_i32x4(_mm_setr_epi16(0, 4, 0, 4, 0, 4, 0, 4)));
        const __m512i high = _mm512_srlv_epi16(
            _mm512_shuffle_epi8(head[half], _mm512_set1_epi16(0x0302)),
            _mm512_broadcast_i32x4(_mm_setr_epi16(0, 2, 4, 6, 8, 10, 12, 14)));
        const __m512i all = _mm512_add_epi16(
            _mm512_and_si512(low, _mm512_set1_epi16(15)),
            _mm512_slli_epi16(_mm512_and_si512(high, _mm512_set1_epi16(3)), 4));
        _mm512_store_si512(stored + 4 * half, _mm512_sub_epi16(all, _mm512_set1_epi16(32)));
    }
    out->scales = words_of(head[0], 0, head[1]);
    UNROLL_8
    for (size_t i = 0; i < 8 && i < n; i++, codes += SUPER_BLOCK) {
        const struct block_iq4_xs *block = (const struct block_iq4_xs *)blocks + i;
        const __m512i levels = _mm512_broadcast_i32x4(_mm_load_si128((const void *)stored[i]));
        __m512i sum = _mm512_setzero_si512();
        prefetch(block->scale, sizeof *block);
        for (int pair = 0; pair < 4; pair++) {
            const __m512i bytes = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(block->codes + 32 * pair)));
            const __m512i index = _mm512_and_si512(
                _mm512_srlv_epi64(_mm512_permutexvar_epi64(spread, bytes), nibble), low_4);
            const __m512i own = _mm512_shuffle_epi8(table, index), other = _mm512_loadu_si512(codes + 64 * pair);
            /* The unsigned side takes the magnitudes, the signed one their signs. */
            const __m512i turned =
                _mm512_mask_sub_epi8(other, _mm512_movepi8_mask(own), _mm512_setzero_si512(), other);
            const __m512i product = _mm512_maddubs_epi16(_mm512_abs_epi8(own), turned);
            const __m512i level = _mm512_shuffle_epi8(
                levels, SPLIT(_mm256_set1_epi16((short)((4 * pair + 1) << 8 | 4 * pair)),
                              _mm256_set1_epi16((short)((4 * pair + 3) << 8 | (4 * pair + 2)))));
            sum = add_pairs(sum, product, level);
        }
        out->sums[i] = sum;
    }
}

/* ---- rows ---- */

QUENCH_INLINE __m512i no_sum(void) { return _mm512_setzero_si512(); }
QUENCH_INLINE __m256i sums_of(const __m512i parts[8]) { return sums_of_8_wide(parts); }

#include "../avx2/dot_rows.h"

#if defined(QUENCH_VNNI)
#  define TABLE quench_vnni_dots
#else
#  define TABLE quench_avx512_dots
#endif

const struct dots TABLE = {
#if defined(QUENCH_VNNI)
    .features = CPU_AVX512_VNNI,
#endif
    .types =
        {
#if !defined(QUENCH_VNNI) /* here nothing of it is used */
            [QUENCH_Q8_0] = LANES(dot_q8_0),
            [QUENCH_Q5_1] = LANES(dot_q5_1),
            [QUENCH_Q5_0] = LANES(dot_q5_0),
            [QUENCH_Q4_1] = LANES(dot_q4_1),
            [QUENCH_Q4_0] = LANES(dot_q4_0),
            [QUENCH_IQ4_NL] = LANES(dot_iq4_nl),
#endif
            [QUENCH_Q6_K] = dot_q6_k,
            [QUENCH_Q5_K] = dot_q5_k,
            [QUENCH_Q4_K] = dot_q4_k,
            [QUENCH_IQ4_XS] = dot_iq4_xs,
            [QUENCH_Q3_K] = dot_q3_k,
            [QUENCH_Q2_K] = dot_q2_k,
        },
};
