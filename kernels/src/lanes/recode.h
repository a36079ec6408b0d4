/* The last step of the symmetric types: codes for the scales as they were stored, in the order of the weights. */
#ifndef QUENCH_RECODE_H
#define QUENCH_RECODE_H

#include <math.h>
#include <string.h>

#include "../blocks.h"
#include "../numeric.h"
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

/* Adding 1.5 * 2^23 to a whole number leaves the number in the low bits. */
QUENCH_INLINE void store_codes(int half, vf code, uint8_t *codes) {
    code = vf_most(vf_least(code, vf_set((float)(half - 1))), vf_set((float)-half));
    vi_store_bytes(codes, vi_of_bits(vf_add(code, vf_set(12582912.0f + (float)half))));
}

QUENCH_INLINE void code_group(int half, const float *x, float step, uint8_t *codes) {
    for (int i = 0; i < GROUP; i += W) {
        store_codes(half, vf_div(vf_load(x + i), vf_set(step)), codes + i);
    }
}


/* The codes that the search itself had chosen: those of its inverse scale, or without one those of the descent. Returns 0
 * where only the reference knows them, because x is not a number. */
static int code_lost_group(int half, const float *x, float peak, const float *inverse, uint8_t *codes) {
    vm numbers = vm_all();
    for (int i = 0; i < GROUP; i += W) {
        const vf value = vf_load(x + i);
        numbers = vm_and(numbers, vf_eq(value, value));
    }
    if (magnitude(peak) < QUENCH_ZERO_GROUP) {
        memset(codes, 0, GROUP);
    } else if (inverse) {
        for (int i = 0; i < GROUP; i += W) {
            store_codes(half, vf_mul(vf_set(*inverse), vf_load(x + i)), codes + i);
        }
    } else {
        (void)quench_descend_symmetric(GROUP, half, x, codes);
    }
    return !vm_any(vm_not(numbers));
}

/* Codes of a super-block. inverses: NULL after a descent. levels: whole numbers as floats. Returns 0 where the reference has to decide: numbers that are
 * not finite, and quotients so large that its rounding wraps. */
QUENCH_INLINE int recode(int half, float scale, const float *levels, const float *x, const float *scales,
                         const float *peaks, const float *inverses, uint8_t *codes) {
    _Alignas(64) float steps[GROUPS];
    vm usual = vm_all(), kept = vm_all();
    for (int i = 0; i < GROUPS; i += W) {
        const vf step = vf_mul(vf_set(scale), vf_load(levels + i)), peak = vf_abs(vf_load(peaks + i));
        const vm zero = vf_eq(step, vf_set(0.0f));
        const vf most = vf_div(peak, vf_abs(step));
        vf_store(steps + i, step);
        kept = vm_and(kept, vm_not(zero));
        usual = vm_and(usual, vm_and(vf_lt(peak, vf_set(INFINITY)), vf_lt(vf_abs(vf_load(scales + i)), vf_set(INFINITY))));
        usual = vm_and(usual, vm_or(zero, vf_le(most, vf_set(4194303.0f))));
    }
    if (vm_any(vm_not(usual))) {
        return 0;
    }
    if (!vm_any(vm_not(kept))) {
        for (int group = 0; group < GROUPS; group++) {
            code_group(half, x + group * GROUP, steps[group], codes + group * GROUP);
        }
        return 1;
    }
    for (int group = 0; group < GROUPS; group++) {
        if (steps[group] != 0.0f) {
            code_group(half, x + group * GROUP, steps[group], codes + group * GROUP);
        } else if (!code_lost_group(half, x + group * GROUP, peaks[group], inverses ? &inverses[group] : NULL,
                                    codes + group * GROUP)) {
            return 0;
        }
    }
    return 1;
}

#endif
