/* Q3_K, Q6_K: super-blocks of 256 in groups of 16, x ~ scale * level * (code - half) with signed levels. */
#include <math.h>
#include <string.h>

#include "../blocks.h"
#include "../numeric.h"
#include "codecs.h"
#include "search.h"

enum { GROUP = 16, GROUPS = 16 };

/* Half the number of codes. */
enum { HALF_Q3_K = 4, HALF_Q6_K = 32 };

/* Codes for the scales as they were stored. A group whose scale became zero keeps the search's codes. */
static void recode(int half, float scale, const int8_t *levels, const float *x, uint8_t *codes) {
    for (int group = 0; group < GROUPS; group++) {
        float step = scale * (float)levels[group];
        if (step == 0.0f) {
            continue;
        }
        for (int i = group * GROUP; i < (group + 1) * GROUP; i++) {
            int code = clamp(nearest(x[i] / step), -half, half - 1);
            codes[i] = (uint8_t)(code + half);
        }
    }
}

static void decode(int half, float scale, const int8_t *levels, const uint8_t *codes, float *x) {
    for (int group = 0; group < GROUPS; group++) {
        float step = scale * (float)levels[group];
        for (int i = group * GROUP; i < (group + 1) * GROUP; i++) {
            x[i] = step * (float)((int)codes[i] - half);
        }
    }
}

/* The group scale of the largest magnitude, with its sign. */
static float extreme_scale(const float *scales) {
    float size = 0.0f, value = 0.0f;
    for (int group = 0; group < GROUPS; group++) {
        if (magnitude(scales[group]) > size) {
            size = magnitude(scales[group]);
            value = scales[group];
        }
    }
    return value;
}

/* ---- Q3_K: 6-bit levels, stored as level + 32 ---- */

static float find_q3_k_plain(const float *x, uint8_t *codes, uint8_t *levels) {
    float scales[GROUPS];
    for (int group = 0; group < GROUPS; group++) {
        scales[group] = quench_descend_symmetric(GROUP, HALF_Q3_K, x + group * GROUP, codes + group * GROUP);
    }
    float peak = extreme_scale(scales);
    if (peak == 0.0f) {
        memset(levels, 0, GROUPS);
        return 0.0f;
    }
    float inverse = -32.0f / peak;
    for (int group = 0; group < GROUPS; group++) {
        /* Kept in a signed byte before the clamp. */
        levels[group] = (uint8_t)(clamp((int8_t)nearest(inverse * scales[group]), -32, 31) + 32);
    }
    return 1.0f / inverse;
}

static float find_q3_k_with_importance(const float *x, const float *importance, uint8_t *codes, uint8_t *levels) {
    float scales[GROUPS], group_weight[GROUPS], energy = 0.0f;
    for (int i = 0; i < SUPER_BLOCK; i++) {
        energy += x[i] * x[i];
    }
    energy = 2.0f * energy / (float)SUPER_BLOCK;
    for (int group = 0; group < GROUPS; group++) {
        const float *own = x + group * GROUP;
        float weight[GROUP], sum = 0.0f;
        for (int i = 0; i < GROUP; i++) {
            weight[i] = importance[group * GROUP + i] * sqrtf(energy + own[i] * own[i]);
            sum += weight[i];
        }
        group_weight[group] = sum;
        scales[group] = quench_fit_symmetric(GROUP, HALF_Q3_K, own, weight, codes + group * GROUP);
    }
    return quench_fit_symmetric(GROUPS, 32, scales, group_weight, levels);
}

void quench_encode_q3_k(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    struct block_q3_k *block = (struct block_q3_k *)blocks;
    for (size_t i = 0; i < n; i++, x += SUPER_BLOCK) {
        uint8_t codes[SUPER_BLOCK], stored[GROUPS];
        int8_t levels[GROUPS];
        float scale = importance ? find_q3_k_with_importance(x, importance + i * SUPER_BLOCK, codes, stored)
                                 : find_q3_k_plain(x, codes, stored);
        store_half(block[i].scale, scale);
        pack_plane(PLANE_LEVELS_Q3_K, stored, block[i].levels);
        pack_plane(PLANE_LEVELS_HIGH_Q3_K, stored, block[i].levels + 8);
        unpack_levels_q3_k(block[i].levels, levels);
        recode(HALF_Q3_K, load_half(block[i].scale), levels, x, codes);
        pack_plane(PLANE_CODES_Q2_K, codes, block[i].codes);
        pack_plane(PLANE_HIGH_Q3_K, codes, block[i].high);
    }
}

void quench_decode_q3_k(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q3_k *block = (const struct block_q3_k *)blocks;
    for (size_t i = 0; i < n; i++, x += SUPER_BLOCK) {
        uint8_t codes[SUPER_BLOCK] = {0};
        int8_t levels[GROUPS];
        unpack_levels_q3_k(block[i].levels, levels);
        unpack_plane(PLANE_CODES_Q2_K, block[i].codes, codes);
        unpack_plane(PLANE_HIGH_Q3_K, block[i].high, codes);
        decode(HALF_Q3_K, load_half(block[i].scale), levels, codes, x);
    }
}

/* ---- Q6_K: levels are signed bytes ---- */

void quench_encode_q6_k(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    struct block_q6_k *block = (struct block_q6_k *)blocks;
    for (size_t i = 0; i < n; i++, x += SUPER_BLOCK) {
        uint8_t codes[SUPER_BLOCK];
        int8_t levels[GROUPS];
        float scales[GROUPS];
        for (int group = 0; group < GROUPS; group++) {
            const float *weight = importance ? importance + i * SUPER_BLOCK + group * GROUP : NULL;
            scales[group] =
                quench_fit_symmetric(GROUP, HALF_Q6_K, x + group * GROUP, weight, codes + group * GROUP);
        }
        float peak = extreme_scale(scales);
        if (magnitude(peak) < QUENCH_ZERO_GROUP) {
            memset(&block[i], 0, sizeof block[i]);
            continue;
        }
        float inverse = -128.0f / peak;
        store_half(block[i].scale, 1.0f / inverse);
        for (int group = 0; group < GROUPS; group++) {
            int level = nearest(inverse * scales[group]);
            levels[group] = (int8_t)(level < 127 ? level : 127);
            block[i].levels[group] = (uint8_t)levels[group];
        }
        recode(HALF_Q6_K, load_half(block[i].scale), levels, x, codes);
        pack_plane(PLANE_CODES_Q6_K, codes, block[i].codes);
        pack_plane(PLANE_HIGH_Q6_K, codes, block[i].high);
    }
}

void quench_decode_q6_k(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q6_k *block = (const struct block_q6_k *)blocks;
    for (size_t i = 0; i < n; i++, x += SUPER_BLOCK) {
        uint8_t codes[SUPER_BLOCK] = {0};
        int8_t levels[GROUPS];
        memcpy(levels, block[i].levels, sizeof levels);
        unpack_plane(PLANE_CODES_Q6_K, block[i].codes, codes);
        unpack_plane(PLANE_HIGH_Q6_K, block[i].high, codes);
        decode(HALF_Q6_K, load_half(block[i].scale), levels, codes, x);
    }
}
