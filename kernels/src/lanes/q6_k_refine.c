/* Refinement of Q6_K, operation for operation as in reference/k_symmetric_refine.c. */
#include "lanes.h"
#include "narrow.h"
#include "pairs.h"
#include "planes.h"
#include "symmetric_refine.h"

enum { HALF = 32, PAIRS = GROUP / 2 };

struct scan {
    vi x[PAIRS], weight[PAIRS];
    vf size, unit, least, limit;
};

QUENCH_INLINE struct scan begin_scan(const struct columns *c, int weighted, vf heaviest, float scale, vf level) {
    const vf step = vf_mul(vf_set(scale), level);
    struct scan scan;
    vf high = vf_set(0.0f), low = vf_set(0.0f);
    for (int i = 0; i < GROUP; i++) {
        high = vf_most(vf_load(c->x + i * W), high);
        low = vf_least(vf_load(c->x + i * W), low);
    }
    low = vf_neg(low);
    scan.size = vf_most(high, low);
    const vm negative = vf_lt(step, vf_set(0.0f));
    const vf factor = vf_div(vf_pick(negative, vf_set(-32767.0f), vf_set(32767.0f)), scan.size);
    for (int i = 0; i < PAIRS; i++) {
        scan.x[i] = pairs(vi_nearest(vf_mul(vf_load(c->x + 2 * i * W), factor)),
                          vi_nearest(vf_mul(vf_load(c->x + (2 * i + 1) * W), factor)));
    }
    const vf weight_factor = vf_div(vf_set(32767.0f), heaviest);
    for (int i = 0; i < PAIRS && weighted; i++) {
        scan.weight[i] = pairs(vi_nearest(vf_mul(vf_load(c->weight + 2 * i * W), weight_factor)),
                               vi_nearest(vf_mul(vf_load(c->weight + (2 * i + 1) * W), weight_factor)));
    }
    const vf up = vf_pick(negative, low, high), down = vf_pick(negative, high, low);
    const vf reach = vf_most(vf_mul(up, vf_set(REFINE_REACH_HIGH)), vf_mul(down, vf_set(REFINE_REACH_LOW)));
    const vf part = vf_set(1.0f / magnitude(scale));
    scan.limit = vf_pick(vf_lt(level, vf_set(0.0f)), vf_set(128.0f), vf_set(127.0f));
    scan.unit = vf_mul(vf_mul(vf_set(REFINE_UNIT), scan.size), part);
    scan.least = vf_least(vf_add(vf_mul(reach, part), vf_set(0.5f)), vf_set(1000.0f));
    scan.least = vf_most(vf_round(scan.least), vf_set(1.0f));
    return scan;
}

/* Squares of what is left of x / step beside whole numbers, in units of 2^-28. */
QUENCH_INLINE vi remainders(const struct scan *scan, int weighted, vi inverse) {
    vi sum = vi_set(0);
    for (int i = 0; i < PAIRS; i++) {
        const vi rest = pairs_right_signed(pairs_left(pairs_scaled(scan->x[i], inverse), 7), 2);
        sum = vi_add(sum, pairs_dot(rest, weighted ? pairs_scaled(rest, scan->weight[i]) : rest));
    }
    return sum;
}

/* Beyond what is possible the same levels come again. */
QUENCH_INLINE vf tried_level(const struct scan *scan, vf size) {
    return vf_most(vf_least(size, scan->limit), scan->least);
}

/* The magnitudes of the levels that promise most. The divisions have a loop of their own, since in the middle of the
 * sums they would make all of them wait. */
QUENCH_INLINE vf scan_levels(const struct scan *scan, int weighted, int n, const float *more, vf level) {
    _Alignas(64) int32_t inverses[REFINE_Q6_K_PLAIN_TRIED * QUENCH_W];
    const vf size = vf_abs(level);
    for (int i = 0; i < n; i += 2) {
        const vf a = tried_level(scan, vf_add(size, vf_set(more[i])));
        const vf b = tried_level(scan, vf_add(size, vf_set(more[i + 1])));
        const vf inverse = vf_div(scan->unit, vf_mul(a, b));
        const vi of_a = vi_nearest(vf_mul(inverse, b)), of_b = vi_nearest(vf_mul(inverse, a));
        vi_store(inverses + i * W, vi_or(of_a, vi_left(of_a, 16)));
        vi_store(inverses + (i + 1) * W, vi_or(of_b, vi_left(of_b, 16)));
    }
    /* Positive floats are ordered like their bits, and the lowest ones can hold the level. */
    vi best = vi_set(INT32_MAX);
    for (int i = 0; i < n; i++) {
        const vf tried = tried_level(scan, vf_add(size, vf_set(more[i])));
        const vf rest = vf_from_vi(remainders(scan, weighted, vi_load(inverses + i * W)));
        const vf error = vf_mul(rest, vf_mul(tried, tried));
        best = vi_least(best, vi_or(vi_and(vi_of_bits(error), vi_set(~0xff)), vi_nearest(tried)));
    }
    return vf_from_vi(vi_and(best, vi_set(0xff)));
}

