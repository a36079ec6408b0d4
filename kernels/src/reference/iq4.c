/* IQ4_NL and IQ4_XS: blocks of 32, x ~ scale * value[code] with sixteen values that lie denser around zero. IQ4_XS
 * makes its scales of 6-bit levels, eight in a super-block. */
#include <math.h>

#include "../blocks.h"
#include "../numeric.h"
#include "codecs.h"
#include "search.h"

enum { VALUES = 16, TRIES = 7, BLOCKS = SUPER_BLOCK / BLOCK, LEVEL_ZERO = 32 };

static const int8_t values[VALUES] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* The code of the value next to x; the upper one when x is in the middle. */
static uint8_t closest(float x) {
    if (x <= (float)values[0]) {
        return 0;
    }
    if (x >= (float)values[VALUES - 1]) {
        return VALUES - 1;
    }
    int above = 1;
    while (above < VALUES - 1 && !(x < (float)values[above])) { /* a NaN, from infinity times zero, runs to the end */
        above++;
    }
    return (uint8_t)(x - (float)values[above - 1] < (float)values[above] - x ? above - 1 : above);
}

struct products {
    float vx, vv;
};

static struct products try_inverse(float inverse, const float *x, const float *weight) {
    struct products sum = {0.0f, 0.0f};
    for (int i = 0; i < BLOCK; i++) {
        float value = (float)values[closest(inverse * x[i])];
        sum.vx += weight[i] * value * x[i];
        sum.vv += weight[i] * value * value;
    }
    return sum;
}

static float find_scale(const float *x, const float *weight) {
    float size = 0.0f, peak = 0.0f;
    for (int i = 0; i < BLOCK; i++) {
        if (magnitude(x[i]) > size) {
            size = magnitude(x[i]);
            peak = x[i];
        }
    }
    if (size < QUENCH_ZERO_GROUP) {
        return 0.0f;
    }
    float start = -peak / (float)values[0];
    struct products sum = try_inverse(1.0f / start, x, weight);
    float scale = sum.vv > 0.0f ? sum.vx / sum.vv : 0.0f;
    float best = scale * sum.vx;
    for (int attempt = -TRIES; attempt <= TRIES; attempt++) {
        sum = try_inverse((float)(attempt + values[0]) / peak, x, weight);
        if (sum.vv > 0.0f && sum.vx * sum.vx > best * sum.vv) {
            scale = sum.vx / sum.vv;
            best = scale * sum.vx;
        }
    }
    return scale;
}

static float twice_mean_square(int n, const float *x) {
    float sum = 0.0f;
    for (int i = 0; i < n; i++) {
        sum += x[i] * x[i];
    }
    return sum * (2.0f / (float)n);
}

/* `importance` is the block's own, or NULL; `energy` counts only with it. */
static float fit_block(const float *x, const float *importance, float energy) {
    float weight[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        weight[i] = importance ? importance[i] * sqrtf(energy + x[i] * x[i]) : x[i] * x[i];
    }
    return find_scale(x, weight);
}

static void encode_block(const float *x, float scale, uint8_t *packed) {
    uint8_t codes[BLOCK];
    float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    for (int i = 0; i < BLOCK; i++) {
        codes[i] = closest(inverse * x[i]);
    }
    pack_plane(PLANE_CODES_32, codes, packed);
}

static void decode_block(float scale, const uint8_t *packed, float *x) {
    uint8_t codes[BLOCK] = {0};
    unpack_plane(PLANE_CODES_32, packed, codes);
    for (int i = 0; i < BLOCK; i++) {
        x[i] = scale * (float)values[codes[i]];
    }
}

void quench_encode_iq4_nl(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    struct block_q4_0 *block = (struct block_q4_0 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        float scale = fit_block(x, importance ? importance + i * BLOCK : NULL, twice_mean_square(BLOCK, x));
        store_half(block[i].scale, scale);
        encode_block(x, scale, block[i].codes);
    }
}

void quench_decode_iq4_nl(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q4_0 *block = (const struct block_q4_0 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        decode_block(load_half(block[i].scale), block[i].codes, x);
    }
}

/* Levels of the scales of a super-block, -32 to 31; returns what they are multiplied by. The largest scale becomes -32:
 * one step more than the positive side has. */
static float fit_signed_levels(const float *scales, int *levels) {
    float size = 0.0f, peak = 0.0f;
    for (int i = 0; i < BLOCKS; i++) {
        if (magnitude(scales[i]) > size) {
            size = magnitude(scales[i]);
            peak = scales[i];
        }
    }
    float scale = -peak / (float)LEVEL_ZERO;
    float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    for (int i = 0; i < BLOCKS; i++) {
        levels[i] = clamp(nearest(inverse * scales[i]), -LEVEL_ZERO, LEVEL_ZERO - 1);
    }
    return scale;
}

void quench_encode_iq4_xs(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    struct block_iq4_xs *block = (struct block_iq4_xs *)blocks;
    for (size_t i = 0; i < n; i++, x += SUPER_BLOCK) {
        float scales[BLOCKS];
        int levels[BLOCKS];
        unsigned high = 0;
        const float energy = twice_mean_square(SUPER_BLOCK, x);
        for (int j = 0; j < BLOCKS; j++) {
            const float *own = importance ? importance + i * SUPER_BLOCK + (size_t)(j * BLOCK) : NULL;
            scales[j] = fit_block(x + j * BLOCK, own, energy);
        }
        const float scale = fit_signed_levels(scales, levels);
        store_half(block[i].scale, scale);
        for (int j = 0; j < BLOCKS; j++) {
            encode_block(x + j * BLOCK, scale * (float)levels[j], block[i].codes + j * BLOCK / 2);
            levels[j] += LEVEL_ZERO;
            high |= ((unsigned)levels[j] >> 4) << (2 * j);
        }
        store16(block[i].levels_high, (uint16_t)high);
        for (int j = 0; j < BLOCKS / 2; j++) {
            block[i].levels[j] = (uint8_t)((levels[2 * j] & 15) | (levels[2 * j + 1] & 15) << 4);
        }
    }
}

void quench_decode_iq4_xs(const uint8_t *blocks, float *x, size_t n) {
    const struct block_iq4_xs *block = (const struct block_iq4_xs *)blocks;
    for (size_t i = 0; i < n; i++) {
        const float scale = load_half(block[i].scale);
        const unsigned high = load16(block[i].levels_high);
        for (int j = 0; j < BLOCKS; j++, x += BLOCK) {
            const int low = block[i].levels[j / 2] >> (4 * (j % 2)) & 15;
            const int level = (low | (int)(high >> (2 * j) & 3) << 4) - LEVEL_ZERO;
            decode_block(scale * (float)level, block[i].codes + j * BLOCK / 2, x);
        }
    }
}
