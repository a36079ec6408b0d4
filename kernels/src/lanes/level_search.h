/* quench_fit_levels of reference/search.c in lanes: every lane fits the scales or lows of its own super-block. */
#ifndef QUENCH_LEVEL_SEARCH_H
#define QUENCH_LEVEL_SEARCH_H

#include "../reference/search.h"
#include "vec.h"

enum { LEVEL_DESCENTS = 5, MOST_LEVELS = 16 };

/* The first candidate is stored in a byte before it is measured, the others are capped. */
QUENCH_INLINE vf level_error(const int n, vf inverse, int capped, vi top, const vf *x, const vf *weight) {
    vf scale = vf_div(vf_set(1.0f), inverse), error = vf_set(0.0f);
    for (int i = 0; i < n; i++) {
        vi level = vi_nearest(vf_mul(inverse, x[i]));
        level = capped ? vi_least(level, top) : vi_byte(level);
        vf miss = vf_sub(x[i], vf_mul(scale, vf_from_vi(level)));
        error = vf_add(error, vf_mul(vf_mul(weight[i], miss), miss));
    }
    return error;
}

/* n values a lane. Returns the scales; adds to `wraps` the lanes whose roundings leave the reference's range. */
static inline vf fit_levels(const int n, const int highest, const vf *x, const vf *weight, vi *levels, vm *wraps) {
    const vf zero = vf_set(0.0f), limit = vf_set(4194303.0f);
    const vi top = vi_set(highest);
    vf most = zero, size = zero;
    for (int i = 0; i < n; i++) {
        most = vf_most(most, x[i]);
        size = vf_most(vf_abs(x[i]), size);
    }
    const vm nothing = vf_lt(most, vf_set(QUENCH_ZERO_GROUP));
    vf inverse = vf_div(vf_set((float)highest), most);
    vf error = level_error(n, inverse, 0, top, x, weight);
    vf tried = inverse;
    for (int tenth = -4; tenth <= 4; tenth++) {
        if (tenth == 0) {
            continue;
        }
        tried = vf_div(vf_set(0.1f * (float)tenth + (float)highest), most);
        vf other = level_error(n, tried, 1, top, x, weight);
        vm better = vf_lt(other, error);
        error = vf_pick(better, other, error);
        inverse = vf_pick(better, tried, inverse);
    }
    /* The last candidate has the largest inverse. */
    vm fits = vf_le(vf_mul(tried, size), limit);

    vf sum_lx = zero, sum_ll = zero;
    for (int i = 0; i < n; i++) {
        vi level = vi_least(vi_nearest(vf_mul(inverse, x[i])), top);
        vf l = vf_from_vi(level);
        levels[i] = vi_byte(level);
        sum_lx = vf_add(sum_lx, vf_mul(vf_mul(weight[i], x[i]), l));
        sum_ll = vf_add(sum_ll, vf_mul(vf_mul(weight[i], l), l));
    }
    for (int round = 0; round < LEVEL_DESCENTS; round++) {
        vm changed = vm_none();
        for (int i = 0; i < n; i++) {
            vf wx = vf_mul(weight[i], x[i]), old = vf_from_vi(levels[i]);
            vf lx = vf_sub(sum_lx, vf_mul(wx, old));
            vf ll = vf_sub(sum_ll, vf_mul(vf_mul(weight[i], old), old));
            vm usable = vm_and(vf_gt(lx, zero), vf_gt(ll, zero));
            vf exact = vf_div(vf_mul(x[i], ll), lx);
            fits = vm_and(fits, vm_or(vm_not(usable), vf_le(vf_abs(exact), limit)));
            vi level = vi_least(vi_nearest(exact), top);
            vf l = vf_from_vi(level);
            lx = vf_add(lx, vf_mul(wx, l));
            ll = vf_add(ll, vf_mul(vf_mul(weight[i], l), l));
            vm better = vf_gt(vf_mul(vf_mul(lx, lx), sum_ll), vf_mul(vf_mul(sum_lx, sum_lx), ll));
            better = vm_and(vm_and(better, usable), vm_not(vi_eq(level, levels[i])));
            levels[i] = vi_pick(better, vi_byte(level), levels[i]);
            sum_lx = vf_pick(better, lx, sum_lx);
            sum_ll = vf_pick(better, ll, sum_ll);
            changed = vm_or(changed, better);
        }
        if (!vm_any(changed)) {
            break;
        }
    }
    for (int i = 0; i < n; i++) {
        levels[i] = vi_pick(nothing, vi_set(0), levels[i]);
    }
    *wraps = vm_or(*wraps, vm_not(vm_or(fits, nothing)));
    return vf_pick(vm_and(vf_gt(sum_ll, zero), vm_not(nothing)), vf_div(sum_lx, sum_ll), zero);
}

#endif
