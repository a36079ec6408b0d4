/* Floats to IQ4_NL and IQ4_XS. The search for scales has one block a lane (of IQ4_XS: the same block of W super-blocks),
 * so that every lane adds in the reference's order. Coding goes along the weights. */
#include "../blocks.h"
#include "../reference/codecs.h"
#include "../reference/search.h"
#include "lanes.h"
#include "narrow.h"

enum { CODES = 16, TRIES = 16, AT_ONCE = QUENCH_W == 16 ? 4 : 2, BLOCKS = SUPER_BLOCK / BLOCK, LEVEL_ZERO = 32 };

static const float values[CODES] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* Where one code ends and the next begins: the middles between the values. */
static const float middles[CODES] = {-115.5f, -93.5f, -74.0f, -57.0f, -42.0f, -28.5f, -16.0f, -4.5f,
                                     7.0f,    19.0f,  31.5f,  45.5f,  61.0f,  79.0f,  101.0f, 3e38f};

/* The code next to a number from -134 to 134. The parabolas run through the middles: at middle i they are within 0.06 of
 * i + 0.5, so what they give, cut to an integer, is the code or one below, and that code's upper middle decides. */
QUENCH_INLINE vi closest(vtable ends, vf a) {
    const vf slope = vf_sub(vf_set(0.09f), vf_mul(vf_abs(a), vf_set(0.000232f)));
    const vi guess = vi_truncated(vf_add(vf_mul(a, slope), vf_set(7.84f)));
    return vi_add(guess, vi_pick(vf_lt(a, vtable_at(ends, guess)), vi_set(0), vi_set(1)));
}

/* The same for any number; NaN becomes the last code. */
QUENCH_INLINE vi closest_of_any(vtable ends, vf a) {
    a = vf_most(vf_least(a, vf_set(values[CODES - 1])), vf_set(values[0]));
    return closest(ends, a);
}

/* ---- the search ---- */

/* The i-th tried inverse of a scale. */
QUENCH_INLINE vf inverse_of_try(int i, vf peak) {
    if (i == 0) {
        return vf_div(vf_set(1.0f), vf_div(vf_neg(peak), vf_set(values[0])));
    }
    return vf_div(vf_set((float)(i - TRIES / 2) + values[0]), peak);
}

/* Scales for 32 weights in each lane. No product of an inverse and a weight is beyond 134, because no weight is beyond
 * the peak; lanes of zeros compute nonsense and are set to zero at the end. */
QUENCH_INLINE vf find_scales(const vf *x, const vf *weight) {
    const vtable ends = vtable_load(middles), levels = vtable_load(values);
    const vf zero = vf_set(0.0f);
    vf size = zero, peak = zero, vx[TRIES], vv[TRIES];
    for (int j = 0; j < BLOCK; j++) {
        const vm larger = vf_gt(vf_abs(x[j]), size);
        size = vf_pick(larger, vf_abs(x[j]), size);
        peak = vf_pick(larger, x[j], peak);
    }
    for (int first = 0; first < TRIES; first += AT_ONCE) {
        vf inverse[AT_ONCE], sum_vx[AT_ONCE], sum_vv[AT_ONCE];
        for (int k = 0; k < AT_ONCE; k++) {
            inverse[k] = inverse_of_try(first + k, peak);
            sum_vx[k] = sum_vv[k] = zero;
        }
        for (int j = 0; j < BLOCK; j++) {
            for (int k = 0; k < AT_ONCE; k++) {
                const vf value = vtable_at(levels, closest(ends, vf_mul(inverse[k], x[j])));
                const vf weighted = vf_mul(weight[j], value);
                sum_vx[k] = vf_add(sum_vx[k], vf_mul(weighted, x[j]));
                sum_vv[k] = vf_add(sum_vv[k], vf_mul(weighted, value));
            }
        }
        for (int k = 0; k < AT_ONCE; k++) {
            vx[first + k] = sum_vx[k];
            vv[first + k] = sum_vv[k];
        }
    }
    vf scale = vf_pick(vf_gt(vv[0], zero), vf_div(vx[0], vv[0]), zero);
    vf best = vf_mul(scale, vx[0]);
    for (int i = 1; i < TRIES; i++) {
        const vm better = vm_and(vf_gt(vv[i], zero), vf_gt(vf_mul(vx[i], vx[i]), vf_mul(best, vv[i])));
        scale = vf_pick(better, vf_div(vx[i], vv[i]), scale);
        best = vf_pick(better, vf_mul(scale, vx[i]), best);
    }
    return vf_pick(vf_lt(size, vf_set(QUENCH_ZERO_GROUP)), zero, scale);
}

