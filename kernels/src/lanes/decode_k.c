/* K-quants to floats. First the steps of the groups, all at once; then the codes, a vector of bytes at a time. */
#include "../blocks.h"
#include "lanes.h"
#include "narrow.h"

enum { GROUPS = 16, QUARTER = 32, PART = SUPER_BLOCK / 2 };

/* Eight levels times `first`, then eight times `second`. */
QUENCH_INLINE void multiply_levels(const vi *levels, float first, float second, float *steps) {
    for (int i = 0; i < GROUPS; i += W) {
        const vf factor = QUENCH_W == 16 ? vf_pick(vm_of_bits(0xff), vf_set(first), vf_set(second))
                                      : vf_set(i < GROUPS / 2 ? first : second);
        vf_store(steps + i, vf_mul(factor, vf_from_vi(levels[i / W])));
    }
}

/* Q4_K, Q5_K: steps of eight groups, then their lows. Four 6-bit levels are worked on in one word. */
QUENCH_INLINE void steps_of_twelve(const uint8_t *packed, float scale, float low, float *steps) {
    const uint32_t sixes = 0x3f3f3f3fu, fours = 0x0f0f0f0fu, twos = 0x30303030u;
    const uint32_t a = word_at(packed), b = word_at(packed + 4), c = word_at(packed + 8);
    const uint32_t words[4] = {a & sixes, (c & fours) | (a >> 2 & twos), b & sixes, (c >> 4 & fours) | (b >> 2 & twos)};
    uint8_t bytes[GROUPS];
    vi levels[GROUPS / W];
    memcpy(bytes, words, sizeof bytes);
    for (int i = 0; i < GROUPS / W; i++) {
        levels[i] = vi_from_bytes(bytes + i * W);
    }
    multiply_levels(levels, scale, low, steps);
}

QUENCH_INLINE void decode_ranged(vi codes, float step, float low, float *x) {
    vf_store(x, vf_sub(vf_mul(vf_set(step), vf_from_vi(codes)), vf_set(low)));
}

void LANES(decode_q4_k)(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q4_k *block = (const struct block_q4_k *)blocks;
    for (; n > 0; n--, block++) {
        float steps[GROUPS];
        steps_of_twelve(block->levels, half_at(block->scale), half_at(block->low), steps);
        const float *lows = steps + GROUPS / 2;
        for (int group = 0; group < 8; group += 2, x += 2 * QUARTER) {
            for (int i = 0; i < QUARTER; i += W) {
                const vi both = vi_from_bytes(block->codes + group * (QUARTER / 2) + i);
                decode_ranged(vi_and(both, vi_set(15)), steps[group], lows[group], x + i);
                decode_ranged(vi_right(both, 4), steps[group + 1], lows[group + 1], x + QUARTER + i);
            }
        }
    }
}

/* 16 where bit `bit` of the byte is set. */
QUENCH_INLINE vi fifth(vi bytes, int bit) {
    return vi_left(vi_and(vi_down(bytes, bit), vi_set(1)), 4);
}

void LANES(decode_q5_k)(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q5_k *block = (const struct block_q5_k *)blocks;
    for (; n > 0; n--, block++) {
        float steps[GROUPS];
        steps_of_twelve(block->levels, half_at(block->scale), half_at(block->low), steps);
        const float *lows = steps + GROUPS / 2;
        for (int group = 0; group < 8; group += 2, x += 2 * QUARTER) {
            for (int i = 0; i < QUARTER; i += W) {
                const vi both = vi_from_bytes(block->codes + group * (QUARTER / 2) + i);
                const vi high = vi_from_bytes(block->high + i);
                const vi first = vi_or(vi_and(both, vi_set(15)), fifth(high, group));
                const vi second = vi_or(vi_right(both, 4), fifth(high, group + 1));
                decode_ranged(first, steps[group], lows[group], x + i);
                decode_ranged(second, steps[group + 1], lows[group + 1], x + QUARTER + i);
            }
        }
    }
}

