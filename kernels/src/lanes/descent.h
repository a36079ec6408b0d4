/* Coordinate descent of reference/search.c in lanes: all lanes take the same steps, and each keeps what helps it. A lane
 * that a round left unchanged stays so, which is why lanes need not stop one by one. */
#ifndef QUENCH_DESCENT_H
#define QUENCH_DESCENT_H

#include "symmetric.h"

enum { ROUNDS = 5, TOGETHER = 4 };

/* The codes are those of the largest magnitude on -half to begin with. */
struct descent {
    struct columns columns;
    _Alignas(64) float codes[DEPTH * QUENCH_W];
};

struct products {
    vf x, l; /* weighted sums of code * x and code * code */
};

/* nearest() of numeric.h with its wrap, then the clamp: the quotients may be of any size. */
QUENCH_INLINE vf nearest_code(vf value, int half) {
    const vi bits = vi_and(vi_of_bits(vf_add(value, vf_set(12582912.0f))), vi_set(0x007fffff));
    const vi code = vi_least(vi_most(bits, vi_set(0x00400000 - half)), vi_set(0x00400000 + half - 1));
    return vf_sub(vf_of_bits(vi_or(code, vi_set(0x4b000000))), vf_set(12582912.0f));
}

QUENCH_INLINE void start_descent(int half, vf peak, struct descent *d, struct products *sum) {
    const vf inverse = vf_div(vf_set((float)-half), peak), high = vf_set((float)(half - 1));
    sum->x = sum->l = vf_set(0.0f);
    for (int i = 0; i < DEPTH; i++) {
        const vf x = vf_load(d->columns.x + i * W), weight = vf_mul(x, x), product = vf_mul(weight, x);
        const vf code = vf_round(vf_least(vf_mul(inverse, x), high));
        vf_store(d->columns.weight + i * W, weight);
        vf_store(d->columns.product + i * W, product);
        vf_store(d->codes + i * W, code);
        sum->x = vf_add(sum->x, vf_mul(product, code));
        sum->l = vf_add(sum->l, vf_mul(vf_mul(weight, code), code));
    }
}

/* One value of each lane: its best code while the others stay. Returns the lanes where that was another one. */
QUENCH_INLINE vm descend_at(int half, int i, struct descent *d, struct products *sum) {
    const vf x = vf_load(d->columns.x + i * W), weight = vf_load(d->columns.weight + i * W);
    const vf product = vf_load(d->columns.product + i * W), old = vf_load(d->codes + i * W);
    const vf zero = vf_set(0.0f);
    struct products other = {vf_sub(sum->x, vf_mul(product, old)), vf_sub(sum->l, vf_mul(vf_mul(weight, old), old))};
    const vf code = nearest_code(vf_div(vf_mul(x, other.l), other.x), half);
    vm better = vm_and(vf_gt(other.x, zero), vm_not(vf_eq(code, old)));
    other.x = vf_add(other.x, vf_mul(product, code));
    other.l = vf_add(other.l, vf_mul(vf_mul(weight, code), code));
    better = vm_and(better, vm_and(vf_gt(other.l, zero), vf_gt(vf_mul(vf_mul(other.x, other.x), sum->l),
                                                              vf_mul(vf_mul(sum->x, sum->x), other.l))));
    vf_store(d->codes + i * W, vf_pick(better, code, old));
    sum->x = vf_pick(better, other.x, sum->x);
    sum->l = vf_pick(better, other.l, sum->l);
    return better;
}

/* Several groups of lanes take turns, because each step waits for the one before. Writes their scales. */
QUENCH_INLINE void descend(int half, struct descent *d, const vf *peak, vf *scale) {
    struct products sum[TOGETHER];
    for (int k = 0; k < TOGETHER; k++) {
        start_descent(half, peak[k], &d[k], &sum[k]);
    }
    vm changed = vm_all();
    for (int round = 0; round < ROUNDS && vm_any(changed); round++) {
        changed = vm_none();
        for (int i = 0; i < DEPTH; i++) {
            for (int k = 0; k < TOGETHER; k++) {
                changed = vm_or(changed, descend_at(half, i, &d[k], &sum[k]));
            }
        }
    }
    for (int k = 0; k < TOGETHER; k++) {
        const vm found = vm_and(vf_gt(sum[k].l, vf_set(0.0f)), vf_ge(vf_abs(peak[k]), vf_set(QUENCH_ZERO_GROUP)));
        scale[k] = vf_pick(found, vf_div(sum[k].x, sum[k].l), vf_set(0.0f));
    }
}

#endif
