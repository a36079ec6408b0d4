/* Refinement of Q2_K, Q4_K, Q5_K; see k_min_refine.h. The order of float operations is what lanes repeat. */
#include "k_min_refine.h"

#include <math.h>
#include <string.h>

#include "../blocks.h"
#include "../numeric.h"
#include "codecs.h"
#include "k_min.h"

struct fit {
    float scale, low; /* through 16 bits */
    float scales[MOST_GROUPS], lows[MOST_GROUPS]; /* levels */
};

/* How a group is coded: code = nearest(x * inverse + base). */
struct coding {
    float inverse, base;
};

static struct coding coding_of(float scale, float low) {
    struct coding coding = {0.0f, 0.0f};
    if (scale > 0.0f) {
        coding.inverse = 1.0f / scale;
        coding.base = low * coding.inverse;
    }
    return coding;
}

static float cut(float value, float top) {
    return value > 0.0f ? (value < top ? value : top) : 0.0f;
}

static float code_of(float exact, int top) {
    return (float)nearest(cut(exact, (float)top));
}

static float weight_of(const float *importance, int i) {
    return importance ? importance[i] : 1.0f;
}

/* ---- levels ---- */

/* The product of two numbers that stand for fractions of 2^15. */
static int32_t scaled(int32_t a, int32_t b) {
    return (a * b + 0x4000) >> 15;
}

/* A group in fixed point: fractions of its largest weight and of its largest importance. */
struct fixed {
    int n, top, unit; /* highest code, and units of a code */
    float size;       /* the largest weight */
    int16_t x[LONGEST_GROUP], importance[LONGEST_GROUP];
};

/* Returns the largest magnitude; values become fractions of it where it is not too small. */
static float fix(int n, const float *values, int16_t *fixed) {
    float size = 0.0f;
    for (int i = 0; i < n; i++) {
        size = magnitude(values[i]) > size ? magnitude(values[i]) : size;
    }
    const float factor = size >= REFINE_LEAST ? REFINE_LARGEST / size : 0.0f;
    for (int i = 0; i < n; i++) {
        fixed[i] = (int16_t)nearest(values[i] * factor);
    }
    return size;
}

static int32_t to_fixed(float value) {
    return nearest(value < REFINE_LIMIT ? value : REFINE_LIMIT);
}

static float at_least_one(float level) {
    return level > 1.0f ? level : 1.0f;
}

/* Weighted squares of the roundings of codes x * factor + base, in units. The sum may wrap around: in the end blocks
 * are measured exactly. */
static float rounding_error(const struct fixed *group, int weighted, int32_t factor, int32_t base) {
    uint32_t sum = 0;
    for (int i = 0; i < group->n; i++) {
        int32_t exact = scaled(group->x[i], factor) + base;
        int32_t code = (clamp(exact, 0, group->top * group->unit) + group->unit / 2) & -group->unit;
        int32_t miss = exact - code;
        sum += (uint32_t)(miss * (weighted ? scaled(miss, group->importance[i]) : miss));
    }
    return (float)(int32_t)sum;
}

static void move_levels(const struct k_min_format *format, int reach, const float *x, const float *importance,
                        struct fit *fit) {
    const int n = format->group;
    const float highest = (float)format->level_top;
    float slope = 0.5f * (float)format->top * fit->scale / fit->low;
    slope = fit->low > 0.0f ? (slope < REFINE_STEEPEST ? slope : REFINE_STEEPEST) : 0.0f;
    for (int group = 0; group < SUPER_BLOCK / n; group++) {
        struct fixed fixed = {n, format->top, refine_unit(format->top), 0.0f, {0}, {0}};
        const float scale_level = fit->scales[group], low_level = fit->lows[group];
        fixed.size = fix(n, x + group * n, fixed.x);
        const float most = importance ? fix(n, importance + group * n, fixed.importance) : 1.0f;
        if (!(scale_level > 0.0f && fixed.size >= REFINE_LEAST && most >= REFINE_LEAST)) {
            continue;
        }
        float best = INFINITY;
        for (int step = -reach; step <= reach; step++) {
            const float level = at_least_one(cut(scale_level + (float)step, highest)), scale = fit->scale * level;
            const float middle = low_level + (float)nearest((float)step * slope);
            const float units = 1.0f / scale * (float)fixed.unit, low_units = fit->low * units;
            const int32_t factor = to_fixed(fixed.size * REFINE_FRACTION * units);
            float least = INFINITY, low = 0.0f;
            for (int place = 0; place < REFINE_BAND; place++) {
                const float other = cut(middle + (float)(place - REFINE_BAND / 2), highest);
                float error = rounding_error(&fixed, importance != NULL, factor, to_fixed(other * low_units));
                if (error < least) {
                    least = error;
                    low = other;
                }
            }
            if (least * (scale * scale) < best) {
                best = least * (scale * scale);
                fit->scales[group] = level;
                fit->lows[group] = low;
            }
        }
    }
}

/* ---- the block's two numbers ---- */

/* With a the codes times their scale's level and b the low's level, x ~ scale * a - low * b. */
struct moments {
    float aa, ab, bb, ax, bx;
};

