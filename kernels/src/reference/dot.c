/* Dot products in plain C: what dot.h describes, block by block. */
#include "../dot.h"
#include "../blocks.h"
#include "../numeric.h"
#include "codecs.h"

enum { GROUP = 16, GROUPS = SUPER_BLOCK / GROUP };

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* ---- super-blocks: groups of 16, so that types with groups of 32 have every level twice ---- */

struct super_block {
    int8_t codes[SUPER_BLOCK];
    int levels[GROUPS], lows[GROUPS];
    float scale, low;
};

typedef void unpack_fn(const uint8_t *bytes, struct super_block *block);

static void centre(uint8_t *codes, int half) {
    for (int i = 0; i < SUPER_BLOCK; i++) {
        codes[i] = (uint8_t)(codes[i] - half);
    }
}

static void unpack_q2_k(const uint8_t *bytes, struct super_block *block) {
    const struct block_q2_k *in = (const struct block_q2_k *)bytes;
    unpack_plane(PLANE_CODES_Q2_K, in->codes, (uint8_t *)block->codes);
    for (int group = 0; group < GROUPS; group++) {
        block->levels[group] = in->levels[group] & 15;
        block->lows[group] = in->levels[group] >> 4;
    }
    block->scale = load_half(in->scale);
    block->low = load_half(in->low);
}

static void unpack_q3_k(const uint8_t *bytes, struct super_block *block) {
    const struct block_q3_k *in = (const struct block_q3_k *)bytes;
    int8_t levels[GROUPS];
    unpack_plane(PLANE_CODES_Q2_K, in->codes, (uint8_t *)block->codes);
    unpack_plane(PLANE_HIGH_Q3_K, in->high, (uint8_t *)block->codes);
    centre((uint8_t *)block->codes, 4);
    unpack_levels_q3_k(in->levels, levels);
    for (int group = 0; group < GROUPS; group++) {
        block->levels[group] = levels[group];
    }
    block->scale = load_half(in->scale);
}

static void unpack_doubled_levels(const uint8_t *in, struct super_block *block) {
    uint8_t scales[8], lows[8];
    unpack_levels_q4_k(in, scales, lows);
    for (int group = 0; group < GROUPS; group++) {
        block->levels[group] = scales[group / 2];
        block->lows[group] = lows[group / 2];
    }
}

static void unpack_q4_k(const uint8_t *bytes, struct super_block *block) {
    const struct block_q4_k *in = (const struct block_q4_k *)bytes;
    unpack_plane(PLANE_CODES_Q4_K, in->codes, (uint8_t *)block->codes);
    unpack_doubled_levels(in->levels, block);
    block->scale = load_half(in->scale);
    block->low = load_half(in->low);
}

static void unpack_q5_k(const uint8_t *bytes, struct super_block *block) {
    const struct block_q5_k *in = (const struct block_q5_k *)bytes;
    unpack_plane(PLANE_CODES_Q4_K, in->codes, (uint8_t *)block->codes);
    unpack_plane(PLANE_HIGH_Q5_K, in->high, (uint8_t *)block->codes);
    unpack_doubled_levels(in->levels, block);
    block->scale = load_half(in->scale);
    block->low = load_half(in->low);
}

static void unpack_q6_k(const uint8_t *bytes, struct super_block *block) {
    const struct block_q6_k *in = (const struct block_q6_k *)bytes;
    unpack_plane(PLANE_CODES_Q6_K, in->codes, (uint8_t *)block->codes);
    unpack_plane(PLANE_HIGH_Q6_K, in->high, (uint8_t *)block->codes);
    centre((uint8_t *)block->codes, 32);
    for (int group = 0; group < GROUPS; group++) {
        block->levels[group] = (int8_t)in->levels[group];
    }
    block->scale = load_half(in->scale);
}

