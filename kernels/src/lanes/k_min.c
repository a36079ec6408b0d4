/* Q2_K, Q4_K, Q5_K in lanes: every lane is a super-block, W of them are encoded together. The bytes are those of
 * reference/k_min.c; a super-block whose roundings leave the reference's range is left to the reference. */
#include "k_min.h"

#include "../reference/codecs.h"
#include "lanes.h"
#include "level_search.h"
#include "range_search.h"

/* What the search finds beside the batch's numbers. */
struct found {
    _Alignas(64) float least[MOST_GROUPS * W], most[MOST_GROUPS * W], sum_w[MOST_GROUPS * W];
};

/* ---- search ---- */

/* ABREAST groups of n, as the search wants them. */
QUENCH_INLINE void transpose_groups(const int n, const float *from, float *to) {
    for (int k = 0; k < ABREAST; k++) {
        transpose(n, ABREAST * W, from + k * n, to + k * W);
    }
}

/* Adds the squares of ABREAST groups, in the order of the super-block. */
QUENCH_INLINE vf add_squares(const int n, vf sum, const float *x) {
    for (int k = 0; k < ABREAST; k++) {
        for (int i = 0; i < n; i++) {
            vf value = vf_load(x + (i * ABREAST + k) * W);
            sum = vf_add(sum, vf_mul(value, value));
        }
    }
    return sum;
}

/* Weights of the errors of ABREAST groups without importance. */
QUENCH_INLINE void weigh_plain(const struct k_min_format *format, const float *x, float *weight) {
    const int n = format->group;
    vf base[ABREAST];
    for (int k = 0; k < ABREAST; k++) {
        base[k] = vf_set(0.0f);
    }
    if (format->plain_rms) {
        for (int i = 0; i < n; i++) {
            for (int k = 0; k < ABREAST; k++) {
                vf value = vf_load(x + (i * ABREAST + k) * W);
                base[k] = vf_add(base[k], vf_mul(value, value));
            }
        }
        for (int k = 0; k < ABREAST; k++) {
            base[k] = vf_sqrt(vf_div(base[k], vf_set((float)n)));
        }
    }
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < ABREAST; k++) {
            const int at = (i * ABREAST + k) * W;
            vf_store(weight + at, vf_add(base[k], vf_abs(vf_load(x + at))));
        }
    }
}

/* The same with importance, which becomes the weight in place. */
QUENCH_INLINE void weigh_importance(const struct k_min_format *format, vf energy, const float *x, float *weight) {
    for (int i = 0; i < ABREAST * format->group; i++) {
        vf value = vf_load(x + i * W);
        vf size = vf_sqrt(vf_add(energy, vf_mul(value, value)));
        vf_store(weight + i * W, vf_mul(vf_load(weight + i * W), size));
    }
}

QUENCH_INLINE vm search(const struct k_min_format *format, const float *x, const float *importance,
                        struct batch *batch, struct found *found) {
    _Alignas(64) float weight[ABREAST * LONGEST_GROUP * W], codes[ABREAST * LONGEST_GROUP * W];
    const int n = format->group, span = ABREAST * n;
    vm wraps = vm_none();
    vf energy = vf_set(0.0f);
    for (int place = 0; place < SUPER_BLOCK; place += span) {
        transpose_groups(n, x + place, batch->x + place * W);
        energy = importance ? add_squares(n, energy, batch->x + place * W) : energy;
    }
    energy = vf_div(vf_mul(vf_set(format->energy_factor), energy), vf_set((float)SUPER_BLOCK));
    for (int first = 0; first < groups_of(format); first += ABREAST) {
        const int place = first * n;
        struct ranges ranges;
        if (importance) {
            transpose_groups(n, importance + place, weight);
            weigh_importance(format, energy, batch->x + place * W, weight);
        } else {
            weigh_plain(format, batch->x + place * W, weight);
        }
        fit_ranges(n, format->top, importance ? grid_with_importance : format->plain, batch->x + place * W, weight,
                   codes, &ranges);
        for (int k = 0; k < ABREAST; k++) {
            const int at = (first + k) * W;
            vf_store(batch->scale + at, ranges.scale[k]);
            vf_store(batch->low + at, ranges.low[k]);
            vf_store(batch->inverse + at, ranges.inverse[k]);
            vf_store(batch->start + at, ranges.start[k]);
            vf_store(found->least + at, ranges.least[k]);
            vf_store(found->most + at, ranges.most[k]);
            vf_store(found->sum_w + at, ranges.sum_w[k]);
        }
        wraps = vm_or(wraps, ranges.wraps);
    }
    return wraps;
}

/* ---- levels ---- */

