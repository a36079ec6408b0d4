/* The scale-and-low search of reference/search.c in lanes: every lane fits its own group of weights, doing exactly the
 * reference's float operations in the reference's order. Values of a group lie W floats apart. */
#ifndef QUENCH_RANGE_SEARCH_H
#define QUENCH_RANGE_SEARCH_H

#include "../reference/search.h"
#include "vec.h"

/* Groups that are searched side by side: the ordered sums of one hide in the work of the others. As many as the
 * registers hold. */
#if QUENCH_W == 16
enum { ABREAST = 4 };
#else
enum { ABREAST = 2 };
#endif

/* Beyond this the reference's rounding wraps around; such blocks are left to the reference. */
#define QUENCH_WRAP 4194303.0f

/* One group a lane. Codes are nearest(inverse * (x - start)), cut to the range. */
struct ranges {
    vf scale, low;     /* the result: x ~ scale * code - low */
    vf inverse, start; /* what the winning codes were made with; the inverse is 0 where all weights are equal */
    vf least, most;    /* the smallest weight or 0, the largest weight */
    vf sum_w;          /* of the weights of the errors */
    vm wraps;
};

/* A positive float grows with its bits, and any negative one is a negative integer. */
QUENCH_INLINE vf vf_cut(vf a, vi top) {
    return vf_of_bits(vi_least(vi_most(vi_of_bits(a), vi_set(0)), top));
}

QUENCH_INLINE vf range_code(vf x, vf inverse, vf start, vi top) {
    return vf_round(vf_cut(vf_mul(inverse, vf_sub(x, start)), top));
}

/* Whether one of the codes comes from a number beyond the rounding's range: products are monotonic, so the ends tell. */
QUENCH_INLINE vm range_wraps(vf inverse, vf start, vf least, vf most) {
    const vf limit = vf_set(QUENCH_WRAP);
    vm low = vf_le(vf_abs(vf_mul(inverse, vf_sub(least, start))), limit);
    vm high = vf_le(vf_abs(vf_mul(inverse, vf_sub(most, start))), limit);
    return vm_not(vm_and(low, high));
}

QUENCH_INLINE vf range_miss(vf scale, vf low, vf code, vf x, vf weight, int absolute) {
    vf miss = vf_sub(vf_add(vf_mul(scale, code), low), x);
    return vf_mul(weight, absolute ? vf_abs(miss) : vf_mul(miss, miss));
}

