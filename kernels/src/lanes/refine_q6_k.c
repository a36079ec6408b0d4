/* Refinement of Q6_K, operation for operation as in reference/refine_symmetric.c. */
#include "lanes.h"
#include "pairs.h"
#include "refine.h"

enum { HALF = 32, PAIRS = GROUP / 2 };

struct scan {
    vi x[PAIRS], weight[PAIRS];
    vf unit, least;
};

QUENCH_INLINE struct scan begin_scan(const struct columns *c, int weighted, vf size, vf heaviest, float scale,
                                     vf step) {
    struct scan scan;
    const vf ratio = vf_div(vf_set(32767.0f), size);
    const vf factor = vf_pick(vf_lt(step, vf_set(0.0f)), vf_neg(ratio), ratio);
    const vf weight_factor = vf_div(vf_set(32767.0f), heaviest);
    vi high = vi_set(0), low = vi_set(0);
    for (int i = 0; i < PAIRS; i++) {
        const vi first = vi_nearest(vf_mul(vf_load(c->x + 2 * i * W), factor));
        const vi second = vi_nearest(vf_mul(vf_load(c->x + (2 * i + 1) * W), factor));
        scan.x[i] = pairs(first, second);
        high = vi_most(high, vi_most(first, second));
        low = vi_least(low, vi_least(first, second));
    }
    for (int i = 0; i < PAIRS && weighted; i++) {
        scan.weight[i] = pairs(vi_nearest(vf_mul(vf_load(c->weight + 2 * i * W), weight_factor)),
                               vi_nearest(vf_mul(vf_load(c->weight + (2 * i + 1) * W), weight_factor)));
    }
    const vf reach = vf_most(vf_mul(vf_from_vi(high), vf_set(REFINE_REACH_HIGH)),
                             vf_mul(vf_neg(vf_from_vi(low)), vf_set(REFINE_REACH_LOW)));
    scan.unit = vf_div(size, vf_set(magnitude(scale)));
    scan.least = vf_most(vf_mul(reach, scan.unit), vf_set(1.0f));
    return scan;
}

/* Squares of what is left of x / step beside whole numbers, in units of 2^-28. */
QUENCH_INLINE vi remainders(const struct scan *scan, int weighted, vi inverse) {
    const vi both = pairs(inverse, inverse);
    vi sum = vi_set(0);
    for (int i = 0; i < PAIRS; i++) {
        const vi rest = pairs_right_signed(pairs_left(pairs_scaled(scan->x[i], both), 7), 2);
        sum = vi_add(sum, pairs_dot(rest, weighted ? pairs_scaled(rest, scan->weight[i]) : rest));
    }
    return sum;
}

/* The magnitudes of the levels that promise most. */
QUENCH_INLINE vf scan_levels(const struct scan *scan, int weighted, vf level) {
    const vf size = vf_abs(level), factor = vf_mul(vf_set(REFINE_UNIT), scan->unit);
    const vf limit = vf_pick(vf_lt(level, vf_set(0.0f)), vf_set(128.0f), vf_set(127.0f));
    vf best = vf_set(INFINITY), found = size;
    for (int more = REFINE_Q6_K_FIRST; more <= REFINE_Q6_K_LAST; more++) {
        if (more == 0) {
            continue;
        }
        const vf tried = vf_add(size, vf_set((float)more));
        const vm possible = vm_and(vf_ge(tried, scan->least), vf_le(tried, limit));
        const vi sum = remainders(scan, weighted, vi_nearest(vf_div(factor, tried)));
        const vf error = vf_mul(vf_from_vi(sum), vf_mul(tried, tried));
        const vm better = vm_and(possible, vf_lt(error, best));
        best = vf_pick(better, error, best);
        found = vf_pick(better, tried, found);
    }
    return found;
}

/* The errors of the numbers that two levels stand for. */
QUENCH_INLINE void level_errors(const struct columns *c, int weighted, const vf *step, vf *error) {
    vf inverse[2];
    for (int k = 0; k < 2; k++) {
        inverse[k] = vf_div(vf_set(1.0f), step[k]);
        error[k] = vf_set(0.0f);
    }
    for (int i = 0; i < GROUP; i++) {
        const vf x = vf_load(c->x + i * W);
        for (int k = 0; k < 2; k++) {
            const vf code = bounded(vf_mul(inverse[k], x), -HALF, HALF - 1);
            const vf miss = vf_sub(x, vf_mul(step[k], code)), square = vf_mul(miss, miss);
            error[k] = vf_add(error[k], weighted ? vf_mul(vf_load(c->weight + i * W), square) : square);
        }
    }
}

QUENCH_INLINE vf better_levels(const struct columns *c, int weighted, float scale, vf level) {
    const vf size = vf_abs(extreme_of(c->x));
    vf step[2] = {vf_mul(vf_set(scale), level)}, error[2], heaviest = vf_set(1.0f);
    if (weighted) {
        heaviest = vf_set(0.0f);
        for (int i = 0; i < GROUP; i++) {
            heaviest = vf_most(vf_load(c->weight + i * W), heaviest);
        }
    }
    const struct scan scan = begin_scan(c, weighted, size, heaviest, scale, step[0]);
    vf found = scan_levels(&scan, weighted, level);
    found = vf_pick(vf_lt(level, vf_set(0.0f)), vf_neg(found), found);
    step[1] = vf_mul(vf_set(scale), found);
    level_errors(c, weighted, step, error);
    vm better = vf_lt(error[1], vf_mul(vf_set(REFINE_Q6_K_GAIN), error[0]));
    better = vm_and(better, vf_gt(error[0], vf_set(REFINE_TINY)));
    better = vm_and(better, vm_not(vf_eq(step[0], vf_set(0.0f))));
    better = vm_and(better, vm_and(vf_ge(size, vf_set(QUENCH_ZERO_GROUP)), vf_ge(heaviest, vf_set(REFINE_TINY))));
    return vf_pick(better, found, level);
}

static void refine(const float *x, const float *importance, struct block_q6_k *block) {
    const float scale = load_half(block->scale);
    _Alignas(64) float old[GROUPS], levels[GROUPS];
    uint8_t codes[SUPER_BLOCK] = {0};
    if (scale == 0.0f || !is_finite(scale)) {
        return;
    }
    for (int group = 0; group < GROUPS; group++) {
        old[group] = (float)(int8_t)block->levels[group];
    }
    for (int group = 0; group < GROUPS; group += W) {
        struct columns c;
        load_columns(x + group * GROUP, GROUP, c.x);
        if (importance) {
            load_columns(importance + group * GROUP, GROUP, c.weight);
        }
        vf_store(levels + group, better_levels(&c, importance != NULL, scale, vf_load(old + group)));
    }
    if (!levels_differ(old, levels)) {
        return;
    }
    unpack_plane(PLANE_CODES_Q6_K, block->codes, codes);
    unpack_plane(PLANE_HIGH_Q6_K, block->high, codes);
    recode_changed(HALF, scale, x, old, levels, codes);
    for (int group = 0; group < GROUPS; group += W) {
        vi_store_bytes(block->levels + group, vi_nearest(vf_load(levels + group)));
    }
    pack_plane(PLANE_CODES_Q6_K, codes, block->codes);
    pack_plane(PLANE_HIGH_Q6_K, codes, block->high);
}

void LANES(refine_q6_k)(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    struct block_q6_k *block = (struct block_q6_k *)blocks;
    for (size_t i = 0; i < n; i++) {
        refine(x + i * SUPER_BLOCK, importance ? importance + i * SUPER_BLOCK : NULL, &block[i]);
    }
}
