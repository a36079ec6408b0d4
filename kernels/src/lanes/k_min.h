/* What encoding and refining of Q2_K, Q4_K and Q5_K in lanes share: every lane is a super-block, W of them at once. */
#ifndef QUENCH_LANES_K_MIN_H
#define QUENCH_LANES_K_MIN_H

#include <string.h>

#include "../reference/k_min.h"
#include "range_search.h"

/* Numbers of W super-blocks: that of group i of lane s is at [i * W + s]. */
struct batch {
    _Alignas(64) float x[SUPER_BLOCK * W]; /* in an order of the user's choice */
    /* Of each group: as it will be decoded, and what else makes codes. */
    _Alignas(64) float scale[MOST_GROUPS * W], low[MOST_GROUPS * W], inverse[MOST_GROUPS * W], start[MOST_GROUPS * W];
    _Alignas(64) int32_t levels[4 * W]; /* as stored, in words of four bytes */
    _Alignas(64) int32_t numbers[W];    /* scale and low as stored */
};

QUENCH_INLINE int groups_of(const struct k_min_format *format) {
    return SUPER_BLOCK / format->group;
}

/* n weights of every super-block: weight i of lane s goes to [i * apart + s]. */
QUENCH_INLINE void transpose(const int n, const int apart, const float *from, float *to) {
    for (int i = 0; i < n; i += 8) {
        vf columns[8];
        vf_transpose8(from + i, SUPER_BLOCK, columns);
        for (int j = 0; j < 8; j++) {
            vf_store(to + (i + j) * apart, columns[j]);
        }
    }
}

QUENCH_INLINE vi vi_byte(vi a) {
    return vi_and(a, vi_set(255));
}

/* Four bytes of a lane as a word. */
QUENCH_INLINE vi word_of(const vi *bytes) {
    vi low = vi_or(vi_byte(bytes[0]), vi_left(vi_byte(bytes[1]), 8));
    return vi_or(low, vi_or(vi_left(vi_byte(bytes[2]), 16), vi_left(bytes[3], 24)));
}

/* See pack_levels_4 and pack_levels_6 of the reference; leaves in `scales` and `lows` what a reader will find. */
QUENCH_INLINE void store_levels_4(vi *scales, vi *lows, int32_t *words) {
    vi bytes[16];
    for (int i = 0; i < 16; i++) {
        bytes[i] = vi_byte(vi_or(scales[i], vi_left(lows[i], 4)));
        scales[i] = vi_and(bytes[i], vi_set(15));
        lows[i] = vi_right(bytes[i], 4);
    }
    for (int i = 0; i < 4; i++) {
        vi_store(words + i * W, word_of(bytes + 4 * i));
    }
}

QUENCH_INLINE void store_levels_6(vi *scales, vi *lows, int32_t *words) {
    const vi low_4 = vi_set(15), low_6 = vi_set(63);
    vi bytes[12];
    for (int i = 0; i < 4; i++) {
        bytes[i] = vi_byte(vi_or(scales[i], vi_left(vi_right(scales[i + 4], 4), 6)));
        bytes[i + 4] = vi_byte(vi_or(lows[i], vi_left(vi_right(lows[i + 4], 4), 6)));
        bytes[i + 8] = vi_or(vi_and(scales[i + 4], low_4), vi_left(vi_and(lows[i + 4], low_4), 4));
        scales[i] = vi_and(scales[i], low_6);
        lows[i] = vi_and(lows[i], low_6);
        scales[i + 4] = vi_or(vi_and(bytes[i + 8], low_4), vi_left(vi_right(bytes[i], 6), 4));
        lows[i + 4] = vi_or(vi_right(bytes[i + 8], 4), vi_left(vi_right(bytes[i + 4], 6), 4));
    }
    for (int i = 0; i < 3; i++) {
        vi_store(words + i * W, word_of(bytes + 4 * i));
    }
}

/* As they lie in a block, in words of four bytes. */
QUENCH_INLINE void store_levels(const struct k_min_format *format, vi *scales, vi *lows, int32_t *words) {
    if (format->group == 16) {
        store_levels_4(scales, lows, words);
    } else {
        store_levels_6(scales, lows, words);
    }
}

/* The codes of W weights of a group, whose numbers in the batch are at `at`. */
typedef vi code_fn(const struct batch *batch, int at, vi top, vf x);

/* Writes super-block s. Codes that are 32 apart share a byte; fifth bits have a plane of their own. */
QUENCH_INLINE void store_block(const struct k_min_format *format, const struct batch *batch, code_fn *code, int s,
                               const float *x, uint8_t *block) {
    enum { WIDTH = 32 };
    const int bits = format->top == 3 ? 2 : 4, per_byte = 8 / bits;
    const vi top = vi_of_bits(vf_set((float)format->top)), mask = vi_set((1 << bits) - 1);
    for (int i = 0; i < (format->group == 16 ? 4 : 3); i++) {
        memcpy(block + format->levels + 4 * i, batch->levels + i * W + s, 4);
    }
    memcpy(block + format->numbers, batch->numbers + s, 4);
    for (int column = 0; column < WIDTH; column += W) {
        vi fifth = vi_set(0);
        for (int part = SUPER_BLOCK / WIDTH - 1; part >= 0; part -= per_byte) {
            vi packed = vi_set(0);
            for (int i = 0; i < per_byte; i++) {
                const int place = (part - i) * WIDTH + column;
                vi found = code(batch, place / format->group * W + s, top, vf_load(x + place));
                packed = vi_or(vi_left(packed, bits), vi_and(found, mask));
                fifth = format->fifth ? vi_or(vi_add(fifth, fifth), vi_right(found, 4)) : fifth;
            }
            vi_store_bytes(block + format->codes + (part / per_byte) * WIDTH + column, packed);
        }
        if (format->fifth) {
            vi_store_bytes(block + format->fifth + column, fifth);
        }
    }
}

/* W super-blocks, of which the first n are written. */
typedef void batch_fn(const float *x, const float *importance, uint8_t *blocks, size_t n);

/* Fewer than W super-blocks: beside zeros. */
static inline void pad_batch(batch_fn *run, const float *x, const float *importance, uint8_t *blocks, size_t n) {
    float padded[W * SUPER_BLOCK] = {0}, padded_importance[W * SUPER_BLOCK] = {0};
    memcpy(padded, x, n * SUPER_BLOCK * sizeof *x);
    if (importance) {
        memcpy(padded_importance, importance, n * SUPER_BLOCK * sizeof *importance);
    }
    run(padded, importance ? padded_importance : NULL, blocks, n);
}

static inline void each_batch(const struct k_min_format *format, batch_fn *run, const float *x, const float *importance,
                              uint8_t *blocks, size_t n) {
    while (n > 0) {
        const size_t count = n < W ? n : W;
        if (count == W) {
            run(x, importance, blocks, W);
        } else {
            pad_batch(run, x, importance, blocks, count);
        }
        x += count * SUPER_BLOCK;
        importance = importance ? importance + count * SUPER_BLOCK : NULL;
        blocks += count * (size_t)format->bytes;
        n -= count;
    }
}

#endif
