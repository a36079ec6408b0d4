/* Coordinate descent of reference/search.c in lanes, for 16 values a lane weighted by their squares.
 *
 * A round that changes nothing is the last one of a lane, and for four lanes of five that is the first round. So the
 * first round runs over all lanes, and those that changed move together before the others follow. */
#ifndef QUENCH_DESCENT_H
#define QUENCH_DESCENT_H

#include "symmetric.h"

enum { ROUNDS = 5, TOGETHER = 4 };

/* Vectors of lanes that take turns, because each step waits long for the one before. */
struct descent {
    struct columns columns[TOGETHER];
    _Alignas(64) float codes[TOGETHER][DEPTH * QUENCH_W];
    /* Weighted sums of code * x and code * code. */
    vf sum_x[TOGETHER], sum_l[TOGETHER];
};

/* Lanes that are not at their end. */
struct pool {
    struct descent descent;
    _Alignas(64) float sum_x[TOGETHER * QUENCH_W], sum_l[TOGETHER * QUENCH_W];
    size_t lanes[TOGETHER * QUENCH_W]; /* where their scales go */
    size_t used;
};

/* nearest() of numeric.h with its wrap, then the clamp: the quotients may be of any size. */
QUENCH_INLINE vf nearest_code(vf value, int half) {
    const vi bits = vi_and(vi_of_bits(vf_add(value, vf_set(12582912.0f))), vi_set(0x007fffff));
    const vi code = vi_least(vi_most(bits, vi_set(0x00400000 - half)), vi_set(0x00400000 + half - 1));
    return vf_sub(vf_of_bits(vi_or(code, vi_set(0x4b000000))), vf_set(12582912.0f));
}

QUENCH_INLINE void weigh_squares(struct columns *c) {
    for (int i = 0; i < DEPTH; i++) {
        const vf x = vf_load(c->x + i * W), weight = vf_mul(x, x);
        vf_store(c->weight + i * W, weight);
        vf_store(c->product + i * W, vf_mul(weight, x));
    }
}

/* The first codes: those of the largest magnitude on -half. */
QUENCH_INLINE void start_descent(int half, const vf *peak, struct descent *d) {
    const vf high = vf_set((float)(half - 1));
    for (int k = 0; k < TOGETHER; k++) {
        const struct columns *c = &d->columns[k];
        const vf inverse = vf_div(vf_set((float)-half), peak[k]);
        vf sum_x = vf_set(0.0f), sum_l = vf_set(0.0f);
        weigh_squares(&d->columns[k]);
        for (int i = 0; i < DEPTH; i++) {
            const vf code = vf_round(vf_least(vf_mul(inverse, vf_load(c->x + i * W)), high));
            vf_store(d->codes[k] + i * W, code);
            sum_x = vf_add(sum_x, vf_mul(vf_load(c->product + i * W), code));
            sum_l = vf_add(sum_l, vf_mul(vf_mul(vf_load(c->weight + i * W), code), code));
        }
        d->sum_x[k] = sum_x;
        d->sum_l[k] = sum_l;
    }
}

/* One value of each lane gets its best code while the others stay. All vectors do each operation before the next one,
 * because no processor looks far enough ahead to find the other vectors' work by itself. */
QUENCH_INLINE void descend_at(int half, int i, struct descent *d, vm *changed) {
    const vf zero = vf_set(0.0f);
    vf old[TOGETHER], code[TOGETHER], other_x[TOGETHER], other_l[TOGETHER];
    vm better[TOGETHER];
    for (int k = 0; k < TOGETHER; k++) {
        const struct columns *c = &d->columns[k];
        old[k] = vf_load(d->codes[k] + i * W);
        other_x[k] = vf_sub(d->sum_x[k], vf_mul(vf_load(c->product + i * W), old[k]));
        other_l[k] = vf_sub(d->sum_l[k], vf_mul(vf_mul(vf_load(c->weight + i * W), old[k]), old[k]));
    }
    for (int k = 0; k < TOGETHER; k++) {
        code[k] = vf_div(vf_mul(vf_load(d->columns[k].x + i * W), other_l[k]), other_x[k]);
    }
    for (int k = 0; k < TOGETHER; k++) {
        code[k] = nearest_code(code[k], half);
        better[k] = vm_and(vf_gt(other_x[k], zero), vm_not(vf_eq(code[k], old[k])));
    }
    for (int k = 0; k < TOGETHER; k++) {
        const struct columns *c = &d->columns[k];
        other_x[k] = vf_add(other_x[k], vf_mul(vf_load(c->product + i * W), code[k]));
        other_l[k] = vf_add(other_l[k], vf_mul(vf_mul(vf_load(c->weight + i * W), code[k]), code[k]));
    }
    for (int k = 0; k < TOGETHER; k++) {
        const vm more = vf_gt(vf_mul(vf_mul(other_x[k], other_x[k]), d->sum_l[k]),
                              vf_mul(vf_mul(d->sum_x[k], d->sum_x[k]), other_l[k]));
        better[k] = vm_and(better[k], vm_and(vf_gt(other_l[k], zero), more));
    }
    for (int k = 0; k < TOGETHER; k++) {
        vf_store(d->codes[k] + i * W, vf_pick(better[k], code[k], old[k]));
        d->sum_x[k] = vf_pick(better[k], other_x[k], d->sum_x[k]);
        d->sum_l[k] = vf_pick(better[k], other_l[k], d->sum_l[k]);
        changed[k] = vm_or(changed[k], better[k]);
    }
}

