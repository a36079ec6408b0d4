/* Refinement of Q2_K, Q4_K, Q5_K in lanes: every lane is a super-block. The float operations and their order are those
 * of reference/k_min_refine.c. */
#include "../reference/k_min_refine.h"

#include <math.h>

#include "k_min.h"
#include "lanes.h"
#include "pairs.h"

/* What W blocks say. */
struct fit {
    vf scale, low;                             /* through 16 bits */
    vf scales[MOST_GROUPS], lows[MOST_GROUPS]; /* levels */
    vf sum_w[MOST_GROUPS], sum_x[MOST_GROUPS]; /* of the importance, and of its products with x */
};

/* How a group is coded: code = nearest(x * inverse + base). */
struct coding {
    vf inverse, base;
};

/* x, importance: value i of lane s is at [i * W + s]. No importance stands for ones. */
struct values {
    const float *x, *importance;
};

QUENCH_INLINE struct coding coding_of(vf scale, vf low) {
    const vm usable = vf_gt(scale, vf_set(0.0f));
    struct coding coding;
    coding.inverse = vf_pick(usable, vf_div(vf_set(1.0f), scale), vf_set(0.0f));
    coding.base = vf_pick(usable, vf_mul(low, coding.inverse), vf_set(0.0f));
    return coding;
}

QUENCH_INLINE vf weighted(struct values values, int i, vf value) {
    return values.importance ? vf_mul(vf_load(values.importance + i * W), value) : value;
}

/* ---- levels ---- */

/* Fractions of the largest of each group, as 16-bit integers, two to a lane: values 2i and 2i + 1 of lane s are at
 * [i * W + s]. */
struct fixed {
    _Alignas(64) int32_t x[SUPER_BLOCK / 2 * W], importance[SUPER_BLOCK / 2 * W];
    vf size[MOST_GROUPS];   /* the largest weight */
    vm usable[MOST_GROUPS]; /* neither weights nor importance are too small */
};

/* n values, the largest of which has the magnitude `size`. */
QUENCH_INLINE void fix(const int n, const float *values, vf size, int32_t *fixed) {
    const vm usable = vf_ge(size, vf_set(REFINE_LEAST));
    const vf factor = vf_pick(usable, vf_div(vf_set(REFINE_LARGEST), size), vf_set(0.0f));
    for (int i = 0; i < n; i += 2) {
        vi first = vi_nearest(vf_mul(vf_load(values + i * W), factor));
        vi second = vi_nearest(vf_mul(vf_load(values + (i + 1) * W), factor));
        vi_store(fixed + i / 2 * W, pairs(first, second));
    }
}

/* One pass over weights, importance and decoded values: returns the error, and fills in the fit's sums and the fixed
 * point. */
QUENCH_INLINE vf survey(const struct k_min_format *format, struct values values, const float *decoded, struct fit *fit,
                        struct fixed *fixed) {
    const int n = format->group;
    const vf zero = vf_set(0.0f), least = vf_set(REFINE_LEAST);
    vf error = zero;
    for (int group = 0; group < groups_of(format); group++) {
        const int at = group * n * W;
        vf sum = zero, sum_w = zero, sum_x = zero, size = zero, heaviest = zero;
        for (int i = group * n; i < (group + 1) * n; i++) {
            vf x = vf_load(values.x + i * W), miss = vf_sub(x, vf_load(decoded + i * W));
            sum = vf_add(sum, weighted(values, i, vf_mul(miss, miss)));
            sum_x = vf_add(sum_x, weighted(values, i, x));
            size = vf_most(vf_abs(x), size);
            if (values.importance) {
                vf w = vf_load(values.importance + i * W);
                sum_w = vf_add(sum_w, w);
                heaviest = vf_most(w, heaviest);
            }
        }
        error = vf_add(error, sum);
        fit->sum_w[group] = values.importance ? sum_w : vf_set((float)n);
        fit->sum_x[group] = sum_x;
        fixed->size[group] = size;
        fixed->usable[group] = vf_ge(size, least);
        fix(n, values.x + at, size, fixed->x + at / 2);
        if (values.importance) {
            fixed->usable[group] = vm_and(fixed->usable[group], vf_ge(heaviest, least));
            fix(n, values.importance + at, heaviest, fixed->importance + at / 2);
        }
    }
    return error;
}

