/* What the refinements of the symmetric types share. */
#ifndef QUENCH_SYMMETRIC_REFINE_H
#define QUENCH_SYMMETRIC_REFINE_H

#include "../blocks.h"
#include "../numeric.h"
#include "../reference/k_symmetric_refine.h"
#include "recode.h"

/* Nearest whole number from low to high; the clamp comes first, so that any quotient will do. */
QUENCH_INLINE vf bounded(vf value, int low, int high) {
    return vf_round(vf_most(vf_least(value, vf_set((float)high)), vf_set((float)low)));
}

/* Where groups find their codes: behind those of the other groups if their level changed. Returns whether any did. */
QUENCH_INLINE int find_changed(const float *old, const float *levels, int32_t *places) {
    vm same = vm_all();
    for (int i = 0; i < GROUPS; i += W) {
        const vm kept = vf_eq(vf_load(old + i), vf_load(levels + i));
        same = vm_and(same, kept);
        vi_store(places + i, vi_pick(kept, vi_set(0), vi_set(SUPER_BLOCK)));
    }
    return vm_any(vm_not(same));
}

/* Codes of the groups whose level changed; those of the others stay. both: the codes, and room for as many. All groups
 * are coded and then chosen from, since no branch could foresee which of them change. */
QUENCH_INLINE void recode_changed(int half, float scale, const float *x, const float *levels, const int32_t *places,
                                  uint8_t *both, uint8_t *codes) {
    _Alignas(64) float inverses[GROUPS];
    for (int i = 0; i < GROUPS; i += W) {
        vf_store(inverses + i, vf_div(vf_set(1.0f), vf_mul(vf_set(scale), vf_load(levels + i))));
    }
    for (int first = 0; first < SUPER_BLOCK; first += BLOCK) {
        vi code[BLOCK / W];
        for (int i = 0; i < BLOCK; i += W) {
            code[i / W] = code_of(half, vf_mul(vf_set(inverses[(first + i) / GROUP]), vf_load(x + first + i)));
        }
        vi_store_block(both + SUPER_BLOCK + first, code);
    }
    for (int group = 0; group < GROUPS; group++) {
        memcpy(codes + group * GROUP, both + places[group] + group * GROUP, GROUP);
    }
}

/* Of one super-block: its levels as they are, and those that are better. */
typedef void find_levels_fn(const float *x, const float *importance, const uint8_t *block, float *old, float *levels);

/* Writes these levels into the super-block, and the codes that belong to them. */
typedef void rewrite_fn(const float *x, const float *old, const float *levels, uint8_t *block);

/* Up to BATCH blocks. All are searched before any is written. */
QUENCH_INLINE void refine_batch(find_levels_fn *find_levels, rewrite_fn *rewrite, size_t size, const float *x,
                                const float *importance, uint8_t *blocks, size_t n) {
    _Alignas(64) float old[BATCH * GROUPS], levels[BATCH * GROUPS];
    for (size_t i = 0; i < n; i++) {
        find_levels(x + i * SUPER_BLOCK, importance ? importance + i * SUPER_BLOCK : NULL, blocks + i * size,
                    old + i * GROUPS, levels + i * GROUPS);
    }
    for (size_t i = 0; i < n; i++) {
        rewrite(x + i * SUPER_BLOCK, old + i * GROUPS, levels + i * GROUPS, blocks + i * size);
    }
}

/* size: bytes of a block. Compiled once with and once without importance. */
QUENCH_INLINE void refine_blocks(find_levels_fn *find_levels, rewrite_fn *rewrite, size_t size, const float *x,
                                 const float *importance, uint8_t *blocks, size_t n) {
    for (size_t first = 0; first < n; first += BATCH) {
        const size_t count = n - first < BATCH ? n - first : BATCH;
        if (importance) {
            refine_batch(find_levels, rewrite, size, x + first * SUPER_BLOCK, importance + first * SUPER_BLOCK,
                         blocks + first * size, count);
        } else {
            refine_batch(find_levels, rewrite, size, x + first * SUPER_BLOCK, NULL, blocks + first * size, count);
        }
    }
}

#endif
