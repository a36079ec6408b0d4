/* Floats to blocks of 32: Q8_0, and Q4_0, Q4_1, Q5_0, Q5_1 without importance.
 *
 * W blocks at a time: their extremes are reduced side by side, so that scales are found with one block a lane, and then
 * every block is coded along its weights. Blocks whose arithmetic leaves the ordinary range go to the reference. */
#include "../blocks.h"
#include "../reference/codecs.h"
#include "lanes.h"
#include "narrow.h"
#include "pack.h"

enum { COLUMNS = W < 8 ? 8 : W, LARGEST_BLOCK = sizeof(struct block_q8_0) };

/* ---- what the lanes of a group of blocks agree on ---- */

/* Partial extremes of each block, COLUMNS a row; `fold` leaves one number for each block in its lane. */
struct rows {
    float of[W * COLUMNS];
};

QUENCH_INLINE vf fold(const struct rows *rows, int most) {
    vf result = vf_set(0.0f);
    for (int start = 0; start < COLUMNS; start += 8) {
        vf column[8];
        vf_transpose8(rows->of + start, COLUMNS, column);
        result = start == 0 ? column[0] : most ? vf_most(result, column[0]) : vf_least(result, column[0]);
        for (int i = 1; i < 8; i++) {
            result = most ? vf_most(result, column[i]) : vf_least(result, column[i]);
        }
    }
    return result;
}

QUENCH_INLINE void extremes(const float *x, vf *least, vf *most) {
    struct rows lows, highs;
    for (int block = 0; block < W; block++) {
        for (int column = 0; column < COLUMNS; column += W) {
            vf low = vf_load(x + block * BLOCK + column), high = low;
            for (int i = column + COLUMNS; i < BLOCK; i += COLUMNS) {
                const vf value = vf_load(x + block * BLOCK + i);
                low = vf_least(value, low);
                high = vf_most(value, high);
            }
            vf_store(lows.of + block * COLUMNS + column, low);
            vf_store(highs.of + block * COLUMNS + column, high);
        }
    }
    *least = fold(&lows, 0);
    *most = fold(&highs, 1);
}

QUENCH_INLINE vf largest_magnitude(const float *x) {
    struct rows sizes;
    for (int block = 0; block < W; block++) {
        for (int column = 0; column < COLUMNS; column += W) {
            vf size = vf_abs(vf_load(x + block * BLOCK + column));
            for (int i = column + COLUMNS; i < BLOCK; i += COLUMNS) {
                size = vf_most(vf_abs(vf_load(x + block * BLOCK + i)), size);
            }
            vf_store(sizes.of + block * COLUMNS + column, size);
        }
    }
    return fold(&sizes, 1);
}

/* The first weight of that magnitude in a block that has one. */
static float first_of(const float *x, float size) {
    for (int i = 0; i < BLOCK; i += W) {
        const uint32_t found = vm_bits(vf_eq(vf_abs(vf_load(x + i)), vf_set(size)));
        for (int lane = 0; found >> lane; lane++) {
            if (found >> lane & 1u) {
                return x[i + lane];
            }
        }
    }
    return 0.0f;
}

/* Lanes of `value` where `doubtful` become the first weight of that magnitude in their block. */
QUENCH_INLINE vf settled(const float *x, vf value, vm doubtful) {
    if (!vm_any(doubtful)) {
        return value;
    }
    float lanes[W];
    vf_store(lanes, value);
    const uint32_t bits = vm_bits(doubtful);
    for (int block = 0; block < W; block++) {
        if (bits >> block & 1u) {
            lanes[block] = first_of(x + block * BLOCK, magnitude(lanes[block]));
        }
    }
    return vf_load(lanes);
}

struct scales {
    uint8_t half[2 * W], low_half[2 * W];
    float inverse[W], low[W];
    uint32_t odd; /* bit i: block i is left to the reference */
};

QUENCH_INLINE void set_scales(struct scales *scales, vf scale) {
    const vf inverse = vf_pick(vf_eq(scale, vf_set(0.0f)), vf_set(0.0f), vf_div(vf_set(1.0f), scale));
    vf_store_halves(scales->half, scale);
    vf_store(scales->inverse, inverse);
    /* The inverse of less than 2^-128 is infinite, and so is the scale of a range that overflows. */
    const vf most = vf_set(0x1.fffffep127f);
    scales->odd = vm_bits(vm_or(vf_gt(vf_abs(inverse), most), vf_gt(vf_abs(scale), most)));
}