/* The same number in both halves of a lane. */
QUENCH_INLINE vi to_fixed(vf value) {
    vi number = vi_nearest(vf_least(value, vf_set(REFINE_LIMIT)));
    return pairs(number, number);
}

/* What a round tries with one group: REFINE_BAND lows for each scale. */
struct candidates {
    vf level[REFINE_STEPS], low[REFINE_STEPS][REFINE_BAND], error[REFINE_STEPS][REFINE_BAND];
    vi factor[REFINE_STEPS], base[REFINE_STEPS][REFINE_BAND];
};

QUENCH_INLINE vf cut_level(vf level, vf highest) {
    return vf_most(vf_least(level, highest), vf_set(0.0f));
}

QUENCH_INLINE void propose(const struct k_min_format *format, int reach, const struct fit *fit, vf slope, vf size,
                           const int group, struct candidates *tried) {
    const vf one = vf_set(1.0f), highest = vf_set((float)format->level_top);
    const vf unit = vf_set((float)refine_unit(format->top));
    for (int step = 0; step <= 2 * reach; step++) {
        const vf distance = vf_set((float)(step - reach));
        const vf level = vf_most(cut_level(vf_add(fit->scales[group], distance), highest), one);
        const vf middle = vf_add(fit->lows[group], vf_round(vf_mul(distance, slope)));
        const vf units = vf_mul(vf_div(one, vf_mul(fit->scale, level)), unit), low_units = vf_mul(fit->low, units);
        tried->level[step] = level;
        tried->factor[step] = to_fixed(vf_mul(size, units));
        for (int k = 0; k < REFINE_BAND; k++) {
            vf low = cut_level(vf_add(middle, vf_set((float)(k - REFINE_BAND / 2))), highest);
            tried->low[step][k] = low;
            tried->base[step][k] = to_fixed(vf_mul(low, low_units));
        }
    }
}

/* Weighted squares of the roundings with one scale; see the reference. */
QUENCH_INLINE void rounding_errors(const int n, const int top, const int32_t *x, const int32_t *importance,
                                   vi factor, const vi *base, vf *error) {
    const int unit = refine_unit(top);
    const vi zero = vi_set(0), most = pairs_set((int16_t)(top * unit));
    const vi half = pairs_set((int16_t)(unit / 2)), whole = pairs_set((int16_t)-unit);
    vi sum[REFINE_BAND], start[REFINE_BAND];
    for (int k = 0; k < REFINE_BAND; k++) {
        sum[k] = zero;
        start[k] = base[k];
    }
    for (int i = 0; i < n / 2; i++) {
        const vi scaled = pairs_scaled(vi_load(x + i * W), factor);
        for (int k = 0; k < REFINE_BAND; k++) {
            vi exact = pairs_add(scaled, start[k]);
            vi code = vi_and(pairs_add(pairs_least(pairs_most(exact, zero), most), half), whole);
            vi miss = pairs_sub(exact, code);
            vi other = importance ? pairs_scaled(miss, vi_load(importance + i * W)) : miss;
            sum[k] = vi_add(sum[k], pairs_dot(miss, other));
        }
    }
    for (int k = 0; k < REFINE_BAND; k++) {
        error[k] = vf_from_vi(sum[k]);
    }
}

/* The first of the best candidates, where a group may move at all. First the low for each scale and then the scale, and
 * minima before choices: one after another, the comparisons would wait for each other. */
