/* Q2_K, Q4_K, Q5_K: super-blocks of 256 whose groups are x ~ scale * code - low. Scales and lows of the groups are
 * small integer levels of two 16-bit floats. One encoder, three formats described by data. */
#include <math.h>
#include <string.h>

#include "../blocks.h"
#include "../numeric.h"
#include "codecs.h"
#include "k_min.h"

/* ---- levels ---- */

static float round_levels(const struct k_min_format *format, int groups, const float *values, uint8_t *levels) {
    float most = 0.0f;
    for (int i = 0; i < groups; i++) {
        most = values[i] > most ? values[i] : most;
    }
    float inverse = most > 0.0f ? (float)format->level_top / most : 0.0f;
    for (int i = 0; i < groups; i++) {
        levels[i] = (uint8_t)nearest(inverse * values[i]);
    }
    return most / (float)format->level_top;
}

static void cap_levels(const struct k_min_format *format, struct levels *levels) {
    for (int i = 0; i < MOST_GROUPS; i++) {
        levels->scales[i] = (uint8_t)clamp(levels->scales[i], 0, format->level_top);
        levels->lows[i] = (uint8_t)clamp(levels->lows[i], 0, format->level_top);
    }
}

static void find_plain(const struct k_min_format *format, const float *x, uint8_t *codes, struct levels *levels) {
    float scales[MOST_GROUPS], lows[MOST_GROUPS];
    const int n = format->group, groups = SUPER_BLOCK / n;
    for (int group = 0; group < groups; group++) {
        const float *own = x + group * n;
        float weight[LONGEST_GROUP], square_sum = 0.0f, base = 0.0f;
        if (format->plain_rms) {
            for (int i = 0; i < n; i++) {
                square_sum += own[i] * own[i];
            }
            base = sqrtf(square_sum / (float)n);
        }
        for (int i = 0; i < n; i++) {
            weight[i] = base + magnitude(own[i]);
        }
        scales[group] = quench_fit_range(n, format->top, format->plain, own, weight, codes + group * n, &lows[group]);
    }
    levels->scale = round_levels(format, groups, scales, levels->scales);
    levels->low = round_levels(format, groups, lows, levels->lows);
    if (format->cap_plain) {
        cap_levels(format, levels);
    }
}

static void find_with_importance(const struct k_min_format *format, const float *x, const float *importance,
                                 uint8_t *codes, struct levels *levels) {
    float scales[MOST_GROUPS], lows[MOST_GROUPS], group_weight[MOST_GROUPS];
    const int n = format->group, groups = SUPER_BLOCK / n;
    float energy = 0.0f;
    for (int i = 0; i < SUPER_BLOCK; i++) {
        energy += x[i] * x[i];
    }
    energy = format->energy_factor * energy / (float)SUPER_BLOCK;
    for (int group = 0; group < groups; group++) {
        const float *own = x + group * n;
        float weight[LONGEST_GROUP], sum = 0.0f;
        for (int i = 0; i < n; i++) {
            weight[i] = importance[group * n + i] * sqrtf(energy + own[i] * own[i]);
            sum += weight[i];
        }
        group_weight[group] = sum;
        scales[group] =
            quench_fit_range(n, format->top, grid_with_importance, own, weight, codes + group * n, &lows[group]);
    }
    levels->scale = quench_fit_levels(groups, format->level_top, scales, group_weight, levels->scales);
    levels->low = quench_fit_levels(groups, format->level_top, lows, group_weight, levels->lows);
    if (format->cap_fitted) {
        cap_levels(format, levels);
    }
}

/* ---- blocks ---- */

/* Q2_K: one byte a group. */
static void pack_levels_4(const struct levels *levels, uint8_t *out) {
    for (int i = 0; i < 16; i++) {
        out[i] = (uint8_t)(levels->scales[i] | levels->lows[i] << 4);
    }
}

static void unpack_levels_4(const uint8_t *in, struct levels *levels) {
    for (int i = 0; i < 16; i++) {
        levels->scales[i] = in[i] & 15;
        levels->lows[i] = in[i] >> 4;
    }
}

/* Q4_K, Q5_K: 8 + 8 levels of 6 bits in 12 bytes. Groups 0 to 3 have a byte a level; groups 4 to 7 share a byte for
 * the four low bits of scale and low, and their two high bits fill the first eight bytes. */
static void pack_levels_6(const struct levels *levels, uint8_t *out) {
    const uint8_t *scales = levels->scales, *lows = levels->lows;
    for (int i = 0; i < 4; i++) {
        out[i] = (uint8_t)(scales[i] | (scales[i + 4] >> 4) << 6);
        out[i + 4] = (uint8_t)(lows[i] | (lows[i + 4] >> 4) << 6);
        out[i + 8] = (uint8_t)((scales[i + 4] & 15) | (lows[i + 4] & 15) << 4);
    }
}

