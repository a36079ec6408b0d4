/* The last step of the symmetric types: codes for the scales as they were stored, in the order of the weights. */
#ifndef QUENCH_RECODE_H
#define QUENCH_RECODE_H

#include <math.h>
#include <string.h>

#include "../blocks.h"
#include "../numeric.h"
#include "narrow.h"
#include "symmetric.h"

enum { GROUP = 16, GROUPS = 16, BATCH = QUENCH_W };

/* What the search found for the groups of a batch of super-blocks. */
struct found {
    _Alignas(64) float scales[BATCH * GROUPS];
    _Alignas(64) float inverses[BATCH * GROUPS]; /* the search's own codes, for groups whose stored scale is zero */
    _Alignas(64) float peaks[BATCH * GROUPS];
};

/* The first of the largest magnitudes among the 16 group scales, for each super-block of the batch. */
QUENCH_INLINE vf extreme_scales(const float *scales) {
    float columns[GROUPS * QUENCH_W];
    load_columns(scales, GROUPS, columns);
    return extreme_of(columns);
}

QUENCH_INLINE vi code_of(int half, vf quotient) {
    const vf code = vf_most(vf_least(quotient, vf_set((float)(half - 1))), vf_set((float)-half));
    return vi_add(vi_nearest(code), vi_set(half));
}

/* Codes of two groups, as nearest to the weights divided by the groups' steps. */
QUENCH_INLINE void code_groups(int half, const float *x, const float *steps, uint8_t *codes) {
    vi code[2 * GROUP / W];
    for (int i = 0; i < 2 * GROUP; i += W) {
        code[i / W] = code_of(half, vf_div(vf_load(x + i), vf_set(steps[i / GROUP])));
    }
    vi_store_block(codes, code);
}

/* The codes that the search itself had chosen: those of its inverse scale, or without one those of the descent. */
static void code_lost_group(int half, const float *x, float peak, const float *inverse, uint8_t *codes) {
    if (magnitude(peak) < QUENCH_ZERO_GROUP) {
        memset(codes, 0, GROUP);
    } else if (inverse) {
        for (int i = 0; i < GROUP; i += W) {
            vi_store_bytes(codes + i, code_of(half, vf_mul(vf_set(*inverse), vf_load(x + i))));
        }
    } else {
        (void)quench_descend_symmetric(GROUP, half, x, codes);
    }
}

/* Codes of a super-block. inverses: NULL after a descent. levels: whole numbers as floats. Returns 0 where the
 * reference has to decide: scales that are not finite, and quotients so large that its rounding wraps. */
QUENCH_INLINE int recode(int half, float scale, const float *levels, const float *x, const float *scales,
                         const float *peaks, const float *inverses, uint8_t *codes) {
    _Alignas(64) float steps[GROUPS];
    vm usual = vm_all();
    int lost = 0;
    for (int i = 0; i < GROUPS; i += W) {
        const vf step = vf_mul(vf_set(scale), vf_load(levels + i)), peak = vf_abs(vf_load(peaks + i));
        const vm zero = vf_eq(step, vf_set(0.0f));
        const vf most = vf_div(peak, vf_abs(step));
        vf_store(steps + i, step);
        usual = vm_and(usual, vf_lt(vf_abs(vf_load(scales + i)), vf_set(INFINITY)));
        lost |= vm_any(zero);
        usual = vm_and(usual, vm_or(zero, vf_le(most, vf_set(4194303.0f))));
    }
    if (vm_any(vm_not(usual))) {
        return 0;
    }
    for (int group = 0; group < GROUPS; group += 2) {
        code_groups(half, x + group * GROUP, steps + group, codes + group * GROUP);
    }
    for (int group = 0; group < GROUPS && lost; group++) {
        if (steps[group] == 0.0f) {
            code_lost_group(half, x + group * GROUP, peaks[group], inverses ? &inverses[group] : NULL,
                            codes + group * GROUP);
        }
    }
    return 1;
}

#endif