/* ABREAST vectors of groups of n: value i of vector k is at (k * n + i) * W. `codes` is scratch of that size. */
QUENCH_INLINE void fit_ranges(const int n, const int top, const struct range_grid grid, const float *x,
                              const float *weight, float *codes, struct ranges *out) {
    const int apart = n * W;
    const vi top_bits = vi_of_bits(vf_set((float)top));
    const vf zero = vf_set(0.0f);
    vf least[ABREAST], most[ABREAST], sum_w[ABREAST], sum_x[ABREAST];
    vf scale[ABREAST], low[ABREAST], error[ABREAST], best_inverse[ABREAST], best_start[ABREAST];
    vm flat[ABREAST], wraps[ABREAST];

    for (int k = 0; k < ABREAST; k++) {
        least[k] = most[k] = vf_load(x + k * apart);
        sum_w[k] = vf_load(weight + k * apart);
        sum_x[k] = vf_mul(sum_w[k], least[k]);
    }
    for (int i = 1; i < n; i++) {
        for (int k = 0; k < ABREAST; k++) {
            vf value = vf_load(x + k * apart + i * W), w = vf_load(weight + k * apart + i * W);
            least[k] = vf_least(value, least[k]);
            most[k] = vf_most(value, most[k]);
            sum_w[k] = vf_add(sum_w[k], w);
            sum_x[k] = vf_add(sum_x[k], vf_mul(w, value));
        }
    }
    for (int k = 0; k < ABREAST; k++) {
        least[k] = vf_pick(vf_gt(least[k], zero), zero, least[k]);
        flat[k] = vf_eq(most[k], least[k]);
        best_inverse[k] = vf_div(vf_set((float)top), vf_sub(most[k], least[k]));
        best_start[k] = low[k] = least[k];
        scale[k] = vf_div(vf_set(1.0f), best_inverse[k]);
        wraps[k] = range_wraps(best_inverse[k], least[k], least[k], most[k]);
        error[k] = zero;
    }
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < ABREAST; k++) {
            vf value = vf_load(x + k * apart + i * W), w = vf_load(weight + k * apart + i * W);
            vf code = range_code(value, best_inverse[k], best_start[k], top_bits);
            error[k] = vf_add(error[k], range_miss(scale[k], low[k], code, value, w, grid.absolute));
        }
    }

    for (int step = 0; step <= grid.steps; step++) {
        const vf levels = vf_set(grid.first + grid.step * (float)step + (float)top);
        vf inverse[ABREAST], start[ABREAST], sum_l[ABREAST], sum_ll[ABREAST], sum_lx[ABREAST];
        vf new_scale[ABREAST], new_low[ABREAST], new_error[ABREAST];
        vm usable[ABREAST];
        for (int k = 0; k < ABREAST; k++) {
            start[k] = low[k];
            inverse[k] = vf_div(levels, vf_sub(most[k], start[k]));
            wraps[k] = vm_or(wraps[k], range_wraps(inverse[k], start[k], least[k], most[k]));
            sum_l[k] = sum_ll[k] = sum_lx[k] = zero;
        }
        for (int i = 0; i < n; i++) {
            for (int k = 0; k < ABREAST; k++) {
                vf value = vf_load(x + k * apart + i * W);
                vf code = range_code(value, inverse[k], start[k], top_bits);
                vf_store(codes + k * apart + i * W, code);
                vf l = vf_mul(vf_load(weight + k * apart + i * W), code);
                sum_l[k] = vf_add(sum_l[k], l);
                sum_ll[k] = vf_add(sum_ll[k], vf_mul(l, code));
                sum_lx[k] = vf_add(sum_lx[k], vf_mul(l, value));
            }
        }
        for (int k = 0; k < ABREAST; k++) {
            vf determinant = vf_sub(vf_mul(sum_w[k], sum_ll[k]), vf_mul(sum_l[k], sum_l[k]));
            usable[k] = vf_gt(determinant, zero);
            new_low[k] = vf_div(vf_sub(vf_mul(sum_ll[k], sum_x[k]), vf_mul(sum_l[k], sum_lx[k])), determinant);
            vm through_zero = vf_gt(new_low[k], zero);
            vf above = vf_sub(vf_mul(sum_w[k], sum_lx[k]), vf_mul(sum_x[k], sum_l[k]));
            new_scale[k] =
                vf_div(vf_pick(through_zero, sum_lx[k], above), vf_pick(through_zero, sum_ll[k], determinant));
            new_low[k] = vf_pick(through_zero, zero, new_low[k]);
            new_error[k] = zero;
        }
        for (int i = 0; i < n; i++) {
            for (int k = 0; k < ABREAST; k++) {
                vf value = vf_load(x + k * apart + i * W), w = vf_load(weight + k * apart + i * W);
                vf code = vf_load(codes + k * apart + i * W);
                new_error[k] =
                    vf_add(new_error[k], range_miss(new_scale[k], new_low[k], code, value, w, grid.absolute));
            }
        }
        for (int k = 0; k < ABREAST; k++) {
            vm better = vm_and(usable[k], vf_lt(new_error[k], error[k]));
            best_start[k] = vf_pick(better, start[k], best_start[k]);
            best_inverse[k] = vf_pick(better, inverse[k], best_inverse[k]);
            scale[k] = vf_pick(better, new_scale[k], scale[k]);
            low[k] = vf_pick(better, new_low[k], low[k]);
            error[k] = vf_pick(better, new_error[k], error[k]);
        }
    }
    for (int k = 0; k < ABREAST; k++) {
        out[k].scale = vf_pick(flat[k], zero, scale[k]);
        out[k].low = vf_neg(vf_pick(flat[k], least[k], low[k]));
        out[k].inverse = vf_pick(flat[k], zero, best_inverse[k]);
        out[k].start = best_start[k];
        out[k].least = least[k];
        out[k].most = most[k];
        out[k].sum_w = sum_w[k];
        /* A sum that is not a number: a weight that is none, or squares that overflow. */
        out[k].wraps = vm_or(vm_and(wraps[k], vm_not(flat[k])), vm_not(vf_eq(sum_x[k], sum_x[k])));
    }
}

#endif