/* The errors of the numbers that two levels stand for. No code of the second one is clamped. */
QUENCH_INLINE void level_errors(const struct columns *c, int weighted, const vf *step, vf *error) {
    const vf inverse[2] = {vf_div(vf_set(1.0f), step[0]), vf_div(vf_set(1.0f), step[1])};
    error[0] = error[1] = vf_set(0.0f);
    for (int i = 0; i < GROUP; i++) {
        const vf x = vf_load(c->x + i * W);
        const vf code[2] = {bounded(vf_mul(inverse[0], x), -HALF, HALF - 1), vf_round(vf_mul(inverse[1], x))};
        for (int k = 0; k < 2; k++) {
            const vf miss = vf_sub(x, vf_mul(step[k], code[k])), square = vf_mul(miss, miss);
            error[k] = vf_add(error[k], weighted ? vf_mul(vf_load(c->weight + i * W), square) : square);
        }
    }
}

QUENCH_INLINE vf better_levels(const struct columns *c, int weighted, float scale, vf level) {
    vf step[2] = {vf_mul(vf_set(scale), level)}, error[2], heaviest = vf_set(1.0f);
    if (weighted) {
        heaviest = vf_set(0.0f);
        for (int i = 0; i < GROUP; i++) {
            heaviest = vf_most(vf_load(c->weight + i * W), heaviest);
        }
    }
    const struct scan scan = begin_scan(c, weighted, heaviest, scale, level);
    static const float plain[] = REFINE_Q6_K_PLAIN, wide[] = REFINE_Q6_K_WEIGHTED;
    vf found = weighted ? scan_levels(&scan, 1, REFINE_Q6_K_WEIGHTED_TRIED, wide, level)
                        : scan_levels(&scan, 0, REFINE_Q6_K_PLAIN_TRIED, plain, level);
    found = vf_pick(vf_lt(level, vf_set(0.0f)), vf_neg(found), found);
    step[1] = vf_mul(vf_set(scale), found);
    level_errors(c, weighted, step, error);
    vm better = vf_lt(error[1], vf_mul(vf_set(REFINE_Q6_K_GAIN), error[0]));
    better = vm_and(better, vf_gt(error[0], vf_set(REFINE_TINY)));
    better = vm_and(better, vm_and(vf_le(scan.least, scan.limit), vm_not(vf_eq(step[0], vf_set(0.0f)))));
    better = vm_and(better, vm_and(vf_ge(scan.size, vf_set(QUENCH_ZERO_GROUP)), vf_ge(heaviest, vf_set(REFINE_TINY))));
    return vf_pick(better, found, level);
}

QUENCH_INLINE void find_levels(const float *x, const float *importance, const uint8_t *bytes, float *old,
                               float *levels) {
    const struct block_q6_k *block = (const struct block_q6_k *)bytes;
    const float scale = load_half(block->scale);
    for (int group = 0; group < GROUPS; group += W) {
        struct columns c;
        const vf level = vf_from_vi(vi_from_signed_bytes(block->levels + group));
        load_columns(x + group * GROUP, GROUP, c.x);
        if (importance) {
            load_columns(importance + group * GROUP, GROUP, c.weight);
        }
        vf_store(old + group, level);
        vf_store(levels + group, better_levels(&c, importance != NULL, scale, level));
    }
}

QUENCH_INLINE void rewrite(const float *x, const float *old, const float *levels, uint8_t *bytes) {
    struct block_q6_k *block = (struct block_q6_k *)bytes;
    const float scale = load_half(block->scale);
    uint8_t both[2 * SUPER_BLOCK], codes[SUPER_BLOCK];
    int32_t places[GROUPS];
    if (scale == 0.0f || !is_finite(scale) || !find_changed(old, levels, places)) {
        return;
    }
    unpack_wide(PLANE_CODES_Q6_K, 0, block->codes, both);
    unpack_wide(PLANE_HIGH_Q6_K, 1, block->high, both);
    recode_changed(HALF, scale, x, levels, places, both, codes);
    for (int group = 0; group < GROUPS; group += W) {
        vi_store_bytes(block->levels + group, vi_nearest(vf_load(levels + group)));
    }
    pack_wide(PLANE_CODES_Q6_K, codes, block->codes);
    pack_wide(PLANE_HIGH_Q6_K, codes, block->high);
}

void LANES(refine_q6_k)(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    refine_blocks(find_levels, rewrite, sizeof(struct block_q6_k), x, importance, blocks, n);
}