/* ---- groups ---- */

typedef void group_fn(const float *x, uint8_t *blocks);

/* Codes W blocks at a time; the last ones are filled up with zeros. */
QUENCH_INLINE void in_groups(group_fn *encode, size_t size, const float *x, uint8_t *blocks, size_t n) {
    for (; n >= W; n -= W, x += W * BLOCK, blocks += W * size) {
        encode(x, blocks);
    }
    if (n > 0) {
        float filled[W * BLOCK];
        uint8_t spare[W * LARGEST_BLOCK];
        memset(filled, 0, sizeof filled);
        memcpy(filled, x, n * BLOCK * sizeof *x);
        encode(filled, spare);
        memcpy(blocks, spare, n * size);
    }
}

QUENCH_INLINE void redo_odd(encode_fn *reference, uint32_t odd, size_t size, const float *x, uint8_t *blocks) {
    for (size_t block = 0; odd >> block; block++) {
        if (odd >> block & 1u) {
            reference(x + block * BLOCK, NULL, 0.0f, blocks + block * size, 1);
        }
    }
}

/* ---- Q8_0 ---- */

/* Ties away from zero: the largest float below a half, added with the sign, reaches the next integer exactly when the
 * fraction is at least a half. */
QUENCH_INLINE vi rounded_lanes(vf a) {
    const vi sign = vi_and(vi_of_bits(a), vi_set(INT32_MIN));
    const vf almost_half = vf_of_bits(vi_or(sign, vi_of_bits(vf_set(0x1.fffffep-2f))));
    return vi_truncated(vf_add(a, almost_half));
}

QUENCH_INLINE void group_q8_0(const float *x, uint8_t *blocks) {
    struct block_q8_0 *block = (struct block_q8_0 *)blocks;
    struct scales scales;
    set_scales(&scales, vf_div(largest_magnitude(x), vf_set(127.0f)));
    for (int i = 0; i < W; i++) {
        const vf inverse = vf_set(scales.inverse[i]);
        vi codes[VECTORS];
        for (int k = 0; k < VECTORS; k++) {
            codes[k] = rounded_lanes(vf_mul(vf_load(x + i * BLOCK + k * W), inverse));
        }
        memcpy(block[i].scale, scales.half + 2 * i, 2);
        vi_store_block(block[i].codes, codes);
    }
    redo_odd(quench_encode_q8_0, scales.odd, sizeof *block, x, blocks);
}

void LANES(encode_q8_0)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)importance, (void)row_energy;
    in_groups(group_q8_0, sizeof(struct block_q8_0), x, blocks, n);
}

/* ---- Q4 and Q5 ---- */

/* The weight of the largest magnitude becomes the lowest code. */
QUENCH_INLINE void centred_scales(const float *x, int half, struct scales *scales) {
    vf least, most;
    extremes(x, &least, &most);
    const vf opposite = vf_neg(least);
    const vm tie = vm_and(vf_eq(most, opposite), vf_gt(most, vf_set(0.0f)));
    const vf peak = settled(x, vf_pick(vf_gt(most, opposite), most, least), tie);
    /* The sum turns the zero of an empty block positive. */
    set_scales(scales, vf_div(vf_add(peak, vf_set(0.0f)), vf_set((float)-half)));
}

QUENCH_INLINE void centred_codes(const float *x, int half, float inverse, vi *codes) {
    for (int k = 0; k < VECTORS; k++) {
        const vf value = vf_add(vf_mul(vf_load(x + k * W), vf_set(inverse)), vf_set((float)half + 0.5f));
        codes[k] = vi_least(vi_truncated(value), vi_set(2 * half - 1));
    }
}

QUENCH_INLINE void ranged_scales(const float *x, int top, struct scales *scales) {
    vf least, most;
    extremes(x, &least, &most);
    const vf zero = vf_set(0.0f);
    /* A low end of zero has the sign of the first zero. */
    least = settled(x, least, vf_eq(least, zero));
    set_scales(scales, vf_div(vf_add(vf_sub(most, least), zero), vf_set((float)top)));
    vf_store(scales->low, least);
    vf_store_halves(scales->low_half, least);
}

