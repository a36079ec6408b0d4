/* The symmetric search of reference/search.c in lanes: x ~ scale * code with codes -half..half-1, over the
 * values of a lane. */
#ifndef QUENCH_SYMMETRIC_H
#define QUENCH_SYMMETRIC_H

#include <stddef.h>

#include "../reference/search.h"
#include "vec.h"

/* Values in a lane; a file whose groups are longer says so before. */
#if !defined(QUENCH_DEPTH)
#  define QUENCH_DEPTH 16
#endif
enum { DEPTH = QUENCH_DEPTH };

/* Value i of lane k is at [i * W + k]. */
struct columns {
    _Alignas(64) float x[DEPTH * QUENCH_W];
    _Alignas(64) float weight[DEPTH * QUENCH_W];
    _Alignas(64) float product[DEPTH * QUENCH_W]; /* weight * x */
};

struct fit {
    vf scale, explained, inverse; /* the inverse scale that gave the codes, before the refit */
};

/* W runs of 16 values that are `stride` floats apart. */
QUENCH_INLINE void load_columns(const float *p, size_t stride, float *out) {
    for (int i = 0; i < DEPTH; i += 8) {
        vf part[8];
        vf_transpose8(p + i, stride, part);
        for (int k = 0; k < 8; k++) {
            vf_store(out + (i + k) * W, part[k]);
        }
    }
}

QUENCH_INLINE void weigh_columns(struct columns *c) {
    for (int i = 0; i < DEPTH; i++) {
        vf_store(c->product + i * W, vf_mul(vf_load(c->weight + i * W), vf_load(c->x + i * W)));
    }
}

/* Each lane's value of the largest magnitude, the first one of equals, with its sign. */
QUENCH_INLINE vf extreme_of(const float *x) {
    vf most = vf_set(0.0f), least = vf_set(0.0f);
    for (int i = 0; i < DEPTH; i++) {
        most = vf_most(vf_load(x + i * W), most);
        least = vf_least(vf_load(x + i * W), least);
    }
    const vf below = vf_neg(least);
    vf peak = vf_pick(vf_gt(most, below), most, least);
    if (vm_any(vf_eq(most, below))) {
        for (int i = DEPTH - 1; i >= 0; i--) {
            vf value = vf_load(x + i * W);
            peak = vf_pick(vf_eq(vf_abs(value), vf_abs(peak)), value, peak);
        }
    }
    return peak;
}

/* Weighted sums of code * x and code * code for `count` inverse scales at once. No |inverse * x| is beyond
 * half + tenth / 10 by more than roundings, so that most candidates need no clamp at the low end and some none at all. */
QUENCH_INLINE void explain_scales(int count, const int *tenths, int half, const struct columns *c, const vf *inverse,
                                  vf *sum_x, vf *sum_l) {
    const vf low = vf_set((float)-half), high = vf_set((float)(half - 1));
    for (int k = 0; k < count; k++) {
        sum_x[k] = sum_l[k] = vf_set(0.0f);
    }
    for (int i = 0; i < DEPTH; i++) {
        const vf x = vf_load(c->x + i * W), weight = vf_load(c->weight + i * W), product = vf_load(c->product + i * W);
        vf code[4];
        for (int k = 0; k < count; k++) {
            code[k] = vf_mul(inverse[k], x);
        }
        for (int k = 0; k < count; k++) {
            code[k] = tenths[k] >= -5 ? vf_least(code[k], high) : code[k];
            code[k] = tenths[k] >= 5 ? vf_most(code[k], low) : code[k];
        }
        for (int k = 0; k < count; k++) {
            code[k] = vf_round(code[k]);
        }
        for (int k = 0; k < count; k++) {
            sum_l[k] = vf_add(sum_l[k], vf_mul(vf_mul(weight, code[k]), code[k]));
        }
        for (int k = 0; k < count; k++) {
            sum_x[k] = vf_add(sum_x[k], vf_mul(product, code[k]));
        }
    }
}

QUENCH_INLINE void try_scales(int count, const int *tenths, int half, const struct columns *c, vf peak,
                              struct fit *fit) {
    vf inverse[4], sum_x[4], sum_l[4];
    for (int k = 0; k < count; k++) {
        inverse[k] = vf_div(vf_set(-((float)half + 0.1f * (float)tenths[k])), peak);
    }
    explain_scales(count, tenths, half, c, inverse, sum_x, sum_l);
    for (int k = 0; k < count; k++) {
        const vf scale = vf_div(sum_x[k], sum_l[k]);
        if (tenths[k] == 0) {
            fit->scale = vf_pick(vf_eq(sum_l[k], vf_set(0.0f)), vf_set(0.0f), scale);
            fit->explained = vf_mul(fit->scale, sum_x[k]);
            fit->inverse = inverse[k];
            continue;
        }
        const vm better = vm_and(vf_gt(sum_l[k], vf_set(0.0f)),
                                 vf_gt(vf_mul(sum_x[k], sum_x[k]), vf_mul(fit->explained, sum_l[k])));
        fit->scale = vf_pick(better, scale, fit->scale);
        fit->explained = vf_pick(better, vf_mul(scale, sum_x[k]), fit->explained);
        fit->inverse = vf_pick(better, inverse[k], fit->inverse);
    }
}

/* As many candidates at once as registers allow: they share the loads, and their ordered sums hide each other's wait. */
QUENCH_INLINE void try_four(int a, int b, int c, int d, int half, const struct columns *columns, vf peak,
                            struct fit *fit) {
    const int tenths[4] = {a, b, c, d};
#if QUENCH_W == 8
    try_scales(2, tenths, half, columns, peak, fit);
    try_scales(2, tenths + 2, half, columns, peak, fit);
#else
    try_scales(4, tenths, half, columns, peak, fit);
#endif
}

/* Lanes whose values are all zeros or nearly get scale 0; what they have as inverse has no meaning. */
QUENCH_INLINE struct fit fit_columns(int half, const struct columns *c, vf peak) {
    struct fit fit;
    try_four(0, -9, -8, -7, half, c, peak, &fit);
    try_four(-6, -5, -4, -3, half, c, peak, &fit);
    try_four(-2, -1, 1, 2, half, c, peak, &fit);
    try_four(3, 4, 5, 6, half, c, peak, &fit);
    const int last[3] = {7, 8, 9};
    try_scales(3, last, half, c, peak, &fit);
    fit.scale = vf_pick(vf_lt(vf_abs(peak), vf_set(QUENCH_ZERO_GROUP)), vf_set(0.0f), fit.scale);
    return fit;
}

#endif
