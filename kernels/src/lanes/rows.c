/* Rows of logits. Four vectors go through the exponential together: alone, one would mostly wait for its own results.
 * Where a vector is narrower than the 16 sums, each of its places is walked by itself, so that sums stay in registers. */
#include "../rows.h"
#include "lanes.h"
#include "wide.h"

#define EACH for (int k = 0; k < 4; k++)

size_t LANES(above)(const float *x, size_t from, size_t n, float than) {
    const vf limit = vf_set(than);
    size_t i = from;
    for (; i + 4 * QUENCH_W <= n; i += 4 * QUENCH_W) {
        const vf a = vf_most(vf_load(x + i), vf_load(x + i + QUENCH_W));
        const vf b = vf_most(vf_load(x + i + 2 * QUENCH_W), vf_load(x + i + 3 * QUENCH_W));
        if (vm_any(vf_gt(vf_most(a, b), limit))) {
            break;
        }
    }
    while (i + QUENCH_W <= n && !vm_any(vf_gt(vf_load(x + i), limit))) {
        i += QUENCH_W;
    }
    while (i < n && !(x[i] > than)) {
        i++;
    }
    return i;
}

/* A row's scale, its numbers in every lane. */
struct spread {
    vf anchor, least;
    v8 high, rest;
};

QUENCH_INLINE struct spread spread(const struct row_scale *scale) {
    int32_t rest[8];
    memcpy(rest, scale->rest, sizeof rest);
    return (struct spread){vf_set(scale->anchor), vf_set(scale->least), v8_load(scale->high), v8_load(rest)};
}

/* row_weight of four vectors, the first two and the last two with a scale of their own; `near` if the anchors are 0. */
QUENCH_INLINE void weights(const vf x[4], const struct spread *first, const struct spread *second, int near, vf high[4],
                           vf low[4]) {
    const struct spread *scale[4] = {first, first, second, second};
    const vf magic = vf_set(EXP_MAGIC);
    vf t[4], n[4], r[4], u[4];
    vi bits[4];
    EACH t[k] = vf_most(scale[k]->least, near ? x[k] : vf_sub(x[k], scale[k]->anchor));
    EACH n[k] = vf_fused(t[k], vf_set(EXP_PER_LN2), magic);
    EACH bits[k] = vi_of_bits(n[k]);
    EACH n[k] = vf_sub(n[k], magic);
    EACH t[k] = vf_fused(n[k], vf_set(-EXP_STEP), t[k]); /* exact either way */
    EACH r[k] = vf_fused(n[k], vf_set(-EXP_STEP_REST), t[k]);
    EACH high[k] = vf_of_bits(vi_add(vi_left(bits[k], 20), v8_at(scale[k]->high, bits[k])));
    EACH u[k] = vf_fused(vf_set(EXP_C4), r[k], vf_set(EXP_C3));
    EACH u[k] = vf_fused(u[k], r[k], vf_set(0.5f));
    EACH u[k] = vf_fused(u[k], vf_mul(r[k], r[k]), r[k]);
    EACH low[k] = vf_mul(high[k], vf_add(u[k], vf_of_bits(v8_at(scale[k]->rest, bits[k]))));
}

/* The piece after this one, into the cache. It may lie behind the last row: a prefetch never faults. */
QUENCH_INLINE void prefetch_next(const float *x, size_t lane) {
    if (lane == 0) {
        for (size_t line = 0; line < ROW_GROUP; line += 16) {
            v_prefetch((const char *)((uintptr_t)(x + line) + ROW_PIECE * sizeof *x));
        }
    }
}

QUENCH_INLINE void weigh_one(const float *x, size_t n, const struct row_scale *scale, int near, double *sums) {
    const struct spread around = spread(scale);
    vf a[4], high[4], low[4];
    for (size_t lane = 0; lane < ROW_SUMS; lane += QUENCH_W) {
        vw sum = vw_load(sums + lane);
        for (size_t i = lane; i < n; i += ROW_GROUP) {
            prefetch_next(x + i, lane);
            EACH a[k] = vf_load(x + i + k * ROW_SUMS);
            weights(a, &around, &around, near, high, low);
            EACH sum = vw_add(sum, vw_widen(high[k]));
            sum = vw_add(sum, vw_widen(vf_add(vf_add(low[0], low[1]), vf_add(low[2], low[3]))));
        }
        vw_store(sums + lane, sum);
    }
}

void LANES(weigh)(const float *x, size_t n, const struct row_scale *scale, double *sums) {
    if (scale->anchor == 0.0f) {
        weigh_one(x, n, scale, 1, sums);
    } else {
        weigh_one(x, n, scale, 0, sums);
    }
}