void LANES(decode_q2_k)(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q2_k *block = (const struct block_q2_k *)blocks;
    for (; n > 0; n--, block++) {
        float steps[GROUPS], lows[GROUPS];
        const float scale = half_at(block->scale), low = half_at(block->low);
        vi levels[GROUPS / W], low_levels[GROUPS / W];
        for (int i = 0; i < GROUPS / W; i++) {
            const vi both = vi_from_bytes(block->levels + i * W);
            levels[i] = vi_and(both, vi_set(15));
            low_levels[i] = vi_right(both, 4);
        }
        multiply_levels(levels, scale, scale, steps);
        multiply_levels(low_levels, low, low, lows);
        for (int part = 0; part < 2; part++, x += PART) {
            for (int i = 0; i < QUARTER; i += W) {
                const vi bytes = vi_from_bytes(block->codes + part * QUARTER + i);
                for (int k = 0; k < 4; k++) {
                    const int group = 8 * part + 2 * k + i / 16;
                    const vi codes = vi_and(vi_down(bytes, 2 * k), vi_set(3));
                    decode_ranged(codes, steps[group], lows[group], x + k * QUARTER + i);
                }
            }
        }
    }
}

/* ---- signed codes ---- */

QUENCH_INLINE void decode_signed(vi codes, float step, float *x) {
    vf_store(x, vf_mul(vf_set(step), vf_from_vi(codes)));
}

void LANES(decode_q3_k)(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q3_k *block = (const struct block_q3_k *)blocks;
    for (; n > 0; n--, block++) {
        const uint32_t fours = 0x0f0f0f0fu, twos = 0x30303030u;
        const uint32_t a = word_at(block->levels), b = word_at(block->levels + 4), c = word_at(block->levels + 8);
        const uint32_t words[4] = {(a & fours) | (c << 4 & twos), (b & fours) | (c << 2 & twos),
                                   (a >> 4 & fours) | (c & twos), (b >> 4 & fours) | (c >> 2 & twos)};
        uint8_t bytes[GROUPS];
        float steps[GROUPS];
        vi levels[GROUPS / W];
        const float scale = half_at(block->scale);
        memcpy(bytes, words, sizeof bytes);
        for (int i = 0; i < GROUPS / W; i++) {
            levels[i] = vi_sub(vi_from_bytes(bytes + i * W), vi_set(32));
        }
        multiply_levels(levels, scale, scale, steps);
        for (int part = 0; part < 2; part++, x += PART) {
            for (int i = 0; i < QUARTER; i += W) {
                const vi low = vi_from_bytes(block->codes + part * QUARTER + i);
                const vi high = vi_down(vi_from_bytes(block->high + i), 4 * part);
                for (int k = 0; k < 4; k++) {
                    const vi third = vi_and(vi_left(vi_down(high, k), 2), vi_set(4));
                    const vi codes = vi_or(vi_and(vi_down(low, 2 * k), vi_set(3)), third);
                    decode_signed(vi_sub(codes, vi_set(4)), steps[8 * part + 2 * k + i / 16], x + k * QUARTER + i);
                }
            }
        }
    }
}

void LANES(decode_q6_k)(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q6_k *block = (const struct block_q6_k *)blocks;
    for (; n > 0; n--, block++) {
        float steps[GROUPS];
        vi levels[GROUPS / W];
        const float scale = half_at(block->scale);
        for (int i = 0; i < GROUPS / W; i++) {
            levels[i] = vi_from_signed_bytes(block->levels + i * W);
        }
        multiply_levels(levels, scale, scale, steps);
        for (int part = 0; part < 2; part++, x += PART) {
            for (int i = 0; i < QUARTER; i += W) {
                const uint8_t *codes = block->codes + part * (PART / 2) + i;
                const vi high = vi_from_bytes(block->high + part * QUARTER + i);
                const vi two[2] = {vi_from_bytes(codes), vi_from_bytes(codes + QUARTER)};
                for (int k = 0; k < 4; k++) {
                    const vi low = k < 2 ? vi_and(two[k], vi_set(15)) : vi_right(two[k - 2], 4);
                    const vi code = vi_or(low, vi_and(vi_left(vi_down(high, 2 * k), 4), vi_set(48)));
                    decode_signed(vi_sub(code, vi_set(32)), steps[8 * part + 2 * k + i / 16], x + k * QUARTER + i);
                }
            }
        }
    }
}
