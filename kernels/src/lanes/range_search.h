/* The scale-and-low search of reference/search.c in lanes: every lane fits its own group of weights, doing exactly the
 * reference's float operations in the reference's order. */
#ifndef QUENCH_RANGE_SEARCH_H
#define QUENCH_RANGE_SEARCH_H

#include "../reference/search.h"
#include "vec.h"

/* Vectors of groups that are searched together, and of those, how many share a loop: the registers hold the ordered
 * sums of SIDE, and while one side's divisions are on their way, the other's loop runs. What ABREAST vectors of 32
 * weights need (weights, their importance and codes) stays within the first cache. */
enum { SIDE = 4, ABREAST = QUENCH_W == 16 ? 4 : 8 };

/* Beyond this the reference's rounding wraps around; such blocks are left to the reference. */
#define QUENCH_WRAP 4194303.0f

/* One group a lane, ABREAST vectors of them. Codes are nearest(inverse * (x - start)), cut to the range. */
struct ranges {
    vf scale[ABREAST], low[ABREAST];     /* the result: x ~ scale * code - low */
    vf inverse[ABREAST], start[ABREAST]; /* what made the winning codes; the inverse is 0 where all weights are equal */
    vf least[ABREAST], most[ABREAST];    /* the smallest weight or 0, the largest weight */
    vf sum_w[ABREAST];                   /* of the weights of the errors */
    vm wraps;                            /* in any of the vectors */
};

/* Candidates of one step. low is as it is added: never positive. */
struct lines {
    vf inverse[ABREAST], start[ABREAST], scale[ABREAST], low[ABREAST];
    vm usable[ABREAST];
};

/* A positive float grows with its bits, and any negative one is a negative integer. */
QUENCH_INLINE vf vf_cut(vf a, vi top) {
    return vf_of_bits(vi_least(vi_most(vi_of_bits(a), vi_set(0)), top));
}

QUENCH_INLINE void vf_copy(vf *to, const vf *from, int count) {
    for (int i = 0; i < count; i++) {
        to[i] = from[i];
    }
}

/* ---- passes over SIDE groups of n: value i of group k is at (i * ABREAST + k) * W ---- */

QUENCH_INLINE void code_side(const int n, const int top, const vf *inverse, const vf *start, const float *x,
                             float *codes) {
    const vi top_bits = vi_of_bits(vf_set((float)top));
    vf factor[SIDE], base[SIDE];
    vf_copy(factor, inverse, SIDE);
    vf_copy(base, start, SIDE);
    for (int i = 0; i < n; i++, x += ABREAST * W, codes += ABREAST * W) {
        for (int k = 0; k < SIDE; k++) {
            vf exact = vf_mul(factor[k], vf_sub(vf_load(x + k * W), base[k]));
            vf_store(codes + k * W, vf_round(vf_cut(exact, top_bits)));
        }
    }
}

/* Weighted sums of the codes, of their squares and of their products with x. A loop of its own: together with the
 * coding, sums would wait so long for their codes that they fill the processor's queues. */
QUENCH_INLINE void sum_side(const int n, const float *x, const float *weight, const float *codes, vf *l, vf *ll,
                            vf *lx) {
    for (int k = 0; k < SIDE; k++) {
        l[k] = ll[k] = lx[k] = vf_set(0.0f);
    }
    for (int i = 0; i < n; i++, x += ABREAST * W, weight += ABREAST * W, codes += ABREAST * W) {
        for (int k = 0; k < SIDE; k++) {
            vf code = vf_load(codes + k * W), product = vf_mul(vf_load(weight + k * W), code);
            l[k] = vf_add(l[k], product);
            ll[k] = vf_add(ll[k], vf_mul(product, code));
            lx[k] = vf_add(lx[k], vf_mul(product, vf_load(x + k * W)));
        }
    }
}

QUENCH_INLINE void miss_side(const int n, const int absolute, const vf *scale, const vf *low, const float *x,
                             const float *weight, const float *codes, vf *error) {
    vf factor[SIDE], base[SIDE];
    vf_copy(factor, scale, SIDE);
    vf_copy(base, low, SIDE);
    for (int k = 0; k < SIDE; k++) {
        error[k] = vf_set(0.0f);
    }
    for (int i = 0; i < n; i++, x += ABREAST * W, weight += ABREAST * W, codes += ABREAST * W) {
        for (int k = 0; k < SIDE; k++) {
            vf miss = vf_add(vf_mul(factor[k], vf_load(codes + k * W)), base[k]);
            miss = vf_sub(miss, vf_load(x + k * W));
            miss = absolute ? vf_abs(miss) : vf_mul(miss, miss);
            error[k] = vf_add(error[k], vf_mul(vf_load(weight + k * W), miss));
        }
    }
}

/* ---- search ---- */

/* Ranges and sums of the groups. */
QUENCH_INLINE void measure_side(const int n, const float *x, const float *weight, struct ranges *out, vf *sum_x,
                                const int first) {
    vf least[SIDE], most[SIDE], sum_w[SIDE], sum[SIDE];
    for (int k = 0; k < SIDE; k++) {
        least[k] = most[k] = vf_load(x + k * W);
        sum_w[k] = vf_load(weight + k * W);
        sum[k] = vf_mul(sum_w[k], least[k]);
    }
    for (int i = 1; i < n; i++) {
        x += ABREAST * W;
        weight += ABREAST * W;
        for (int k = 0; k < SIDE; k++) {
            vf value = vf_load(x + k * W), w = vf_load(weight + k * W);
            least[k] = vf_least(value, least[k]);
            most[k] = vf_most(value, most[k]);
            sum_w[k] = vf_add(sum_w[k], w);
            sum[k] = vf_add(sum[k], vf_mul(w, value));
        }
    }
    for (int k = 0; k < SIDE; k++) {
        out->least[first + k] = vf_least(vf_set(0.0f), least[k]); /* of two zeros the weights' own: its sign is stored */
        out->most[first + k] = most[k];
        out->sum_w[first + k] = sum_w[k];
        sum_x[first + k] = sum[k];
    }
}