/* ---- weights ---- */

QUENCH_INLINE void load_lanes(const float *rows, size_t stride, vf *x) {
    for (int i = 0; i < BLOCK; i += 8) {
        vf_transpose8(rows + i, stride, x + i);
    }
}

/* n squares added in order, twice their mean. */
QUENCH_INLINE vf energy_of(const float *rows, size_t stride, int n) {
    vf sum = vf_set(0.0f);
    for (int start = 0; start < n; start += BLOCK) {
        vf x[BLOCK];
        load_lanes(rows + start, stride, x);
        for (int j = 0; j < BLOCK; j++) {
            sum = vf_add(sum, vf_mul(x[j], x[j]));
        }
    }
    return vf_mul(sum, vf_set(2.0f / (float)n));
}

/* Scales of W blocks that are `stride` apart. */
QUENCH_INLINE vf fit_blocks(const float *rows, const float *importance, size_t stride, vf energy) {
    vf x[BLOCK], weight[BLOCK];
    load_lanes(rows, stride, x);
    if (importance) {
        load_lanes(importance, stride, weight);
    }
    for (int j = 0; j < BLOCK; j++) {
        const vf square = vf_mul(x[j], x[j]);
        weight[j] = importance ? vf_mul(weight[j], vf_sqrt(vf_add(energy, square))) : square;
    }
    return find_scales(x, weight);
}

QUENCH_INLINE vf inverse_of(vf scale) {
    return vf_pick(vf_eq(scale, vf_set(0.0f)), vf_set(0.0f), vf_div(vf_set(1.0f), scale));
}

QUENCH_INLINE void code_block(vtable ends, const float *x, float inverse, uint8_t *packed) {
    for (int i = 0; i < BLOCK / 2; i += W) {
        const vi low = closest_of_any(ends, vf_mul(vf_set(inverse), vf_load(x + i)));
        const vi high = closest_of_any(ends, vf_mul(vf_set(inverse), vf_load(x + BLOCK / 2 + i)));
        vi_store_bytes(packed + i, vi_or(low, vi_left(high, 4)));
    }
}

/* ---- groups of W ---- */

typedef void group_fn(const float *x, const float *importance, uint8_t *blocks);

static void group_iq4_nl(const float *x, const float *importance, uint8_t *blocks) {
    struct block_q4_0 *block = (struct block_q4_0 *)blocks;
    const vtable ends = vtable_load(middles);
    const vf energy = importance ? energy_of(x, BLOCK, BLOCK) : vf_set(0.0f);
    const vf scale = fit_blocks(x, importance, BLOCK, energy);
    uint8_t halves[2 * W];
    float inverse[W];
    vf_store_halves(halves, scale);
    vf_store(inverse, inverse_of(scale));
    for (int i = 0; i < W; i++) {
        memcpy(block[i].scale, halves + 2 * i, 2);
        code_block(ends, x + i * BLOCK, inverse[i], block[i].codes);
    }
}

/* Levels of the super-blocks' eight scales and the inverses of what they stand for; returns the super-blocks' scales, and
 * in `odd` those that only the reference can do because a level leaves the range where rounding is simple. */