/* One vector's high parts and their products with `difference`: exact where that is `near`, which comes from floats. */
QUENCH_INLINE void add_high(vf high, vw difference, int near, vw *sum, vw *dot) {
    const vw wide = vw_widen(high);
    *sum = vw_add(*sum, wide);
    *dot = near ? vw_fused(wide, difference, *dot) : vw_add(*dot, vw_mul(wide, difference));
}

struct pair_sums {
    vw x_sum, y_sum, x_dot, y_dot;
};

struct low_sums {
    vf x_sum, y_sum, x_dot, y_dot;
};

/* Two of a sum's four columns of both rows: adds what is high to `sums`, and returns what is low. */
QUENCH_INLINE struct low_sums weigh_two(const float *x, const float *y, const struct spread *around_x,
                                        const struct spread *around_y, vw centre, int near,
                                        struct pair_sums *sums) {
    const vf a[4] = {vf_load(x), vf_load(x + ROW_SUMS), vf_load(y), vf_load(y + ROW_SUMS)};
    vf high[4], low[4];
    weights(a, around_x, around_y, near, high, low);
    vf near_first = vf_sub(a[0], a[2]), near_second = vf_sub(a[1], a[3]);
    vw first = vw_widen(near_first), second = vw_widen(near_second);
    if (!near) {
        first = vw_sub(vw_sub(vw_widen(a[0]), vw_widen(a[2])), centre);
        second = vw_sub(vw_sub(vw_widen(a[1]), vw_widen(a[3])), centre);
        near_first = vw_narrow(first);
        near_second = vw_narrow(second);
    }
    add_high(high[0], first, near, &sums->x_sum, &sums->x_dot);
    add_high(high[2], first, near, &sums->y_sum, &sums->y_dot);
    add_high(high[1], second, near, &sums->x_sum, &sums->x_dot);
    add_high(high[3], second, near, &sums->y_sum, &sums->y_dot);
    const struct low_sums sum = {vf_add(low[0], low[1]), vf_add(low[2], low[3]),
                                 vf_fused(low[1], near_second, vf_mul(low[0], near_first)),
                                 vf_fused(low[3], near_second, vf_mul(low[2], near_first))};
    return sum;
}

QUENCH_INLINE void weigh_both(const float *x, const float *y, size_t n, const struct row_scale *x_scale,
                              const struct row_scale *y_scale, double centre, int near, double *sums) {
    const struct spread around_x = spread(x_scale), around_y = spread(y_scale);
    const vw wide_centre = vw_set(centre);
    for (size_t lane = 0; lane < ROW_SUMS; lane += QUENCH_W) {
        double *place = sums + lane;
        struct pair_sums pair = {vw_load(place), vw_load(place + ROW_SUMS), vw_load(place + 2 * ROW_SUMS),
                                 vw_load(place + 3 * ROW_SUMS)};
        for (size_t i = lane; i < n; i += ROW_GROUP) {
            const float *next_x = x + i + 2 * ROW_SUMS, *next_y = y + i + 2 * ROW_SUMS;
            prefetch_next(x + i, lane);
            prefetch_next(y + i, lane);
            const struct low_sums a = weigh_two(x + i, y + i, &around_x, &around_y, wide_centre, near, &pair);
            const struct low_sums b = weigh_two(next_x, next_y, &around_x, &around_y, wide_centre, near, &pair);
            pair.x_sum = vw_add(pair.x_sum, vw_widen(vf_add(a.x_sum, b.x_sum)));
            pair.y_sum = vw_add(pair.y_sum, vw_widen(vf_add(a.y_sum, b.y_sum)));
            pair.x_dot = vw_add(pair.x_dot, vw_widen(vf_add(a.x_dot, b.x_dot)));
            pair.y_dot = vw_add(pair.y_dot, vw_widen(vf_add(a.y_dot, b.y_dot)));
        }
        vw_store(place, pair.x_sum);
        vw_store(place + ROW_SUMS, pair.y_sum);
        vw_store(place + 2 * ROW_SUMS, pair.x_dot);
        vw_store(place + 3 * ROW_SUMS, pair.y_dot);
    }
}

void LANES(weigh_pair)(const float *x, const float *y, size_t n, const struct row_scale *x_scale,
                       const struct row_scale *y_scale, double centre, double *sums) {
    if (row_pair_near(x_scale, y_scale, centre)) {
        weigh_both(x, y, n, x_scale, y_scale, 0.0, 1, sums);
    } else {
        weigh_both(x, y, n, x_scale, y_scale, centre, 0, sums);
    }
}

void LANES(subtract)(const float *x, size_t n, double by, float *out) {
    const vw amount = vw_set(by);
    size_t i = 0;
    for (; i + QUENCH_W <= n; i += QUENCH_W) {
        vf_store(out + i, vw_narrow(vw_sub(vw_widen(vf_load(x + i)), amount)));
    }
    for (; i < n; i++) {
        out[i] = (float)((double)x[i] - by);
    }
}
