/* Refinement of Q3_K, operation for operation as in reference/refine_symmetric.c. */
#include "lanes.h"
#include "refine.h"

enum { HALF = 4, BOTH_ENDS = 99 /* a code range that may be clamped at both ends */ };

struct choice {
    vf level, error;
};

/* The error with the codes that have these sums, less the sum of weight * x * x. */
QUENCH_INLINE vf relative_error(vf sum_x, vf sum_l, vf step) {
    return vf_mul(step, vf_sub(vf_mul(step, sum_l), vf_add(sum_x, sum_x)));
}

QUENCH_INLINE void try_ranges(int count, const int *tenths, const struct columns *c, vf peak, float scale,
                              struct choice *best) {
    vf inverse[4], sum_x[4], sum_l[4];
    for (int k = 0; k < count; k++) {
        inverse[k] = vf_div(vf_set(-((float)HALF + 0.1f * (float)tenths[k])), peak);
    }
    explain_scales(count, tenths, HALF, c, inverse, sum_x, sum_l);
    for (int k = 0; k < count; k++) {
        const vf level = bounded(vf_mul(vf_div(sum_x[k], sum_l[k]), vf_set(1.0f / scale)), -32, 31);
        const vf error = relative_error(sum_x[k], sum_l[k], vf_mul(vf_set(scale), level));
        const vm better = vf_lt(error, best->error);
        best->level = vf_pick(better, level, best->level);
        best->error = vf_pick(better, error, best->error);
    }
}

QUENCH_INLINE vf better_levels(const struct columns *c, float scale, vf level, int weighted) {
    const int plain[] = REFINE_Q3_K_PLAIN, wide[] = REFINE_Q3_K_WEIGHTED, flipped[] = REFINE_Q3_K_FLIPPED;
    const int both[] = {BOTH_ENDS};
    const vf peak = extreme_of(c->x), step = vf_mul(vf_set(scale), level), inverse = vf_div(vf_set(1.0f), step);
    vf energy = vf_set(0.0f), sum_x, sum_l;
    for (int i = 0; i < GROUP; i++) {
        energy = vf_add(energy, vf_mul(vf_load(c->product + i * W), vf_load(c->x + i * W)));
    }
    explain_scales(1, both, HALF, c, &inverse, &sum_x, &sum_l);
    struct choice best = {level, relative_error(sum_x, sum_l, step)};
    best.error = vf_pick(vf_eq(step, vf_set(0.0f)), vf_set(0.0f), best.error);
    best.error = vf_sub(best.error, vf_add(vf_mul(vf_set(REFINE_Q3_K_MARGIN), energy), vf_set(REFINE_TINY)));
    if (weighted) {
        try_ranges(4, wide, c, peak, scale, &best);
        try_ranges(4, wide + 4, c, peak, scale, &best);
        try_ranges(4, flipped, c, vf_neg(peak), scale, &best);
    } else {
        try_ranges(3, plain, c, peak, scale, &best);
        try_ranges(3, plain + 3, c, peak, scale, &best);
    }
    return vf_pick(vf_lt(vf_abs(peak), vf_set(QUENCH_ZERO_GROUP)), level, best.level);
}

static void refine(const float *x, const float *importance, struct block_q3_k *block) {
    const float scale = load_half(block->scale);
    _Alignas(64) float old[GROUPS], levels[GROUPS];
    uint8_t stored[GROUPS] = {0}, codes[SUPER_BLOCK] = {0};
    if (scale == 0.0f || !is_finite(scale)) {
        return;
    }
    unpack_plane(PLANE_LEVELS_Q3_K, block->levels, stored);
    unpack_plane(PLANE_LEVELS_HIGH_Q3_K, block->levels + 8, stored);
    for (int group = 0; group < GROUPS; group++) {
        old[group] = (float)(stored[group] - 32);
    }
    for (int group = 0; group < GROUPS; group += W) {
        struct columns c;
        load_columns(x + group * GROUP, GROUP, c.x);
        if (importance) {
            load_columns(importance + group * GROUP, GROUP, c.weight);
        } else {
            for (int i = 0; i < GROUP; i++) {
                vf_store(c.weight + i * W, vf_set(1.0f));
            }
        }
        weigh_columns(&c);
        const vf level = better_levels(&c, scale, vf_load(old + group), importance != NULL);
        vf_store(levels + group, level);
        vi_store_bytes(stored + group, vi_nearest(vf_add(level, vf_set(32.0f))));
    }
    if (!levels_differ(old, levels)) {
        return;
    }
    unpack_plane(PLANE_CODES_Q2_K, block->codes, codes);
    unpack_plane(PLANE_HIGH_Q3_K, block->high, codes);
    recode_changed(HALF, scale, x, old, levels, codes);
    pack_plane(PLANE_LEVELS_Q3_K, stored, block->levels);
    pack_plane(PLANE_LEVELS_HIGH_Q3_K, stored, block->levels + 8);
    pack_plane(PLANE_CODES_Q2_K, codes, block->codes);
    pack_plane(PLANE_HIGH_Q3_K, codes, block->high);
}

void LANES(refine_q3_k)(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    struct block_q3_k *block = (struct block_q3_k *)blocks;
    for (size_t i = 0; i < n; i++) {
        refine(x + i * SUPER_BLOCK, importance ? importance + i * SUPER_BLOCK : NULL, &block[i]);
    }
}