QUENCH_INLINE void choose(int reach, const struct candidates *tried, vm movable, struct fit *fit, const int group) {
    vf best = vf_set(INFINITY), error[REFINE_STEPS], low[REFINE_STEPS], best_level, best_low;
    for (int step = 0; step <= 2 * reach; step++) {
        const vf scale = vf_mul(fit->scale, tried->level[step]);
        vf least = tried->error[step][0];
        for (int k = 1; k < REFINE_BAND; k++) {
            least = vf_least(tried->error[step][k], least);
        }
        low[step] = tried->low[step][REFINE_BAND - 1];
        for (int k = REFINE_BAND - 2; k >= 0; k--) {
            low[step] = vf_pick(vf_eq(tried->error[step][k], least), tried->low[step][k], low[step]);
        }
        error[step] = vf_mul(least, vf_mul(scale, scale));
        best = vf_least(error[step], best);
    }
    best_level = tried->level[2 * reach];
    best_low = low[2 * reach];
    for (int step = 2 * reach - 1; step >= 0; step--) {
        const vm found = vf_eq(error[step], best);
        best_level = vf_pick(found, tried->level[step], best_level);
        best_low = vf_pick(found, low[step], best_low);
    }
    fit->scales[group] = vf_pick(movable, best_level, fit->scales[group]);
    fit->lows[group] = vf_pick(movable, best_low, fit->lows[group]);
}

QUENCH_INLINE void move_levels(const struct k_min_format *format, int reach, const struct fixed *fixed, int weighted,
                               struct fit *fit) {
    const int span = format->group / 2 * W;
    const vf zero = vf_set(0.0f);
    vf slope = vf_div(vf_mul(vf_set(0.5f * (float)format->top), fit->scale), fit->low);
    slope = vf_pick(vf_gt(fit->low, zero), vf_least(slope, vf_set(REFINE_STEEPEST)), zero);
    for (int group = 0; group < groups_of(format); group++) {
        const vm movable = vm_and(vf_gt(fit->scales[group], zero), fixed->usable[group]);
        const int32_t *x = fixed->x + group * span, *importance = weighted ? fixed->importance + group * span : NULL;
        struct candidates tried;
        propose(format, reach, fit, slope, vf_mul(fixed->size[group], vf_set(REFINE_FRACTION)), group, &tried);
        for (int step = 0; step <= 2 * reach; step++) {
            rounding_errors(format->group, format->top, x, importance, tried.factor[step], tried.base[step],
                            tried.error[step]);
        }
        choose(reach, &tried, movable, fit, group);
    }
}

/* ---- the block's two numbers ---- */

/* With a the codes times their scale's level and b the low's level, x ~ scale * a - low * b. */
struct moments {
    vf aa, ab, bb, ax, bx;
};

QUENCH_INLINE struct moments measure(const struct k_min_format *format, struct values values, const struct fit *fit) {
    const int n = format->group;
    const vf zero = vf_set(0.0f);
    const vi top = vi_of_bits(vf_set((float)format->top));
    struct moments sum = {zero, zero, zero, zero, zero};
    for (int group = 0; group < groups_of(format); group++) {
        const vf a = fit->scales[group], b = fit->lows[group];
        const struct coding coding = coding_of(vf_mul(fit->scale, a), vf_mul(fit->low, b));
        vf sum_l = zero, sum_ll = zero, sum_lx = zero;
        for (int i = group * n; i < (group + 1) * n; i++) {
            vf x = vf_load(values.x + i * W);
            vf code = vf_round(vf_cut(vf_add(vf_mul(x, coding.inverse), coding.base), top));
            vf l = weighted(values, i, code);
            sum_l = vf_add(sum_l, l);
            sum_ll = vf_add(sum_ll, vf_mul(l, code));
            sum_lx = vf_add(sum_lx, vf_mul(l, x));
        }
        sum.aa = vf_add(sum.aa, vf_mul(vf_mul(a, a), sum_ll));
        sum.ab = vf_add(sum.ab, vf_mul(vf_mul(a, b), sum_l));
        sum.bb = vf_add(sum.bb, vf_mul(vf_mul(b, b), fit->sum_w[group]));
        sum.ax = vf_add(sum.ax, vf_mul(a, sum_lx));
        sum.bx = vf_add(sum.bx, vf_mul(b, fit->sum_x[group]));
    }
    return sum;
}

