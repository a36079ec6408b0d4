/* Refinement of Q3_K and Q6_K: other levels for the groups, where the error that counts becomes smaller by them. The
 * scale of the super-block stays. The exact search weighs errors by x * x, or rounds a level from a scale; here the
 * error is that of the stored numbers, weighted by importance or not at all. */
#include <math.h>
#include <string.h>

#include "../blocks.h"
#include "../numeric.h"
#include "codecs.h"
#include "k_symmetric_refine.h"
#include "search.h"

enum { GROUP = 16, GROUPS = 16, HALF_Q3_K = 4, HALF_Q6_K = 32 };

static float least(float a, float b) {
    return a < b ? a : b;
}

static float most(float a, float b) {
    return a > b ? a : b;
}

/* Nearest whole number from low to high; the clamp comes first, so that any quotient will do. */
static float bounded(float value, int low, int high) {
    return (float)nearest(most(least(value, (float)high), (float)low));
}

static float peak_of(const float *x) {
    float peak = 0.0f;
    for (int i = 0; i < GROUP; i++) {
        peak = magnitude(x[i]) > magnitude(peak) ? x[i] : peak;
    }
    return peak;
}

/* Codes of the groups whose level changed. */
static void recode_changed(int half, float scale, const float *x, const float *old, const float *levels,
                           uint8_t *codes) {
    for (int group = 0; group < GROUPS; group++) {
        const float inverse = 1.0f / (scale * levels[group]);
        for (int i = group * GROUP; i < (group + 1) * GROUP && levels[group] != old[group]; i++) {
            codes[i] = (uint8_t)((int)bounded(inverse * x[i], -half, half - 1) + half);
        }
    }
}

/* ---- Q3_K ---- */

struct sums {
    float x, l; /* weighted sums of code * x and code * code */
};

static struct sums explain(const float *x, const float *weight, float inverse) {
    struct sums sum = {0.0f, 0.0f};
    for (int i = 0; i < GROUP; i++) {
        const float code = bounded(inverse * x[i], -HALF_Q3_K, HALF_Q3_K - 1);
        sum.x += weight[i] * x[i] * code;
        sum.l += weight[i] * code * code;
    }
    return sum;
}

/* The error with these codes, less the sum of weight * x * x. */
static float relative_error(struct sums sum, float step) {
    return step * (step * sum.l - (sum.x + sum.x));
}

struct choice {
    float level, error;
};

static void try_range(struct code_range range, float peak, float scale, const float *x, const float *weight,
                      struct choice *best) {
    const float size = (float)HALF_Q3_K + 0.1f * (float)range.tenth;
    const struct sums sum = explain(x, weight, (range.flipped ? size : -size) / peak);
    const float level = bounded(sum.x / sum.l * (1.0f / scale), -32, 31);
    const float error = relative_error(sum, scale * level);
    if (error < best->error) {
        best->level = level;
        best->error = error;
    }
}

static float better_level_q3_k(const float *x, const float *importance, float scale, float level) {
    static const struct code_range plain[] = REFINE_Q3_K_PLAIN, weighted[] = REFINE_Q3_K_WEIGHTED;
    const size_t n = importance ? sizeof weighted / sizeof *weighted : sizeof plain / sizeof *plain;
    const float peak = peak_of(x), step = scale * level;
    float weight[GROUP], energy = 0.0f;
    if (magnitude(peak) < QUENCH_ZERO_GROUP) {
        return level;
    }
    for (int i = 0; i < GROUP; i++) {
        weight[i] = importance ? importance[i] : 1.0f;
        energy += weight[i] * x[i] * x[i];
    }
    struct choice best = {level, step == 0.0f ? 0.0f : relative_error(explain(x, weight, 1.0f / step), step)};
    best.error -= REFINE_Q3_K_MARGIN * energy + REFINE_TINY;
    for (size_t i = 0; i < n; i++) {
        try_range(importance ? weighted[i] : plain[i], peak, scale, x, weight, &best);
    }
    return best.level;
}

void quench_refine_q3_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    struct block_q3_k *block = (struct block_q3_k *)blocks;
    for (size_t i = 0; i < n; i++, x += SUPER_BLOCK) {
        const float scale = load_half(block[i].scale);
        float old[GROUPS], levels[GROUPS];
        uint8_t stored[GROUPS] = {0}, codes[SUPER_BLOCK] = {0};
        if (scale == 0.0f || !is_finite(scale)) {
            continue;
        }
        unpack_plane(PLANE_LEVELS_Q3_K, block[i].levels, stored);
        unpack_plane(PLANE_LEVELS_HIGH_Q3_K, block[i].levels + 8, stored);
        for (int group = 0; group < GROUPS; group++) {
            const float *weight = importance ? importance + i * SUPER_BLOCK + group * GROUP : NULL;
            old[group] = (float)(stored[group] - 32);
            levels[group] = better_level_q3_k(x + group * GROUP, weight, scale, old[group]);
            stored[group] = (uint8_t)((int)levels[group] + 32);
        }
        unpack_plane(PLANE_CODES_Q2_K, block[i].codes, codes);
        unpack_plane(PLANE_HIGH_Q3_K, block[i].high, codes);
        recode_changed(HALF_Q3_K, scale, x, old, levels, codes);
        pack_plane(PLANE_LEVELS_Q3_K, stored, block[i].levels);
        pack_plane(PLANE_LEVELS_HIGH_Q3_K, stored, block[i].levels + 8);
        pack_plane(PLANE_CODES_Q2_K, codes, block[i].codes);
        pack_plane(PLANE_HIGH_Q3_K, codes, block[i].high);
    }
}

/* ---- Q6_K ---- */