static struct moments measure(const struct k_min_format *format, const float *x, const float *importance,
                              const struct fit *fit) {
    const int n = format->group;
    struct moments sum = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (int group = 0; group < SUPER_BLOCK / n; group++) {
        const float a = fit->scales[group], b = fit->lows[group];
        struct coding coding = coding_of(fit->scale * a, fit->low * b);
        float sum_w = 0.0f, sum_x = 0.0f, sum_l = 0.0f, sum_ll = 0.0f, sum_lx = 0.0f;
        for (int i = group * n; i < (group + 1) * n; i++) {
            float weight = weight_of(importance, i);
            float code = code_of(x[i] * coding.inverse + coding.base, format->top), l = weight * code;
            sum_w += weight;
            sum_x += weight * x[i];
            sum_l += l;
            sum_ll += l * code;
            sum_lx += l * x[i];
        }
        sum.aa += a * a * sum_ll;
        sum.ab += a * b * sum_l;
        sum.bb += b * b * sum_w;
        sum.ax += a * sum_lx;
        sum.bx += b * sum_x;
    }
    return sum;
}

static void fit_numbers(struct moments sum, struct fit *fit) {
    float both = sum.aa * sum.bb, determinant = both - sum.ab * sum.ab;
    float scale = (sum.ax + sum.ab * fit->low) / sum.aa, low = fit->low;
    if (determinant > REFINE_INDEPENDENT * both) {
        scale = (sum.ax * sum.bb - sum.ab * sum.bx) / determinant;
        low = (sum.ab * sum.ax - sum.aa * sum.bx) / determinant;
    }
    scale = float_from_half(half_from_float(scale));
    low = float_from_half(half_from_float(low));
    if (scale > 0.0f && scale < INFINITY && low >= 0.0f && low < INFINITY) {
        fit->scale = scale;
        fit->low = low;
    }
}

/* ---- blocks ---- */

/* The error of what a reader of `codes` sees. */
static float error_of(const struct k_min_format *format, const float *x, const float *importance,
                      const struct fit *fit, const uint8_t *codes) {
    const int n = format->group;
    float error = 0.0f;
    for (int group = 0; group < SUPER_BLOCK / n; group++) {
        const float scale = fit->scale * fit->scales[group], low = fit->low * fit->lows[group];
        float sum = 0.0f;
        for (int i = group * n; i < (group + 1) * n; i++) {
            float miss = x[i] - (scale * (float)codes[i] - low);
            sum += weight_of(importance, i) * (miss * miss);
        }
        error += sum;
    }
    return error;
}

static void recode(const struct k_min_format *format, const float *x, const struct fit *fit, uint8_t *codes) {
    for (int i = 0; i < SUPER_BLOCK; i++) {
        const int group = i / format->group;
        struct coding coding = coding_of(fit->scale * fit->scales[group], fit->low * fit->lows[group]);
        codes[i] = (uint8_t)code_of(x[i] * coding.inverse + coding.base, format->top);
    }
}

static void refine(const struct k_min_format *format, const float *x, const float *importance, uint8_t *block) {
    struct levels levels;
    uint8_t codes[SUPER_BLOCK];
    quench_unpack_k_min(format, block, &levels, codes);
    if (!(levels.scale > 0.0f && levels.scale < INFINITY && levels.low >= 0.0f && levels.low < INFINITY)) {
        return;
    }
    struct fit fit = {levels.scale, levels.low, {0}, {0}};
    for (int group = 0; group < SUPER_BLOCK / format->group; group++) {
        fit.scales[group] = levels.scales[group];
        fit.lows[group] = levels.lows[group];
    }
    const float old = error_of(format, x, importance, &fit, codes);
    const int *reach = importance ? format->reach_importance : format->reach_plain;
    for (int round = 0; round < REFINE_ROUNDS && reach[round] > 0; round++) {
        move_levels(format, reach[round], x, importance, &fit);
        fit_numbers(measure(format, x, importance, &fit), &fit);
    }
    recode(format, x, &fit, codes);
    if (old >= REFINE_LEAST && error_of(format, x, importance, &fit, codes) < old * REFINE_DROP) {
        levels.scale = fit.scale;
        levels.low = fit.low;
        for (int group = 0; group < SUPER_BLOCK / format->group; group++) {
            levels.scales[group] = (uint8_t)fit.scales[group];
            levels.lows[group] = (uint8_t)fit.lows[group];
        }
        quench_pack_k_min(format, &levels, codes, block);
    }
}

static void refine_all(const struct k_min_format *format, const float *x, const float *importance, uint8_t *blocks,
                       size_t n) {
    for (size_t i = 0; i < n; i++) {
        const size_t place = i * SUPER_BLOCK;
        refine(format, x + place, importance ? importance + place : NULL, blocks + i * (size_t)format->bytes);
    }
}

void quench_refine_q2_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    refine_all(&q2_k, x, importance, blocks, n);
}

void quench_refine_q4_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    refine_all(&q4_k, x, importance, blocks, n);
}

void quench_refine_q5_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    refine_all(&q5_k, x, importance, blocks, n);
}
