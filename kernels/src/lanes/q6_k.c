/* Q6_K: lane = group of 16 weights. */
#include "../reference/codecs.h"
#include "lanes.h"
#include "planes.h"
#include "recode.h"

enum { HALF = 32 };

/* Scales of W groups of 16 weights in a row. */
QUENCH_INLINE void find_groups(const float *x, const float *importance, float *scales, float *peaks, float *inverses) {
    struct columns c;
    load_columns(x, GROUP, c.x);
    if (importance) {
        load_columns(importance, GROUP, c.weight);
    } else {
        for (int i = 0; i < GROUP; i++) {
            const vf value = vf_load(c.x + i * W);
            vf_store(c.weight + i * W, vf_mul(value, value));
        }
    }
    weigh_columns(&c);
    const vf peak = extreme_of(c.x);
    const struct fit fit = fit_columns(HALF, &c, peak);
    vf_store(scales, fit.scale);
    vf_store(inverses, fit.inverse);
    vf_store(peaks, peak);
}

/* Q6_K's levels are signed bytes. Returns 0 where the reference has to encode. */
QUENCH_INLINE int finish(const float *x, float inverse, uint16_t half, const float *scales, const float *peaks,
                         const float *inverses, struct block_q6_k *block) {
    _Alignas(64) float levels[GROUPS];
    uint8_t codes[SUPER_BLOCK];
    for (int i = 0; i < GROUPS; i += W) {
        const vf level = vf_round(vf_mul(vf_set(inverse), vf_load(scales + i)));
        vf_store(levels + i, vf_least(level, vf_set(127.0f)));
        vi_store_bytes(block->levels + i, vi_nearest(vf_least(level, vf_set(127.0f))));
    }
    if (!recode(HALF, float_from_half(half), levels, x, scales, peaks, inverses, codes)) {
        return 0;
    }
    store16(block->scale, half);
    pack_wide(PLANE_CODES_Q6_K, codes, block->codes);
    pack_wide(PLANE_HIGH_Q6_K, codes, block->high);
    return 1;
}

/* The scales and codes of up to BATCH super-blocks whose groups are known. */
QUENCH_INLINE void finish_batch(const float *x, const float *importance, const struct found *found,
                                struct block_q6_k *blocks, size_t n) {
    _Alignas(64) float inverses[QUENCH_W];
    int32_t halves[QUENCH_W];
    const vf peak = extreme_scales(found->scales);
    const vf inverse = vf_div(vf_set(-128.0f), peak);
    const uint32_t zero = vm_bits(vf_lt(vf_abs(peak), vf_set(QUENCH_ZERO_GROUP)));
    vf_store(inverses, inverse);
    vi_store(halves, vi_half(vf_div(vf_set(1.0f), inverse)));
    for (size_t i = 0; i < n; i++) {
        const float *own = x + i * SUPER_BLOCK;
        if ((zero >> i) & 1u) {
            memset(&blocks[i], 0, sizeof blocks[i]);
        } else if (!finish(own, inverses[i], (uint16_t)halves[i], found->scales + i * GROUPS,
                           found->peaks + i * GROUPS, found->inverses + i * GROUPS, &blocks[i])) {
            quench_encode_q6_k(own, importance ? importance + i * SUPER_BLOCK : NULL, 0.0f, (uint8_t *)&blocks[i], 1);
        }
    }
}

void LANES(encode_q6_k)(const float *x, const float *importance, float row_energy, uint8_t *out, size_t n) {
    (void)row_energy;
    struct block_q6_k *blocks = (struct block_q6_k *)out;
    struct found found = {{0}, {0}, {0}};
    for (size_t first = 0; first < n; first += BATCH) {
        const size_t count = n - first < BATCH ? n - first : BATCH;
        const float *own = x + first * SUPER_BLOCK;
        for (size_t i = 0; i < count * GROUPS; i += W) {
            find_groups(own + i * GROUP, importance ? importance + first * SUPER_BLOCK + i * GROUP : NULL,
                        found.scales + i, found.peaks + i, found.inverses + i);
        }
        finish_batch(own, importance ? importance + first * SUPER_BLOCK : NULL, &found, blocks + first, count);
    }
}
