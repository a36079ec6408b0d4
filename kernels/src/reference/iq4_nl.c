/* IQ4_NL: blocks of 32, x ~ scale * value[code] with sixteen values that lie denser around zero. */
#include <math.h>

#include "../blocks.h"
#include "../numeric.h"
#include "codecs.h"
#include "search.h"

enum { VALUES = 16, TRIES = 7 };

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

void quench_encode_iq4_nl(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)row_energy;
    struct block_q4_0 *block = (struct block_q4_0 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        float weight[BLOCK], energy = 0.0f;
        uint8_t codes[BLOCK];
        for (int j = 0; j < BLOCK; j++) {
            energy += x[j] * x[j];
        }
        energy *= 2.0f / (float)BLOCK;
        for (int j = 0; j < BLOCK; j++) {
            weight[j] = importance ? importance[i * BLOCK + (size_t)j] * sqrtf(energy + x[j] * x[j]) : x[j] * x[j];
        }
        float scale = find_scale(x, weight);
        float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
        store_half(block[i].scale, scale);
        for (int j = 0; j < BLOCK; j++) {
            codes[j] = closest(inverse * x[j]);
        }
        pack_plane(PLANE_CODES_32, codes, block[i].codes);
    }
}

void quench_decode_iq4_nl(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q4_0 *block = (const struct block_q4_0 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        uint8_t codes[BLOCK] = {0};
        float scale = load_half(block[i].scale);
        unpack_plane(PLANE_CODES_32, block[i].codes, codes);
        for (int j = 0; j < BLOCK; j++) {
            x[j] = scale * (float)values[codes[j]];
        }
    }
}
