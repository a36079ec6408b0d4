/* What the refinements of the symmetric types share. */
#ifndef QUENCH_REFINE_H
#define QUENCH_REFINE_H

#include "../blocks.h"
#include "../numeric.h"
#include "../reference/refine_symmetric.h"
#include "recode.h"

/* Nearest whole number from low to high; the clamp comes first, so that any quotient will do. */
QUENCH_INLINE vf bounded(vf value, int low, int high) {
    return vf_round(vf_most(vf_least(value, vf_set((float)high)), vf_set((float)low)));
}

/* Returns whether any level differs. */
QUENCH_INLINE int levels_differ(const float *old, const float *levels) {
    vm same = vm_all();
    for (int i = 0; i < GROUPS; i += W) {
        same = vm_and(same, vf_eq(vf_load(old + i), vf_load(levels + i)));
    }
    return vm_any(vm_not(same));
}

/* Codes of the groups whose level changed. Those of all groups are computed, since most groups do change. */
QUENCH_INLINE void recode_changed(int half, float scale, const float *x, const float *old, const float *levels,
                                  uint8_t *codes) {
    uint8_t others[SUPER_BLOCK];
    for (int group = 0; group < GROUPS; group++) {
        code_group(half, x + group * GROUP, scale * levels[group], others + group * GROUP);
    }
    for (int group = 0; group < GROUPS; group++) {
        const uint8_t changed = levels[group] != old[group] ? 0xff : 0;
        for (int i = group * GROUP; i < (group + 1) * GROUP; i++) {
            codes[i] = (uint8_t)((others[i] & changed) | (codes[i] & ~changed));
        }
    }
}

#endif