static void pack_levels(const struct k_min_format *format, const struct levels *levels, uint8_t *block) {
    store_half(block + format->numbers, levels->scale);
    store_half(block + format->numbers + 2, levels->low);
    if (format->group == 16) {
        pack_levels_4(levels, block + format->levels);
    } else {
        pack_levels_6(levels, block + format->levels);
    }
}

void quench_unpack_levels(const struct k_min_format *format, const uint8_t *block, struct levels *levels) {
    memset(levels, 0, sizeof *levels);
    levels->scale = load_half(block + format->numbers);
    levels->low = load_half(block + format->numbers + 2);
    if (format->group == 16) {
        unpack_levels_4(block + format->levels, levels);
    } else {
        unpack_levels_q4_k(block + format->levels, levels->scales, levels->lows);
    }
}

static void pack_codes(const struct k_min_format *format, const uint8_t *codes, uint8_t *block) {
    pack_plane(format->group == 16 ? PLANE_CODES_Q2_K : PLANE_CODES_Q4_K, codes, block + format->codes);
    if (format->fifth) {
        pack_plane(PLANE_HIGH_Q5_K, codes, block + format->fifth);
    }
}

void quench_pack_k_min(const struct k_min_format *format, const struct levels *levels, const uint8_t *codes,
                       uint8_t *block) {
    pack_levels(format, levels, block);
    pack_codes(format, codes, block);
}

void quench_unpack_k_min(const struct k_min_format *format, const uint8_t *block, struct levels *levels,
                         uint8_t *codes) {
    quench_unpack_levels(format, block, levels);
    memset(codes, 0, SUPER_BLOCK);
    unpack_plane(format->group == 16 ? PLANE_CODES_Q2_K : PLANE_CODES_Q4_K, block + format->codes, codes);
    if (format->fifth) {
        unpack_plane(PLANE_HIGH_Q5_K, block + format->fifth, codes);
    }
}

/* ---- codes ---- */

static void find(const struct k_min_format *format, const float *x, const float *importance, uint8_t *codes,
                 struct levels *levels) {
    memset(levels, 0, sizeof *levels);
    if (importance) {
        find_with_importance(format, x, importance, codes, levels);
    } else {
        find_plain(format, x, codes, levels);
    }
}

/* Codes for the scales as they were stored. A group whose scale became zero keeps the search's codes. */
static void recode(const struct k_min_format *format, const float *x, const struct levels *levels, uint8_t *codes) {
    for (int group = 0; group < SUPER_BLOCK / format->group; group++) {
        float scale = levels->scale * (float)levels->scales[group];
        float low = levels->low * (float)levels->lows[group];
        if (scale == 0.0f) {
            continue;
        }
        for (int i = group * format->group; i < (group + 1) * format->group; i++) {
            codes[i] = (uint8_t)clamp(nearest((x[i] + low) / scale), 0, format->top);
        }
    }
}

static void encode(const struct k_min_format *format, const float *x, const float *importance, uint8_t *blocks,
                   size_t n) {
    for (size_t i = 0; i < n; i++, x += SUPER_BLOCK, blocks += format->bytes) {
        uint8_t codes[SUPER_BLOCK];
        struct levels levels;
        find(format, x, importance ? importance + i * SUPER_BLOCK : NULL, codes, &levels);
        pack_levels(format, &levels, blocks);
        quench_unpack_levels(format, blocks, &levels);
        recode(format, x, &levels, codes);
        pack_codes(format, codes, blocks);
    }
}

static void decode(const struct k_min_format *format, const uint8_t *blocks, float *x, size_t n) {
    for (size_t block = 0; block < n; block++, x += SUPER_BLOCK, blocks += format->bytes) {
        uint8_t codes[SUPER_BLOCK];
        struct levels levels;
        quench_unpack_k_min(format, blocks, &levels, codes);
        for (int i = 0; i < SUPER_BLOCK; i++) {
            float scale = levels.scale * (float)levels.scales[i / format->group];
            float low = levels.low * (float)levels.lows[i / format->group];
            x[i] = scale * (float)codes[i] - low;
        }
    }
}

/* ---- formats ---- */

void quench_encode_q2_k(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    encode(&q2_k, x, importance, blocks, n);
}

void quench_encode_q4_k(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    encode(&q4_k, x, importance, blocks, n);
}

void quench_encode_q5_k(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    encode(&q5_k, x, importance, blocks, n);
}

void quench_decode_q2_k(const uint8_t *blocks, float *x, size_t n) {
    decode(&q2_k, blocks, x, n);
}

void quench_decode_q4_k(const uint8_t *blocks, float *x, size_t n) {
    decode(&q4_k, blocks, x, n);
}

void quench_decode_q5_k(const uint8_t *blocks, float *x, size_t n) {
    decode(&q5_k, blocks, x, n);
}