/* Weighted least squares of x on the codes; a line that would need a positive low goes through zero instead. */
QUENCH_INLINE void refit(vf sum_w, vf sum_x, vf sum_l, vf sum_ll, vf sum_lx, struct lines *line, const int k) {
    const vf zero = vf_set(0.0f);
    vf determinant = vf_sub(vf_mul(sum_w, sum_ll), vf_mul(sum_l, sum_l));
    vf low = vf_div(vf_sub(vf_mul(sum_ll, sum_x), vf_mul(sum_l, sum_lx)), determinant);
    vf above = vf_sub(vf_mul(sum_w, sum_lx), vf_mul(sum_x, sum_l));
    vm positive = vf_gt(low, zero);
    line->usable[k] = vf_gt(determinant, zero);
    line->low[k] = vf_pick(positive, zero, low);
    line->scale[k] = vf_div(vf_pick(positive, sum_lx, above), vf_pick(positive, sum_ll, determinant));
}

/* At least the size of every inverse * (x - start); infinite or NaN when one of them is. */
QUENCH_INLINE vf reach(vf inverse, vf start, vf least, vf most) {
    vf low = vf_abs(vf_mul(inverse, vf_sub(least, start))), high = vf_abs(vf_mul(inverse, vf_sub(most, start)));
    return vf_add(low, high);
}

/* Searches ABREAST vectors of groups of n. `codes` is scratch for as many values. */
QUENCH_INLINE void fit_ranges(const int n, const int top, const struct range_grid grid, const float *x,
                              const float *weight, float *codes, struct ranges *out) {
    vf sum_x[ABREAST], error[ABREAST], reached[ABREAST];
    vm flat[ABREAST];
    struct lines line;
    for (int first = 0; first < ABREAST; first += SIDE) {
        measure_side(n, x + first * W, weight + first * W, out, sum_x, first);
    }
    for (int k = 0; k < ABREAST; k++) {
        flat[k] = vf_eq(out->most[k], out->least[k]);
        out->inverse[k] = vf_div(vf_set((float)top), vf_sub(out->most[k], out->least[k]));
        out->start[k] = out->low[k] = out->least[k];
        out->scale[k] = vf_div(vf_set(1.0f), out->inverse[k]);
        reached[k] = reach(out->inverse[k], out->start[k], out->least[k], out->most[k]);
    }
    for (int first = 0; first < ABREAST; first += SIDE) {
        code_side(n, top, out->inverse + first, out->start + first, x + first * W, codes + first * W);
        miss_side(n, grid.absolute, out->scale + first, out->low + first, x + first * W, weight + first * W,
                  codes + first * W, error + first);
    }
    for (int step = 0; step <= grid.steps; step++) {
        const vf levels = vf_set(grid.first + grid.step * (float)step + (float)top);
        for (int k = 0; k < ABREAST; k++) {
            line.start[k] = out->low[k];
            line.inverse[k] = vf_div(levels, vf_sub(out->most[k], line.start[k]));
            vf size = reach(line.inverse[k], line.start[k], out->least[k], out->most[k]);
            reached[k] = vf_add(reached[k], size);
        }
        for (int first = 0; first < ABREAST; first += SIDE) {
            code_side(n, top, line.inverse + first, line.start + first, x + first * W, codes + first * W);
        }
        for (int first = 0; first < ABREAST; first += SIDE) {
            vf l[SIDE], ll[SIDE], lx[SIDE];
            sum_side(n, x + first * W, weight + first * W, codes + first * W, l, ll, lx);
            for (int k = 0; k < SIDE; k++) {
                refit(out->sum_w[first + k], sum_x[first + k], l[k], ll[k], lx[k], &line, first + k);
            }
        }
        for (int first = 0; first < ABREAST; first += SIDE) {
            vf tried[SIDE];
            miss_side(n, grid.absolute, line.scale + first, line.low + first, x + first * W, weight + first * W,
                      codes + first * W, tried);
            for (int k = first; k < first + SIDE; k++) {
                vm better = vm_and(line.usable[k], vf_lt(tried[k - first], error[k]));
                error[k] = vf_pick(better, tried[k - first], error[k]);
                out->scale[k] = vf_pick(better, line.scale[k], out->scale[k]);
                out->low[k] = vf_pick(better, line.low[k], out->low[k]);
                out->inverse[k] = vf_pick(better, line.inverse[k], out->inverse[k]);
                out->start[k] = vf_pick(better, line.start[k], out->start[k]);
            }
        }
    }
    out->wraps = vm_none();
    for (int k = 0; k < ABREAST; k++) {
        out->scale[k] = vf_pick(flat[k], vf_set(0.0f), out->scale[k]);
        out->low[k] = vf_neg(vf_pick(flat[k], out->least[k], out->low[k]));
        out->inverse[k] = vf_pick(flat[k], vf_set(0.0f), out->inverse[k]);
        /* A sum that is not a number: a weight that is none, or squares that overflow. */
        vm sound = vm_and(vf_eq(sum_x[k], sum_x[k]), vm_or(flat[k], vf_le(reached[k], vf_set(QUENCH_WRAP))));
        out->wraps = vm_or(out->wraps, vm_not(sound));
    }
}

#endif