struct scan {
    int32_t x[GROUP], weight[GROUP]; /* up to 32767 in magnitude */
    float unit;                      /* REFINE_UNIT times the group's size in units of the super-block's scale */
    float least;                     /* the smallest level for which no code is clamped */
};

/* a * b / 2^15, rounded, for 16-bit integers. */
static int32_t scaled(int32_t a, int32_t b) {
    return (a * b + 0x4000) >> 15;
}

static struct scan begin_scan(const float *x, const float *importance, float heaviest, float scale, float step) {
    struct scan scan;
    float high = 0.0f, low = 0.0f;
    for (int i = 0; i < GROUP; i++) {
        high = most(x[i], high);
        low = least(x[i], low);
    }
    const float size = most(high, -low), part = 1.0f / magnitude(scale);
    const float factor = (step < 0.0f ? -32767.0f : 32767.0f) / size;
    for (int i = 0; i < GROUP; i++) {
        scan.x[i] = nearest(x[i] * factor);
        scan.weight[i] = importance ? nearest(importance[i] * (32767.0f / heaviest)) : 0;
    }
    const float up = step < 0.0f ? -low : high, down = step < 0.0f ? high : -low;
    scan.unit = REFINE_UNIT * size * part;
    scan.least = least(most(up * REFINE_REACH_HIGH, down * REFINE_REACH_LOW) * part + 0.5f, 1000.0f);
    scan.least = most((float)nearest(scan.least), 1.0f);
    return scan;
}

/* Squares of what is left of x / step beside whole numbers, in units of 2^-28. */
static int32_t remainders(const struct scan *scan, int weighted, int32_t inverse) {
    int32_t sum = 0;
    for (int i = 0; i < GROUP; i++) {
        const int32_t quotient = scaled(scan->x[i], inverse);
        const int32_t rest = (int16_t)(uint16_t)((uint32_t)quotient << 7) >> 2;
        sum += rest * (weighted ? scaled(rest, scan->weight[i]) : rest);
    }
    return sum;
}

/* Beyond what is possible the same levels come again. */
static float tried_level(const struct scan *scan, float limit, float magnitude_tried) {
    return most(least(magnitude_tried, limit), scan->least);
}

/* The error of the numbers that a level stands for. */
static float level_error(const float *x, const float *importance, float step) {
    const float inverse = 1.0f / step;
    float sum = 0.0f;
    for (int i = 0; i < GROUP; i++) {
        const float miss = x[i] - step * bounded(inverse * x[i], -HALF_Q6_K, HALF_Q6_K - 1);
        sum += importance ? importance[i] * (miss * miss) : miss * miss;
    }
    return sum;
}

static float better_level_q6_k(const float *x, const float *importance, float scale, float level) {
    const float size = magnitude(peak_of(x)), step = scale * level;
    float heaviest = 1.0f;
    if (importance) {
        heaviest = 0.0f;
        for (int i = 0; i < GROUP; i++) {
            heaviest = most(importance[i], heaviest);
        }
    }
    if (size < QUENCH_ZERO_GROUP || step == 0.0f || heaviest < REFINE_TINY) {
        return level;
    }
    const struct scan scan = begin_scan(x, importance, heaviest, scale, step);
    const float limit = level < 0.0f ? 128.0f : 127.0f;
    if (!(scan.least <= limit)) {
        return level;
    }
    static const float plain[] = REFINE_Q6_K_PLAIN, weighted[] = REFINE_Q6_K_WEIGHTED;
    const float *more = importance ? weighted : plain;
    const int n = importance ? REFINE_Q6_K_WEIGHTED_TRIED : REFINE_Q6_K_PLAIN_TRIED;
    uint32_t best = UINT32_MAX;
    for (int i = 0; i < n; i++) {
        const float tried = tried_level(&scan, limit, magnitude(level) + more[i]);
        /* Two neighbours share a division. */
        const float other = tried_level(&scan, limit, magnitude(level) + more[i % 2 ? i - 1 : i + 1]);
        const int32_t inverse = nearest(scan.unit / (tried * other) * other);
        const float error = (float)remainders(&scan, importance != NULL, inverse) * (tried * tried);
        const uint32_t key = (bits_of(error) & ~0xffu) | (uint32_t)tried;
        best = key < best ? key : best;
    }
    float found = (float)(best & 0xffu);
    found = level < 0.0f ? -found : found;
    const float before = level_error(x, importance, step), after = level_error(x, importance, scale * found);
    return after < REFINE_Q6_K_GAIN * before && before > REFINE_TINY ? found : level;
}

void quench_refine_q6_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    struct block_q6_k *block = (struct block_q6_k *)blocks;
    for (size_t i = 0; i < n; i++, x += SUPER_BLOCK) {
        const float scale = load_half(block[i].scale);
        float old[GROUPS], levels[GROUPS];
        uint8_t codes[SUPER_BLOCK] = {0};
        if (scale == 0.0f || !is_finite(scale)) {
            continue;
        }
        for (int group = 0; group < GROUPS; group++) {
            const float *weight = importance ? importance + i * SUPER_BLOCK + group * GROUP : NULL;
            old[group] = (float)(int8_t)block[i].levels[group];
            levels[group] = better_level_q6_k(x + group * GROUP, weight, scale, old[group]);
            block[i].levels[group] = (uint8_t)(int)levels[group];
        }
        unpack_plane(PLANE_CODES_Q6_K, block[i].codes, codes);
        unpack_plane(PLANE_HIGH_Q6_K, block[i].high, codes);
        recode_changed(HALF_Q6_K, scale, x, old, levels, codes);
        pack_plane(PLANE_CODES_Q6_K, codes, block[i].codes);
        pack_plane(PLANE_HIGH_Q6_K, codes, block[i].high);
    }
}