QUENCH_INLINE vm usable_number(vf number) {
    return vf_lt(number, vf_set(INFINITY));
}

QUENCH_INLINE void fit_numbers(struct moments sum, struct fit *fit) {
    const vf zero = vf_set(0.0f);
    vf both = vf_mul(sum.aa, sum.bb), determinant = vf_sub(both, vf_mul(sum.ab, sum.ab));
    vf scale = vf_div(vf_add(sum.ax, vf_mul(sum.ab, fit->low)), sum.aa), low = fit->low;
    vm independent = vf_gt(determinant, vf_mul(vf_set(REFINE_INDEPENDENT), both));
    vf other = vf_sub(vf_mul(sum.ax, sum.bb), vf_mul(sum.ab, sum.bx));
    scale = vf_pick(independent, vf_div(other, determinant), scale);
    other = vf_sub(vf_mul(sum.ab, sum.ax), vf_mul(sum.aa, sum.bx));
    low = vf_pick(independent, vf_div(other, determinant), low);
    scale = vf_from_half(vi_half(scale));
    low = vf_from_half(vi_half(low));
    vm usable = vm_and(vm_and(vf_gt(scale, zero), vf_ge(low, zero)), vm_and(usable_number(scale), usable_number(low)));
    fit->scale = vf_pick(usable, scale, fit->scale);
    fit->low = vf_pick(usable, low, fit->low);
}

/* ---- blocks ---- */

/* The error that the fit's codes will have when they are decoded; leaves in the batch what makes the codes. */
QUENCH_INLINE vf error_of_fit(const struct k_min_format *format, struct values values, const struct fit *fit,
                              struct batch *batch) {
    const int n = format->group;
    const vi top = vi_of_bits(vf_set((float)format->top));
    vf error = vf_set(0.0f);
    for (int group = 0; group < groups_of(format); group++) {
        const vf scale = vf_mul(fit->scale, fit->scales[group]), low = vf_mul(fit->low, fit->lows[group]);
        const struct coding coding = coding_of(scale, low);
        vf sum = vf_set(0.0f);
        for (int i = group * n; i < (group + 1) * n; i++) {
            vf x = vf_load(values.x + i * W);
            vf code = vf_round(vf_cut(vf_add(vf_mul(x, coding.inverse), coding.base), top));
            vf miss = vf_sub(x, vf_sub(vf_mul(scale, code), low));
            sum = vf_add(sum, weighted(values, i, vf_mul(miss, miss)));
        }
        error = vf_add(error, sum);
        vf_store(batch->inverse + group * W, coding.inverse);
        vf_store(batch->start + group * W, coding.base);
    }
    return error;
}

QUENCH_INLINE vi code_of(const struct batch *batch, int at, vi top, vf x) {
    vf exact = vf_add(vf_mul(x, vf_set(batch->inverse[at])), vf_set(batch->start[at]));
    return vi_nearest(vf_cut(exact, top));
}

/* Levels and numbers of n blocks; the other lanes get zeros. */
QUENCH_INLINE void read_fit(const struct k_min_format *format, const uint8_t *blocks, size_t n, struct fit *fit) {
    _Alignas(64) float numbers[2 * W] = {0}, levels[2 * MOST_GROUPS * W] = {0};
    for (size_t s = 0; s < n; s++, blocks += format->bytes) {
        struct levels found;
        quench_unpack_levels(format, blocks, &found);
        numbers[s] = found.scale;
        numbers[W + s] = found.low;
        for (int group = 0; group < groups_of(format); group++) {
            levels[group * W + s] = (float)found.scales[group];
            levels[(MOST_GROUPS + group) * W + s] = (float)found.lows[group];
        }
    }
    fit->scale = vf_load(numbers);
    fit->low = vf_load(numbers + W);
    for (int group = 0; group < groups_of(format); group++) {
        fit->scales[group] = vf_load(levels + group * W);
        fit->lows[group] = vf_load(levels + (MOST_GROUPS + group) * W);
    }
}