static inline vf round_levels(int groups, int highest, const vf *values, vi *levels, vm *wraps) {
    const vf zero = vf_set(0.0f), top = vf_set((float)highest);
    vf most = zero;
    for (int i = 0; i < groups; i++) {
        most = vf_most(values[i], most);
    }
    vf inverse = vf_pick(vf_gt(most, zero), vf_div(top, most), zero);
    vm fits = vm_all();
    for (int i = 0; i < groups; i++) {
        vf exact = vf_mul(inverse, values[i]);
        fits = vm_and(fits, vf_le(vf_abs(exact), vf_set(QUENCH_WRAP)));
        levels[i] = vi_byte(vi_nearest(exact));
    }
    *wraps = vm_or(*wraps, vm_not(fits));
    return vf_div(most, top);
}

/* Levels of the groups' scales, or of their lows. */
QUENCH_INLINE vf find_levels(const struct k_min_format *format, int fitted, const float *values, const float *sum_w,
                             vi *levels, vm *wraps) {
    const int groups = groups_of(format);
    vf value[MOST_GROUPS], weight[MOST_GROUPS], scale;
    for (int i = 0; i < groups; i++) {
        value[i] = vf_load(values + i * W);
        weight[i] = vf_load(sum_w + i * W);
    }
    scale = fitted ? fit_levels(groups, format->level_top, value, weight, levels, wraps)
                   : round_levels(groups, format->level_top, value, levels, wraps);
    if (fitted ? format->cap_fitted : format->cap_plain) {
        for (int i = 0; i < groups; i++) {
            levels[i] = vi_least(levels[i], vi_set(format->level_top));
        }
    }
    return scale;
}

/* From the groups' scales and lows to those that are stored. */
QUENCH_INLINE vm settle(const struct k_min_format *format, int fitted, struct batch *batch,
                        const struct found *found) {
    vi scales[MOST_GROUPS], lows[MOST_GROUPS];
    vm wraps = vm_none();
    vi scale_half = vi_half(find_levels(format, fitted, batch->scale, found->sum_w, scales, &wraps));
    vi low_half = vi_half(find_levels(format, fitted, batch->low, found->sum_w, lows, &wraps));
    vi_store(batch->numbers, vi_or(scale_half, vi_left(low_half, 16)));
    store_levels(format, scales, lows, batch->levels);
    const vf scale = vf_from_half(scale_half), low = vf_from_half(low_half), limit = vf_set(QUENCH_WRAP);
    for (int i = 0; i < groups_of(format); i++) {
        vf own_scale = vf_mul(scale, vf_from_vi(scales[i])), own_low = vf_mul(low, vf_from_vi(lows[i]));
        vf first = vf_div(vf_add(vf_load(found->least + i * W), own_low), own_scale);
        vf last = vf_div(vf_add(vf_load(found->most + i * W), own_low), own_scale);
        vm fits = vm_and(vf_le(vf_abs(first), limit), vf_le(vf_abs(last), limit));
        wraps = vm_or(wraps, vm_not(vm_or(fits, vf_eq(own_scale, vf_set(0.0f)))));
        vf_store(batch->scale + i * W, own_scale);
        vf_store(batch->low + i * W, own_low);
    }
    return wraps;
}

/* ---- codes ---- */

/* A group whose scale became zero keeps the search's codes. */
QUENCH_INLINE vi recode(const struct batch *batch, int at, vi top, vf x) {
    const float scale = batch->scale[at];
    vf exact = scale != 0.0f ? vf_div(vf_add(x, vf_set(batch->low[at])), vf_set(scale))
                             : vf_mul(vf_set(batch->inverse[at]), vf_sub(x, vf_set(batch->start[at])));
    return vi_nearest(vf_cut(exact, top));
}

/* W super-blocks, of which the first n are written. */
QUENCH_INLINE void encode_batch(const struct k_min_format *format, encode_fn *exact, const float *x,
                                const float *importance, uint8_t *blocks, size_t n) {
    struct batch batch;
    struct found found;
    vm wraps = importance ? search(format, x, importance, &batch, &found) : search(format, x, NULL, &batch, &found);
    wraps = vm_or(wraps, importance ? settle(format, 1, &batch, &found) : settle(format, 0, &batch, &found));
    const uint32_t left = vm_bits(wraps);
    for (size_t s = 0; s < n; s++, x += SUPER_BLOCK, blocks += format->bytes) {
        if (left >> s & 1) {
            exact(x, importance ? importance + s * SUPER_BLOCK : NULL, 0.0f, blocks, 1);
        } else {
            store_block(format, &batch, recode, (int)s, x, blocks);
        }
    }
}

/* ---- formats ---- */

static void batch_q2_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    encode_batch(&q2_k, quench_encode_q2_k, x, importance, blocks, n);
}

static void batch_q4_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    encode_batch(&q4_k, quench_encode_q4_k, x, importance, blocks, n);
}

static void batch_q5_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    encode_batch(&q5_k, quench_encode_q5_k, x, importance, blocks, n);
}

void LANES(encode_q2_k)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    each_batch(&q2_k, batch_q2_k, x, importance, blocks, n);
}

void LANES(encode_q4_k)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    each_batch(&q4_k, batch_q4_k, x, importance, blocks, n);
}

void LANES(encode_q5_k)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    each_batch(&q5_k, batch_q5_k, x, importance, blocks, n);
}
