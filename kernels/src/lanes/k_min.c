/* Q2_K, Q4_K, Q5_K in lanes: every lane is a super-block, W of them are encoded together. The bytes are those of
 * reference/k_min.c; a super-block whose roundings leave the reference's range is left to the reference. */
#include <stddef.h>
#include <string.h>

#include "../blocks.h"
#include "../reference/codecs.h"
#include "../reference/k_min_formats.h"
#include "lanes.h"
#include "level_search.h"
#include "range_search.h"

/* Numbers of W super-blocks: value i of lane s is at [i * W + s]. */
struct batch {
    _Alignas(64) float x[SUPER_BLOCK * W];
    /* Of each group: as it will be decoded, and what made the search's codes. */
    _Alignas(64) float scale[MOST_GROUPS * W], low[MOST_GROUPS * W], inverse[MOST_GROUPS * W], start[MOST_GROUPS * W];
    _Alignas(64) float least[MOST_GROUPS * W], most[MOST_GROUPS * W], sum_w[MOST_GROUPS * W];
    _Alignas(64) int32_t levels[4 * W]; /* as stored, in words of four bytes */
    _Alignas(64) int32_t halves[W];     /* scale and low as stored */
};

QUENCH_INLINE int groups_of(const struct k_min_format *format) {
    return SUPER_BLOCK / format->group;
}

/* ---- search ---- */

QUENCH_INLINE void transpose(const float *from, int count, float *to) {
    for (int i = 0; i < count; i += 8) {
        vf columns[8];
        vf_transpose8(from + i, SUPER_BLOCK, columns);
        for (int k = 0; k < 8; k++) {
            vf_store(to + (i + k) * W, columns[k]);
        }
    }
}