QUENCH_INLINE void write_fit(const struct k_min_format *format, const struct fit *fit, struct batch *batch) {
    vi scales[MOST_GROUPS], lows[MOST_GROUPS];
    for (int group = 0; group < groups_of(format); group++) {
        scales[group] = vi_nearest(fit->scales[group]);
        lows[group] = vi_nearest(fit->lows[group]);
    }
    store_levels(format, scales, lows, batch->levels);
    vi_store(batch->numbers, vi_or(vi_half(fit->scale), vi_left(vi_half(fit->low), 16)));
}

/* The lanes whose fit is better than their block. */
QUENCH_INLINE vm improve(const struct k_min_format *format, const int *reach, struct values values,
                         const float *decoded, struct fit *fit, struct batch *batch) {
    const vf zero = vf_set(0.0f);
    struct fixed fixed;
    const vf old = survey(format, values, decoded, fit, &fixed);
    vm sound = vm_and(vf_gt(fit->scale, zero), usable_number(fit->scale));
    sound = vm_and(sound, vm_and(vf_ge(fit->low, zero), usable_number(fit->low)));
    for (int round = 0; round < REFINE_ROUNDS && reach[round] > 0; round++) {
        move_levels(format, reach[round], &fixed, values.importance != NULL, fit);
        fit_numbers(measure(format, values, fit), fit);
    }
    vm better = vf_lt(error_of_fit(format, values, fit, batch), vf_mul(old, vf_set(REFINE_DROP)));
    return vm_and(sound, vm_and(better, vf_ge(old, vf_set(REFINE_LEAST))));
}

/* W super-blocks, of which the first n are read and written. */
QUENCH_INLINE void refine_batch(const struct k_min_format *format, decode_fn *decode, const float *x,
                                const float *importance, uint8_t *blocks, size_t n) {
    _Alignas(64) float rows[SUPER_BLOCK * W], decoded[SUPER_BLOCK * W], weight[SUPER_BLOCK * W];
    struct batch batch;
    struct fit fit;
    vm better;
    transpose(SUPER_BLOCK, W, x, batch.x);
    memset(rows + n * SUPER_BLOCK, 0, (W - n) * SUPER_BLOCK * sizeof *rows);
    decode(blocks, rows, n);
    transpose(SUPER_BLOCK, W, rows, decoded);
    read_fit(format, blocks, n, &fit);
    if (importance) {
        transpose(SUPER_BLOCK, W, importance, weight);
        const struct values values = {batch.x, weight};
        better = improve(format, format->reach_importance, values, decoded, &fit, &batch);
    } else {
        const struct values values = {batch.x, NULL};
        better = improve(format, format->reach_plain, values, decoded, &fit, &batch);
    }
    write_fit(format, &fit, &batch);
    const uint32_t changed = vm_bits(better);
    for (size_t s = 0; s < n; s++) {
        if (changed >> s & 1) {
            store_block(format, &batch, code_of, (int)s, x + s * SUPER_BLOCK, blocks + s * (size_t)format->bytes);
        }
    }
}

/* ---- formats ---- */

static void refined_q2_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    refine_batch(&q2_k, LANES(decode_q2_k), x, importance, blocks, n);
}

static void refined_q4_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    refine_batch(&q4_k, LANES(decode_q4_k), x, importance, blocks, n);
}

static void refined_q5_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    refine_batch(&q5_k, LANES(decode_q5_k), x, importance, blocks, n);
}

void LANES(refine_q2_k)(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    each_batch(&q2_k, refined_q2_k, x, importance, blocks, n);
}

void LANES(refine_q4_k)(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    each_batch(&q4_k, refined_q4_k, x, importance, blocks, n);
}

void LANES(refine_q5_k)(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    each_batch(&q5_k, refined_q5_k, x, importance, blocks, n);
}