QUENCH_INLINE void ranged_codes(const float *x, int top, float inverse, float low, vi *codes) {
    for (int k = 0; k < VECTORS; k++) {
        const vf value = vf_mul(vf_sub(vf_load(x + k * W), vf_set(low)), vf_set(inverse));
        codes[k] = vi_truncated(vf_add(value, vf_set(0.5f)));
        codes[k] = top == 15 ? vi_least(codes[k], vi_set(top)) : codes[k];
    }
}

QUENCH_INLINE void group_q4_0(const float *x, uint8_t *blocks) {
    struct block_q4_0 *block = (struct block_q4_0 *)blocks;
    struct scales scales;
    vi codes[VECTORS];
    centred_scales(x, 8, &scales);
    for (int i = 0; i < W; i++) {
        centred_codes(x + i * BLOCK, 8, scales.inverse[i], codes);
        memcpy(block[i].scale, scales.half + 2 * i, 2);
        pack(codes, block[i].codes, NULL);
    }
    redo_odd(quench_encode_q4_0, scales.odd, sizeof *block, x, blocks);
}

QUENCH_INLINE void group_q5_0(const float *x, uint8_t *blocks) {
    struct block_q5_0 *block = (struct block_q5_0 *)blocks;
    struct scales scales;
    vi codes[VECTORS];
    centred_scales(x, 16, &scales);
    for (int i = 0; i < W; i++) {
        centred_codes(x + i * BLOCK, 16, scales.inverse[i], codes);
        memcpy(block[i].scale, scales.half + 2 * i, 2);
        pack(codes, block[i].codes, block[i].high);
    }
    redo_odd(quench_encode_q5_0, scales.odd, sizeof *block, x, blocks);
}

QUENCH_INLINE void group_q4_1(const float *x, uint8_t *blocks) {
    struct block_q4_1 *block = (struct block_q4_1 *)blocks;
    struct scales scales;
    vi codes[VECTORS];
    ranged_scales(x, 15, &scales);
    for (int i = 0; i < W; i++) {
        ranged_codes(x + i * BLOCK, 15, scales.inverse[i], scales.low[i], codes);
        memcpy(block[i].scale, scales.half + 2 * i, 2);
        memcpy(block[i].low, scales.low_half + 2 * i, 2);
        pack(codes, block[i].codes, NULL);
    }
    redo_odd(quench_encode_q4_1, scales.odd, sizeof *block, x, blocks);
}

QUENCH_INLINE void group_q5_1(const float *x, uint8_t *blocks) {
    struct block_q5_1 *block = (struct block_q5_1 *)blocks;
    struct scales scales;
    vi codes[VECTORS];
    ranged_scales(x, 31, &scales);
    for (int i = 0; i < W; i++) {
        ranged_codes(x + i * BLOCK, 31, scales.inverse[i], scales.low[i], codes);
        memcpy(block[i].scale, scales.half + 2 * i, 2);
        memcpy(block[i].low, scales.low_half + 2 * i, 2);
        pack(codes, block[i].codes, block[i].high);
    }
    redo_odd(quench_encode_q5_1, scales.odd, sizeof *block, x, blocks);
}

void LANES(encode_q4_0)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    if (importance) {
        LANES(encode_q4_0_by_importance)(x, importance, row_energy, blocks, n);
    } else {
        in_groups(group_q4_0, sizeof(struct block_q4_0), x, blocks, n);
    }
}

void LANES(encode_q5_0)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    if (importance) {
        LANES(encode_q5_0_by_importance)(x, importance, row_energy, blocks, n);
    } else {
        in_groups(group_q5_0, sizeof(struct block_q5_0), x, blocks, n);
    }
}

void LANES(encode_q4_1)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    if (importance) {
        LANES(encode_q4_1_by_importance)(x, importance, row_energy, blocks, n);
    } else {
        in_groups(group_q4_1, sizeof(struct block_q4_1), x, blocks, n);
    }
}

void LANES(encode_q5_1)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    if (importance) {
        LANES(encode_q5_1_by_importance)(x, importance, row_energy, blocks, n);
    } else {
        in_groups(group_q5_1, sizeof(struct block_q5_1), x, blocks, n);
    }
}