static void unpack_iq4_xs(const uint8_t *bytes, struct super_block *block) {
    const struct block_iq4_xs *in = (const struct block_iq4_xs *)bytes;
    const int high = load16(in->levels_high);
    for (int part = 0; part < SUPER_BLOCK / BLOCK; part++) {
        const int level = ((in->levels[part / 2] >> (part % 2 * 4)) & 15) | ((high >> (2 * part)) & 3) << 4;
        for (int i = 0; i < 16; i++) {
            const uint8_t byte = in->codes[part * 16 + i];
            block->codes[part * BLOCK + i] = iq4_values[byte & 15];
            block->codes[part * BLOCK + 16 + i] = iq4_values[byte >> 4];
        }
        block->levels[2 * part] = block->levels[2 * part + 1] = level - 32;
    }
    block->scale = load_half(in->scale);
}

static float row_value(const float *sums) {
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

static void dot_super_blocks(unpack_fn *unpack, size_t bytes, int has_lows, const uint8_t *rows, size_t n_rows,
                             size_t n_blocks, const struct activations *x, float *out) {
    for (size_t row = 0; row < n_rows; row++) {
        float sums[DOT_SUMS] = {0};
        for (size_t i = 0; i < n_blocks; i++, rows += bytes) {
            struct super_block block = {{0}, {0}, {0}, 0.0f, 0.0f};
            int32_t block_sum = 0, low_sum = 0;
            unpack(rows, &block);
            for (int group = 0; group < GROUPS; group++) {
                const int8_t *other = x->codes + i * SUPER_BLOCK + (size_t)group * GROUP;
                int sum = 0;
                for (int j = 0; j < GROUP; j++) {
                    sum += block.codes[group * GROUP + j] * other[j];
                }
                block_sum += block.levels[group] * sum;
                low_sum += block.lows[group] * x->sums16[i * GROUPS + (size_t)group];
            }
            float value = block.scale * x->scales[i] * (float)block_sum;
            if (has_lows) {
                value -= block.low * x->scales[i] * (float)low_sum;
            }
            sums[i % DOT_SUMS] += value;
        }
        out[row] = row_value(sums);
    }
}

/* ---- blocks of 32: codes, scale, low ---- */

struct small_block {
    int8_t codes[BLOCK];
    float scale, low;
};

typedef void unpack_small_fn(const uint8_t *bytes, struct small_block *block);

static void unpack_q8_0(const uint8_t *bytes, struct small_block *block) {
    const struct block_q8_0 *in = (const struct block_q8_0 *)bytes;
    for (int i = 0; i < BLOCK; i++) {
        block->codes[i] = (int8_t)in->codes[i];
    }
    block->scale = load_half(in->scale);
}

static void unpack_q4_0(const uint8_t *bytes, struct small_block *block) {
    const struct block_q4_0 *in = (const struct block_q4_0 *)bytes;
    unpack_plane(PLANE_CODES_32, in->codes, (uint8_t *)block->codes);
    for (int i = 0; i < BLOCK; i++) {
        block->codes[i] = (int8_t)(block->codes[i] - 8);
    }
    block->scale = load_half(in->scale);
}

static void unpack_q5_0(const uint8_t *bytes, struct small_block *block) {
    const struct block_q5_0 *in = (const struct block_q5_0 *)bytes;
    unpack_plane(PLANE_CODES_32, in->codes, (uint8_t *)block->codes);
    unpack_plane(PLANE_HIGH_32, in->high, (uint8_t *)block->codes);
    for (int i = 0; i < BLOCK; i++) {
        block->codes[i] = (int8_t)(block->codes[i] - 16);
    }
    block->scale = load_half(in->scale);
}

static void unpack_q4_1(const uint8_t *bytes, struct small_block *block) {
    const struct block_q4_1 *in = (const struct block_q4_1 *)bytes;
    unpack_plane(PLANE_CODES_32, in->codes, (uint8_t *)block->codes);
    block->scale = load_half(in->scale);
    block->low = load_half(in->low);
}

static void unpack_q5_1(const uint8_t *bytes, struct small_block *block) {
    const struct block_q5_1 *in = (const struct block_q5_1 *)bytes;
    unpack_plane(PLANE_CODES_32, in->codes, (uint8_t *)block->codes);
    unpack_plane(PLANE_HIGH_32, in->high, (uint8_t *)block->codes);
    block->scale = load_half(in->scale);
    block->low = load_half(in->low);
}

static void unpack_iq4_nl(const uint8_t *bytes, struct small_block *block) {
    const struct block_q4_0 *in = (const struct block_q4_0 *)bytes;
    for (int i = 0; i < 16; i++) {
        block->codes[i] = iq4_values[in->codes[i] & 15];
        block->codes[i + 16] = iq4_values[in->codes[i] >> 4];
    }
    block->scale = load_half(in->scale);
}

static void dot_small_blocks(unpack_small_fn *unpack, size_t bytes, int has_lows, const uint8_t *rows, size_t n_rows,
                             size_t n_blocks, const struct activations *x, float *out) {
    for (size_t row = 0; row < n_rows; row++) {
        float sums[DOT_SUMS] = {0};
        for (size_t i = 0; i < n_blocks; i++, rows += bytes) {
            struct small_block block = {{0}, 0.0f, 0.0f};
            int32_t block_sum = 0;
            unpack(rows, &block);
            for (size_t j = 0; j < BLOCK; j++) {
                block_sum += block.codes[j] * x->codes[i * BLOCK + j];
            }
            float value = block.scale * x->scales[i] * (float)block_sum;
            if (has_lows) {
                value += block.low * x->offsets[i];
            }
            sums[i % DOT_SUMS] += value;
        }
        out[row] = row_value(sums);
    }
}

/* ---- the table ---- */

#define DOT(kernel, type, has_lows)                                                                                   \
    static void dot_##type(const uint8_t *rows, size_t n_rows, size_t n_blocks, const struct activations *x,          \
                           float *out) {                                                                              \
        kernel(unpack_##type, sizeof(struct block_##type), has_lows, rows, n_rows, n_blocks, x, out);                 \
    }

#define block_iq4_nl block_q4_0 /* the same bytes */
DOT(dot_super_blocks, q2_k, 1)
DOT(dot_super_blocks, q3_k, 0)
DOT(dot_super_blocks, q4_k, 1)
DOT(dot_super_blocks, q5_k, 1)
DOT(dot_super_blocks, q6_k, 0)
DOT(dot_super_blocks, iq4_xs, 0)
DOT(dot_small_blocks, q8_0, 0)
DOT(dot_small_blocks, q4_0, 0)
DOT(dot_small_blocks, q5_0, 0)
DOT(dot_small_blocks, q4_1, 1)
DOT(dot_small_blocks, q5_1, 1)
DOT(dot_small_blocks, iq4_nl, 0)

const struct dots quench_reference_dots = {
    .types =
        {
            [QUENCH_Q8_0] = dot_q8_0,
            [QUENCH_Q6_K] = dot_q6_k,
            [QUENCH_Q5_K] = dot_q5_k,
            [QUENCH_Q5_1] = dot_q5_1,
            [QUENCH_Q5_0] = dot_q5_0,
            [QUENCH_Q4_K] = dot_q4_k,
            [QUENCH_Q4_1] = dot_q4_1,
            [QUENCH_Q4_0] = dot_q4_0,
            [QUENCH_IQ4_XS] = dot_iq4_xs,
            [QUENCH_IQ4_NL] = dot_iq4_nl,
            [QUENCH_Q3_K] = dot_q3_k,
            [QUENCH_Q2_K] = dot_q2_k,
        },
};

/* The value of largest magnitude, the first of several, becomes -127; the scale is what undoes that. */
float quench_encode_q8_k(const float *x, int8_t *codes) {
    float size = 0.0f, peak = 0.0f;
    for (int i = 0; i < SUPER_BLOCK; i++) {
        if (magnitude(x[i]) > size) {
            size = magnitude(x[i]);
            peak = x[i];
        }
    }
    const float inverse = size == 0.0f ? 0.0f : -127.0f / peak;
    for (int i = 0; i < SUPER_BLOCK; i++) {
        /* Without a finite inverse everything is a denormal, and the engine's rounding trick makes zeros of NaN. */
        codes[i] = is_finite(inverse) ? (int8_t)clamp(nearest(inverse * x[i]), -127, 127) : 0;
    }
    return size == 0.0f ? 0.0f : 1.0f / inverse;
}

void quench_dot_floats(const float *row, const float *x, size_t n, float *sums) {
    for (size_t i = 0; i < n; i++) {
        sums[i % DOT_FLOAT_SUMS] += row[i] * x[i];
    }
}