/* The ordered sums of squares of whole super-blocks. */
QUENCH_INLINE vf energies(const float *x) {
    vf sum = vf_set(0.0f);
    for (int i = 0; i < SUPER_BLOCK; i++) {
        vf value = vf_load(x + i * W);
        sum = vf_add(sum, vf_mul(value, value));
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
                vf value = vf_load(x + (k * n + i) * W);
                base[k] = vf_add(base[k], vf_mul(value, value));
            }
        }
        for (int k = 0; k < ABREAST; k++) {
            base[k] = vf_sqrt(vf_div(base[k], vf_set((float)n)));
        }
    }
    for (int k = 0; k < ABREAST; k++) {
        for (int i = k * n; i < (k + 1) * n; i++) {
            vf_store(weight + i * W, vf_add(base[k], vf_abs(vf_load(x + i * W))));
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
                        struct batch *batch) {
    _Alignas(64) float weight[ABREAST * LONGEST_GROUP * W], codes[ABREAST * LONGEST_GROUP * W];
    const int span = ABREAST * format->group;
    vm wraps = vm_none();
    vf energy = vf_set(0.0f);
    transpose(x, SUPER_BLOCK, batch->x);
    if (importance) {
        energy = vf_mul(vf_set(format->energy_factor), energies(batch->x));
        energy = vf_div(energy, vf_set((float)SUPER_BLOCK));
    }
    for (int first = 0; first < groups_of(format); first += ABREAST) {
        const int place = first * format->group;
        struct ranges found[ABREAST];
        if (importance) {
            transpose(importance + place, span, weight);
            weigh_importance(format, energy, batch->x + place * W, weight);
        } else {
            weigh_plain(format, batch->x + place * W, weight);
        }
        fit_ranges(format->group, format->top, importance ? grid_with_importance : format->plain,
                   batch->x + place * W, weight, codes, found);
        for (int k = 0; k < ABREAST; k++) {
            const int at = (first + k) * W;
            vf_store(batch->scale + at, found[k].scale);
            vf_store(batch->low + at, found[k].low);
            vf_store(batch->inverse + at, found[k].inverse);
            vf_store(batch->start + at, found[k].start);
            vf_store(batch->least + at, found[k].least);
            vf_store(batch->most + at, found[k].most);
            vf_store(batch->sum_w + at, found[k].sum_w);
            wraps = vm_or(wraps, found[k].wraps);
        }
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

/* Four bytes of a lane as a word. */
QUENCH_INLINE vi word_of(const vi *bytes) {
    vi low = vi_or(vi_byte(bytes[0]), vi_left(vi_byte(bytes[1]), 8));
    return vi_or(low, vi_or(vi_left(vi_byte(bytes[2]), 16), vi_left(bytes[3], 24)));
}

/* See pack_levels_4 and pack_levels_6 of the reference; leaves in `scales` and `lows` what a reader will find. */
QUENCH_INLINE void store_levels_4(vi *scales, vi *lows, int32_t *words) {
    vi bytes[16];
    for (int i = 0; i < 16; i++) {
        bytes[i] = vi_byte(vi_or(scales[i], vi_left(lows[i], 4)));
        scales[i] = vi_and(bytes[i], vi_set(15));
        lows[i] = vi_right(bytes[i], 4);
    }
    for (int i = 0; i < 4; i++) {
        vi_store(words + i * W, word_of(bytes + 4 * i));
    }
}

QUENCH_INLINE void store_levels_6(vi *scales, vi *lows, int32_t *words) {
    const vi low_4 = vi_set(15), low_6 = vi_set(63);
    vi bytes[12];
    for (int i = 0; i < 4; i++) {
        bytes[i] = vi_byte(vi_or(scales[i], vi_left(vi_right(scales[i + 4], 4), 6)));
        bytes[i + 4] = vi_byte(vi_or(lows[i], vi_left(vi_right(lows[i + 4], 4), 6)));
        bytes[i + 8] = vi_or(vi_and(scales[i + 4], low_4), vi_left(vi_and(lows[i + 4], low_4), 4));
        scales[i] = vi_and(scales[i], low_6);
        lows[i] = vi_and(lows[i], low_6);
        scales[i + 4] = vi_or(vi_and(bytes[i + 8], low_4), vi_left(vi_right(bytes[i], 6), 4));
        lows[i + 4] = vi_or(vi_right(bytes[i + 8], 4), vi_left(vi_right(bytes[i + 4], 6), 4));
    }
    for (int i = 0; i < 3; i++) {
        vi_store(words + i * W, word_of(bytes + 4 * i));
    }
}

/* From the groups' scales and lows to those that are stored. */
QUENCH_INLINE vm settle(const struct k_min_format *format, int fitted, struct batch *batch) {
    vi scales[MOST_GROUPS], lows[MOST_GROUPS];
    vm wraps = vm_none();
    vi scale_half = vi_half(find_levels(format, fitted, batch->scale, batch->sum_w, scales, &wraps));
    vi low_half = vi_half(find_levels(format, fitted, batch->low, batch->sum_w, lows, &wraps));
    vi_store(batch->halves, vi_or(scale_half, vi_left(low_half, 16)));
    if (format->group == 16) {
        store_levels_4(scales, lows, batch->levels);
    } else {
        store_levels_6(scales, lows, batch->levels);
    }
    const vf scale = vf_from_half(scale_half), low = vf_from_half(low_half), limit = vf_set(QUENCH_WRAP);
    for (int i = 0; i < groups_of(format); i++) {
        vf own_scale = vf_mul(scale, vf_from_vi(scales[i])), own_low = vf_mul(low, vf_from_vi(lows[i]));
        vf first = vf_div(vf_add(vf_load(batch->least + i * W), own_low), own_scale);
        vf last = vf_div(vf_add(vf_load(batch->most + i * W), own_low), own_scale);
        vm fits = vm_and(vf_le(vf_abs(first), limit), vf_le(vf_abs(last), limit));
        wraps = vm_or(wraps, vm_not(vm_or(fits, vf_eq(own_scale, vf_set(0.0f)))));
        vf_store(batch->scale + i * W, own_scale);
        vf_store(batch->low + i * W, own_low);
    }
    return wraps;
}

/* ---- codes ---- */

/* W codes of super-block s that lie in one group. A group whose scale became zero keeps the search's codes. */
QUENCH_INLINE vi recode(const struct batch *batch, int group, int s, vi top, const float *x) {
    const int at = group * W + s;
    const vf value = vf_load(x);
    const float scale = batch->scale[at];
    vf exact = scale != 0.0f ? vf_div(vf_add(value, vf_set(batch->low[at])), vf_set(scale))
                             : vf_mul(vf_set(batch->inverse[at]), vf_sub(value, vf_set(batch->start[at])));
    return vi_nearest(vf_cut(exact, top));
}

/* Codes of `bits` bits, those 32 apart in one byte, and where there is one, the plane of fifth bits. */
QUENCH_INLINE void store_codes(const struct k_min_format *format, const struct batch *batch, int s, const float *x,
                               uint8_t *codes, uint8_t *high) {
    enum { WIDTH = 32 };
    const int bits = format->top == 3 ? 2 : 4, per_byte = 8 / bits;
    const vi top = vi_of_bits(vf_set((float)format->top)), mask = vi_set((1 << bits) - 1);
    for (int column = 0; column < WIDTH; column += W) {
        vi fifth = vi_set(0);
        for (int part = SUPER_BLOCK / WIDTH - 1; part >= 0; part -= per_byte) {
            vi packed = vi_set(0);
            for (int i = 0; i < per_byte; i++) {
                const int place = (part - i) * WIDTH + column;
                vi code = recode(batch, place / format->group, s, top, x + place);
                packed = vi_or(vi_left(packed, bits), vi_and(code, mask));
                fifth = high ? vi_or(vi_add(fifth, fifth), vi_right(code, 4)) : fifth;
            }
            vi_store_bytes(codes + (part / per_byte) * WIDTH + column, packed);
        }
        if (high) {
            vi_store_bytes(high + column, fifth);
        }
    }
}

/* ---- formats ---- */

/* Where the parts of a block are, and who writes those that lanes cannot. */
struct parts {
    int bytes, levels, halves, codes, high; /* 0 for no plane of fifth bits */
    encode_fn *exact;
};

static const struct parts q2_k_parts = {
    sizeof(struct block_q2_k), offsetof(struct block_q2_k, levels), offsetof(struct block_q2_k, scale),
    offsetof(struct block_q2_k, codes), 0, quench_encode_q2_k};
static const struct parts q4_k_parts = {
    sizeof(struct block_q4_k), offsetof(struct block_q4_k, levels), offsetof(struct block_q4_k, scale),
    offsetof(struct block_q4_k, codes), 0, quench_encode_q4_k};
static const struct parts q5_k_parts = {
    sizeof(struct block_q5_k), offsetof(struct block_q5_k, levels), offsetof(struct block_q5_k, scale),
    offsetof(struct block_q5_k, codes), offsetof(struct block_q5_k, high), quench_encode_q5_k};

/* W super-blocks, of which the first n are written. */
QUENCH_INLINE void encode_batch(const struct k_min_format *format, const struct parts *parts, const float *x,
                                const float *importance, uint8_t *blocks, size_t n) {
    struct batch batch;
    vm wraps = importance ? search(format, x, importance, &batch) : search(format, x, NULL, &batch);
    wraps = vm_or(wraps, importance ? settle(format, 1, &batch) : settle(format, 0, &batch));
    const uint32_t left = vm_bits(wraps);
    for (size_t s = 0; s < n; s++, x += SUPER_BLOCK, blocks += parts->bytes) {
        if (left >> s & 1) {
            parts->exact(x, importance ? importance + s * SUPER_BLOCK : NULL, 0.0f, blocks, 1);
            continue;
        }
        for (int i = 0; i < (format->group == 16 ? 4 : 3); i++) {
            memcpy(blocks + parts->levels + 4 * i, batch.levels + i * W + s, 4);
        }
        memcpy(blocks + parts->halves, batch.halves + s, 4);
        store_codes(format, &batch, (int)s, x, blocks + parts->codes, parts->high ? blocks + parts->high : NULL);
    }
}

typedef void batch_fn(const float *x, const float *importance, uint8_t *blocks, size_t n);

/* Fewer than W super-blocks, beside zeros. */
static void encode_rest(batch_fn *encode, const float *x, const float *importance, uint8_t *blocks, size_t n) {
    float padded[W * SUPER_BLOCK] = {0}, padded_importance[W * SUPER_BLOCK] = {0};
    memcpy(padded, x, n * SUPER_BLOCK * sizeof *x);
    if (importance) {
        memcpy(padded_importance, importance, n * SUPER_BLOCK * sizeof *importance);
    }
    encode(padded, importance ? padded_importance : NULL, blocks, n);
}

static void encode_all(batch_fn *encode, const struct parts *parts, const float *x, const float *importance,
                       uint8_t *blocks, size_t n) {
    size_t done = 0;
    for (; done + W <= n; done += W) {
        encode(x + done * SUPER_BLOCK, importance ? importance + done * SUPER_BLOCK : NULL,
               blocks + done * (size_t)parts->bytes, W);
    }
    if (done < n) {
        encode_rest(encode, x + done * SUPER_BLOCK, importance ? importance + done * SUPER_BLOCK : NULL,
                    blocks + done * (size_t)parts->bytes, n - done);
    }
}

static void batch_q2_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    encode_batch(&q2_k, &q2_k_parts, x, importance, blocks, n);
}

static void batch_q4_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    encode_batch(&q4_k, &q4_k_parts, x, importance, blocks, n);
}

static void batch_q5_k(const float *x, const float *importance, uint8_t *blocks, size_t n) {
    encode_batch(&q5_k, &q5_k_parts, x, importance, blocks, n);
}

void LANES(encode_q2_k)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    encode_all(batch_q2_k, &q2_k_parts, x, importance, blocks, n);
}

void LANES(encode_q4_k)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    encode_all(batch_q4_k, &q4_k_parts, x, importance, blocks, n);
}

void LANES(encode_q5_k)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    encode_all(batch_q5_k, &q5_k_parts, x, importance, blocks, n);
}
