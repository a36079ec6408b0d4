/* Refinement of Q3_K, operation for operation as in reference/k_symmetric_refine.c. */
#include "lanes.h"
#include "narrow.h"
#include "planes.h"
#include "symmetric_refine.h"

enum { HALF = 4, BOTH_ENDS = 99 /* a code range that may be clamped at both ends */ };

/* The error with the codes that have these sums, less the sum of weight * x * x. */
QUENCH_INLINE vf relative_error(vf sum_x, vf sum_l, vf step) {
    return vf_mul(step, vf_sub(vf_mul(step, sum_l), vf_add(sum_x, sum_x)));
}

/* count: 1 for the level as it is and the code ranges. */
QUENCH_INLINE vf choose_levels(int count, const struct code_range *ranges, const struct columns *c, float scale,
                               vf level) {
    const vf peak = extreme_of(c->x), old_step = vf_mul(vf_set(scale), level);
    int tenths[8] = {BOTH_ENDS};
    vf inverse[8], sum_x[8], sum_l[8], energy = vf_set(0.0f);
    inverse[0] = vf_div(vf_set(1.0f), old_step);
    for (int k = 1; k < count; k++) {
        const float size = (float)HALF + 0.1f * (float)ranges[k - 1].tenth;
        tenths[k] = ranges[k - 1].tenth;
        inverse[k] = vf_div(vf_set(ranges[k - 1].flipped ? size : -size), peak);
    }
    for (int i = 0; i < GROUP; i++) {
        energy = vf_add(energy, vf_mul(vf_load(c->product + i * W), vf_load(c->x + i * W)));
    }
    explain_scales(4, tenths, HALF, c, inverse, sum_x, sum_l);
    explain_scales(count - 4, tenths + 4, HALF, c, inverse + 4, sum_x + 4, sum_l + 4);

    const vf zero = vf_set(0.0f), margin = vf_mul(vf_set(REFINE_Q3_K_MARGIN), energy);
    vf best = vf_pick(vf_eq(old_step, zero), zero, relative_error(sum_x[0], sum_l[0], old_step)), found = level;
    best = vf_sub(best, vf_add(margin, vf_set(REFINE_TINY)));
    for (int k = 1; k < count; k++) {
        const vf tried = bounded(vf_mul(vf_div(sum_x[k], sum_l[k]), vf_set(1.0f / scale)), -32, 31);
        const vf error = relative_error(sum_x[k], sum_l[k], vf_mul(vf_set(scale), tried));
        const vm better = vf_lt(error, best);
        found = vf_pick(better, tried, found);
        best = vf_pick(better, error, best);
    }
    return vf_pick(vf_lt(vf_abs(peak), vf_set(QUENCH_ZERO_GROUP)), level, found);
}

QUENCH_INLINE vf better_levels(const struct columns *c, float scale, vf level, int weighted) {
    const struct code_range plain[] = REFINE_Q3_K_PLAIN, wide[] = REFINE_Q3_K_WEIGHTED;
    return weighted ? choose_levels(8, wide, c, scale, level) : choose_levels(5, plain, c, scale, level);
}

/* Levels as they are stored, 0 to 63. */
QUENCH_INLINE void unpack_levels(const struct block_q3_k *block, uint8_t *levels) {
    const uint32_t fours = 0x0f0f0f0fu, twos = 0x30303030u;
    const uint32_t a = word_at(block->levels), b = word_at(block->levels + 4), c = word_at(block->levels + 8);
    const uint32_t words[4] = {(a & fours) | (c << 4 & twos), (b & fours) | (c << 2 & twos),
                               (a >> 4 & fours) | (c & twos), (b >> 4 & fours) | (c >> 2 & twos)};
    memcpy(levels, words, sizeof words);
}

QUENCH_INLINE void pack_levels(const uint8_t *levels, struct block_q3_k *block) {
    const uint32_t fours = 0x0f0f0f0fu, twos = 0x03030303u;
    uint32_t in[4], out[3];
    memcpy(in, levels, sizeof in);
    out[0] = (in[0] & fours) | (in[2] & fours) << 4;
    out[1] = (in[1] & fours) | (in[3] & fours) << 4;
    out[2] = (in[0] >> 4 & twos) | (in[1] >> 4 & twos) << 2 | (in[2] >> 4 & twos) << 4 | (in[3] >> 4 & twos) << 6;
    memcpy(block->levels, out, sizeof out);
}

QUENCH_INLINE void find_levels(const float *x, const float *importance, const uint8_t *bytes, float *old,
                               float *levels) {
    const struct block_q3_k *block = (const struct block_q3_k *)bytes;
    const float scale = load_half(block->scale);
    uint8_t stored[GROUPS];
    unpack_levels(block, stored);
    for (int group = 0; group < GROUPS; group += W) {
        struct columns c;
        const vf level = vf_from_vi(vi_sub(vi_from_bytes(stored + group), vi_set(32)));
        load_columns(x + group * GROUP, GROUP, c.x);
        for (int i = 0; i < GROUP && !importance; i++) {
            vf_store(c.weight + i * W, vf_set(1.0f));
        }
        if (importance) {
            load_columns(importance + group * GROUP, GROUP, c.weight);
        }
        weigh_columns(&c);
        vf_store(old + group, level);
        vf_store(levels + group, better_levels(&c, scale, level, importance != NULL));
    }
}

QUENCH_INLINE void rewrite(const float *x, const float *old, const float *levels, uint8_t *bytes) {
    struct block_q3_k *block = (struct block_q3_k *)bytes;
    const float scale = load_half(block->scale);
    uint8_t stored[GROUPS], both[2 * SUPER_BLOCK], codes[SUPER_BLOCK];
    int32_t places[GROUPS];
    if (scale == 0.0f || !is_finite(scale) || !find_changed(old, levels, places)) {
        return;
    }
    unpack_wide(PLANE_CODES_Q2_K, 0, block->codes, both);
    unpack_wide(PLANE_HIGH_Q3_K, 1, block->high, both);
    recode_changed(HALF, scale, x, levels, places, both, codes);
    for (int group = 0; group < GROUPS; group += W) {
        vi_store_bytes(stored + group, vi_nearest(vf_add(vf_load(levels + group), vf_set(32.0f))));
    }
    pack_levels(stored, block);
    pack_wide(PLANE_CODES_Q2_K, codes, block->codes);
    pack_wide(PLANE_HIGH_Q3_K, codes, block->high);
}

void LANES(refine_q3_k)(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    refine_blocks(find_levels, rewrite, sizeof(struct block_q3_k), x, importance, blocks, n);
}