QUENCH_INLINE vf fit_signed_levels(const vf *scales, int32_t levels[][W], float inverses[][W], uint32_t *odd) {
    vf size = vf_set(0.0f), peak = size;
    for (int i = 0; i < BLOCKS; i++) {
        const vm larger = vf_gt(vf_abs(scales[i]), size);
        size = vf_pick(larger, vf_abs(scales[i]), size);
        peak = vf_pick(larger, scales[i], peak);
    }
    const vf scale = vf_div(vf_neg(peak), vf_set((float)LEVEL_ZERO)), inverse = inverse_of(scale);
    vm ordinary = vm_all();
    for (int i = 0; i < BLOCKS; i++) {
        const vf ratio = vf_mul(inverse, scales[i]);
        ordinary = vm_and(ordinary, vf_lt(vf_abs(ratio), vf_set(4e6f)));
        const vi nearest_level = vi_nearest(ratio);
        const vi level = vi_most(vi_least(nearest_level, vi_set(LEVEL_ZERO - 1)), vi_set(-LEVEL_ZERO));
        vi_store(levels[i], level);
        vf_store(inverses[i], inverse_of(vf_mul(scale, vf_from_vi(level))));
    }
    *odd = vm_bits(vm_not(ordinary));
    return scale;
}

static void group_iq4_xs(const float *x, const float *importance, uint8_t *blocks) {
    struct block_iq4_xs *block = (struct block_iq4_xs *)blocks;
    const vtable ends = vtable_load(middles);
    const vf energy = importance ? energy_of(x, SUPER_BLOCK, SUPER_BLOCK) : vf_set(0.0f);
    vf scales[BLOCKS];
    int32_t levels[BLOCKS][W];
    float inverses[BLOCKS][W];
    uint8_t halves[2 * W];
    uint32_t odd;
    for (int i = 0; i < BLOCKS; i++) {
        scales[i] = fit_blocks(x + i * BLOCK, importance ? importance + i * BLOCK : NULL, SUPER_BLOCK, energy);
    }
    vf_store_halves(halves, fit_signed_levels(scales, levels, inverses, &odd));
    for (int lane = 0; lane < W; lane++, x += SUPER_BLOCK) {
        if (odd >> lane & 1u) {
            const float *own = importance ? importance + lane * SUPER_BLOCK : NULL;
            quench_encode_iq4_xs(x, own, 0.0f, (uint8_t *)&block[lane], 1);
            continue;
        }
        unsigned low = 0, high = 0;
        for (int i = 0; i < BLOCKS; i++) {
            const unsigned level = (unsigned)(levels[i][lane] + LEVEL_ZERO);
            low |= (level & 15u) << (4 * i);
            high |= (level >> 4) << (2 * i);
            code_block(ends, x + i * BLOCK, inverses[i][lane], block[lane].codes + i * BLOCK / 2);
        }
        memcpy(block[lane].scale, halves + 2 * lane, 2);
        store16(block[lane].levels_high, (uint16_t)high);
        store16(block[lane].levels, (uint16_t)low);
        store16(block[lane].levels + 2, (uint16_t)(low >> 16));
    }
}

/* Codes W blocks at a time; the last ones are filled up with zeros. */
static void in_groups(group_fn *encode, size_t weights, size_t size, const float *x, const float *importance,
                      uint8_t *blocks, size_t n) {
    const size_t step = W * weights;
    for (; n >= W; n -= W, x += step, blocks += W * size) {
        encode(x, importance, blocks);
        importance = importance ? importance + step : NULL;
    }
    if (n > 0) {
        float filled[W * SUPER_BLOCK], filled_importance[W * SUPER_BLOCK];
        uint8_t spare[W * sizeof(struct block_iq4_xs)];
        memset(filled, 0, step * sizeof *filled);
        memcpy(filled, x, n * weights * sizeof *x);
        if (importance) {
            memset(filled_importance, 0, step * sizeof *filled_importance);
            memcpy(filled_importance, importance, n * weights * sizeof *importance);
        }
        encode(filled, importance ? filled_importance : NULL, spare);
        memcpy(blocks, spare, n * size);
    }
}

void LANES(encode_iq4_nl)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    in_groups(group_iq4_nl, BLOCK, sizeof(struct block_q4_0), x, importance, blocks, n);
}

void LANES(encode_iq4_xs)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    in_groups(group_iq4_xs, SUPER_BLOCK, sizeof(struct block_iq4_xs), x, importance, blocks, n);
}
