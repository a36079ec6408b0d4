/* Q3_K: lane = group of 16 weights, and lane = super-block where sums run over whole super-blocks. */
#include "../reference/codecs.h"
#include "descent.h"
#include "lanes.h"
#include "planes.h"
#include "recode.h"

enum { HALF = 4, HALF_LEVELS = 32 };

/* ---- groups ---- */

/* Sums of squares of up to BATCH super-blocks, each in the order of its weights. */
static void sum_squares(const float *x, size_t n, float *sums) {
    if (n < BATCH) {
        for (size_t i = 0; i < n; i++) {
            sums[i] = 0.0f;
            for (size_t k = 0; k < SUPER_BLOCK; k++) {
                sums[i] += x[i * SUPER_BLOCK + k] * x[i * SUPER_BLOCK + k];
            }
        }
        return;
    }
    vf sum = vf_set(0.0f);
    for (int i = 0; i < SUPER_BLOCK; i += 8) {
        vf part[8];
        vf_transpose8(x + i, SUPER_BLOCK, part);
        for (int k = 0; k < 8; k++) {
            sum = vf_add(sum, vf_mul(part[k], part[k]));
        }
    }
    vf_store(sums, sum);
}

static void find_with_importance(const float *x, const float *importance, size_t n, struct found *found,
                                 float *group_weights) {
    struct columns c;
    float sums[QUENCH_W];
    sum_squares(x, n, sums);
    for (size_t group = 0; group < n * GROUPS; group += W) {
        const vf energy = vf_set(2.0f * sums[group / GROUPS] / (float)SUPER_BLOCK);
        vf sum = vf_set(0.0f);
        load_columns(x + group * GROUP, GROUP, c.x);
        load_columns(importance + group * GROUP, GROUP, c.weight);
        for (int i = 0; i < GROUP; i++) {
            const vf value = vf_load(c.x + i * W);
            const vf size = vf_sqrt(vf_add(energy, vf_mul(value, value)));
            const vf weight = vf_mul(vf_load(c.weight + i * W), size);
            vf_store(c.weight + i * W, weight);
            sum = vf_add(sum, weight);
        }
        weigh_columns(&c);
        const vf peak = extreme_of(c.x);
        const struct fit fit = fit_columns(HALF, &c, peak);
        vf_store(found->scales + group, fit.scale);
        vf_store(found->inverses + group, fit.inverse);
        vf_store(found->peaks + group, peak);
        vf_store(group_weights + group, sum);
    }
}

/* ---- levels ---- */

/* Of each super-block: the scale of the levels, and the factor that makes levels of group scales. */
struct level_scales {
    _Alignas(64) float scales[QUENCH_W];
    _Alignas(64) float inverses[QUENCH_W];
};

QUENCH_INLINE struct level_scales scale_levels(const struct found *found, const float *group_weights) {
    struct level_scales result;
    struct columns c;
    load_columns(found->scales, GROUPS, c.x);
    const vf peak = extreme_of(c.x);
    if (!group_weights) {
        const vf inverse = vf_div(vf_set((float)-HALF_LEVELS), peak);
        vf_store(result.inverses, inverse);
        vf_store(result.scales, vf_pick(vf_eq(peak, vf_set(0.0f)), vf_set(0.0f), vf_div(vf_set(1.0f), inverse)));
        return result;
    }
    load_columns(group_weights, GROUPS, c.weight);
    weigh_columns(&c);
    const struct fit fit = fit_columns(HALF_LEVELS, &c, peak);
    vf_store(result.inverses, fit.inverse);
    vf_store(result.scales, fit.scale);
    return result;
}

/* ---- blocks ---- */

static void pack(const uint8_t *codes, uint8_t *levels, struct block_q3_k *block) {
    pack_plane(PLANE_LEVELS_Q3_K, levels, block->levels);
    pack_plane(PLANE_LEVELS_HIGH_Q3_K, levels, block->levels + 8);
    pack_wide(PLANE_CODES_Q2_K, codes, block->codes);
    pack_wide(PLANE_HIGH_Q3_K, codes, block->high);
}

/* Returns 0 where the reference has to encode. A scale of zero stands for super-blocks without any group scale, whose
 * levels are stored as zeros. */
QUENCH_INLINE int finish(const float *x, float scale, float inverse, const float *scales, const float *peaks,
                         const float *inverses, struct block_q3_k *block) {
    _Alignas(64) float levels[GROUPS];
    uint8_t stored[GROUPS], codes[SUPER_BLOCK];
    for (int i = 0; i < GROUPS; i += W) {
        vf level = vf_mul(vf_set(inverse), vf_load(scales + i));
        level = vf_round(vf_most(vf_least(level, vf_set(31.0f)), vf_set(-32.0f)));
        level = scale == 0.0f ? vf_set(-32.0f) : level;
        vf_store(levels + i, level);
        vi_store_bytes(stored + i, vi_nearest(vf_add(level, vf_set(32.0f))));
    }
    store_half(block->scale, scale);
    if (!recode(HALF, load_half(block->scale), levels, x, scales, peaks, inverses, codes)) {
        return 0;
    }
    pack(codes, stored, block);
    return 1;
}

void LANES(encode_q3_k)(const float *x, const float *importance, float row_energy, uint8_t *out, size_t n) {
    (void)row_energy;
    struct block_q3_k *blocks = (struct block_q3_k *)out;
    struct found found = {{0}, {0}, {0}};
    _Alignas(64) float group_weights[BATCH * GROUPS] = {0};
    for (size_t first = 0; first < n; first += BATCH) {
        const size_t count = n - first < BATCH ? n - first : BATCH;
        const float *own = x + first * SUPER_BLOCK;
        const float *weight = importance ? importance + first * SUPER_BLOCK : NULL;
        if (importance) {
            find_with_importance(own, weight, count, &found, group_weights);
        } else {
            descend(HALF, own, count * GROUPS / W, found.scales, found.peaks);
        }
        const struct level_scales levels = scale_levels(&found, importance ? group_weights : NULL);
        for (size_t i = 0; i < count; i++) {
            if (!finish(own + i * SUPER_BLOCK, levels.scales[i], levels.inverses[i], found.scales + i * GROUPS,
                        found.peaks + i * GROUPS, importance ? found.inverses + i * GROUPS : NULL, &blocks[first + i])) {
                quench_encode_q3_k(own + i * SUPER_BLOCK, weight ? weight + i * SUPER_BLOCK : NULL, 0.0f,
                                   (uint8_t *)&blocks[first + i], 1);
            }
        }
    }
}