/* Returns the lanes that changed. */
QUENCH_INLINE void descend_round(int half, struct descent *d, vm *changed) {
    for (int k = 0; k < TOGETHER; k++) {
        changed[k] = vm_none();
    }
    for (int i = 0; i < DEPTH; i++) {
        descend_at(half, i, d, changed);
    }
}

QUENCH_INLINE vf descent_scale(const struct descent *d, int k) {
    return vf_pick(vf_gt(d->sum_l[k], vf_set(0.0f)), vf_div(d->sum_x[k], d->sum_l[k]), vf_set(0.0f));
}

/* The other rounds of the lanes in the pool. Empty lanes hold zeros, which never change. */
static void finish_pool(int half, struct pool *pool, float *scales) {
    struct descent *d = &pool->descent;
    vm changed[TOGETHER];
    _Alignas(64) float found[TOGETHER * QUENCH_W];
    for (size_t lane = pool->used; lane < TOGETHER * W; lane++) {
        pool->sum_x[lane] = pool->sum_l[lane] = 0.0f;
        for (int i = 0; i < DEPTH; i++) {
            d->columns[lane / W].x[(size_t)i * W + lane % W] = d->codes[lane / W][(size_t)i * W + lane % W] = 0.0f;
        }
    }
    for (int k = 0; k < TOGETHER; k++) {
        weigh_squares(&d->columns[k]);
        d->sum_x[k] = vf_load(pool->sum_x + k * W);
        d->sum_l[k] = vf_load(pool->sum_l + k * W);
    }
    for (int round = 1, more = 1; round < ROUNDS && more; round++) {
        descend_round(half, d, changed);
        more = vm_any(vm_or(vm_or(changed[0], changed[1]), vm_or(changed[2], changed[3])));
    }
    for (int k = 0; k < TOGETHER; k++) {
        vf_store(found + k * W, descent_scale(d, k));
    }
    for (size_t lane = 0; lane < pool->used; lane++) {
        scales[pool->lanes[lane]] = found[lane];
    }
    pool->used = 0;
}

/* Moves the changed lanes of one vector, whose scales are `first` and those after it. */
static void move_changed(int half, const struct descent *d, int k, uint32_t changed, size_t first, struct pool *pool,
                         float *scales) {
    _Alignas(64) float sum_x[QUENCH_W], sum_l[QUENCH_W];
    vf_store(sum_x, d->sum_x[k]);
    vf_store(sum_l, d->sum_l[k]);
    for (size_t lane = 0; lane < W; lane++) {
        if (!((changed >> lane) & 1u)) {
            continue;
        }
        const size_t to = pool->used++;
        float *x = pool->descent.columns[to / W].x + to % W, *codes = pool->descent.codes[to / W] + to % W;
        for (size_t i = 0; i < DEPTH; i++) {
            x[i * W] = d->columns[k].x[i * W + lane];
            codes[i * W] = d->codes[k][i * W + lane];
        }
        pool->sum_x[to] = sum_x[lane];
        pool->sum_l[to] = sum_l[lane];
        pool->lanes[to] = first + lane;
        if (pool->used == TOGETHER * W) {
            finish_pool(half, pool, scales);
        }
    }
}

/* Scales of `vectors` times W groups of 16 weights in a row, and their values of largest magnitude. */
QUENCH_INLINE void descend(int half, const float *x, size_t vectors, float *scales, float *peaks) {
    struct descent d;
    struct pool pool;
    pool.used = 0;
    for (size_t first = 0; first < vectors; first += TOGETHER) {
        vf peak[TOGETHER];
        vm changed[TOGETHER];
        for (size_t k = 0; k < TOGETHER; k++) {
            const size_t at = first + k < vectors ? first + k : vectors - 1;
            load_columns(x + at * W * DEPTH, DEPTH, d.columns[k].x);
            peak[k] = extreme_of(d.columns[k].x);
        }
        start_descent(half, peak, &d);
        descend_round(half, &d, changed);
        for (int k = 0; k < TOGETHER && first + (size_t)k < vectors; k++) {
            const size_t at = (first + (size_t)k) * W;
            const vm some = vf_ge(vf_abs(peak[k]), vf_set(QUENCH_ZERO_GROUP));
            vf_store(scales + at, vf_pick(some, descent_scale(&d, k), vf_set(0.0f)));
            vf_store(peaks + at, peak[k]);
            move_changed(half, &d, k, vm_bits(vm_and(some, changed[k])), at, &pool, scales);
        }
    }
    if (pool.used) {
        finish_pool(half, &pool, scales);
    }
}

#endif
