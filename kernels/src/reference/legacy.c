/* Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 with one scale, and with one low end in the _1 formats.
 *
 * Without importance the scale comes from the extremes and codes are rounded half up. With importance the K-formats'
 * searches run on the block; there the weights' energy is that of the whole row. Q8_0 knows no importance. */
#include <float.h>
#include <math.h>

#include "../blocks.h"
#include "../numeric.h"
#include "codecs.h"
#include "search.h"

static const struct range_grid grid = {-0.9f, 0.05f, 36, 0};

static void weigh(const float *x, const float *importance, float row_energy, float *weight) {
    for (int i = 0; i < BLOCK; i++) {
        weight[i] = importance[i] * sqrtf(row_energy + x[i] * x[i]);
    }
}

static void pack(const uint8_t *codes, uint8_t *low_bits, uint8_t *high_bits) {
    pack_plane(PLANE_CODES_32, codes, low_bits);
    if (high_bits) {
        pack_plane(PLANE_HIGH_32, codes, high_bits);
    }
}

static void unpack(const uint8_t *low_bits, const uint8_t *high_bits, uint8_t *codes) {
    for (int i = 0; i < BLOCK; i++) {
        codes[i] = 0;
    }
    unpack_plane(PLANE_CODES_32, low_bits, codes);
    if (high_bits) {
        unpack_plane(PLANE_HIGH_32, high_bits, codes);
    }
}

/* The code's byte is signed while it is capped: an infinite scale's codes end as they do in a signed byte. */
static uint8_t capped(float value, int top) {
    int code = (int8_t)truncated(value);
    return (uint8_t)(code < top ? code : top);
}

/* ---- Q4_0 and Q5_0: x ~ scale * (code - half) ---- */

static float encode_centred(const float *x, const float *importance, float row_energy, int half, uint8_t *codes) {
    if (importance) {
        float weight[BLOCK];
        weigh(x, importance, row_energy, weight);
        return quench_fit_symmetric(BLOCK, half, x, weight, codes);
    }
    float size = 0.0f, peak = 0.0f;
    for (int i = 0; i < BLOCK; i++) {
        if (size < magnitude(x[i])) {
            size = magnitude(x[i]);
            peak = x[i];
        }
    }
    float scale = peak / (float)-half;
    float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    for (int i = 0; i < BLOCK; i++) {
        codes[i] = capped(x[i] * inverse + ((float)half + 0.5f), 2 * half - 1);
    }
    return scale;
}

static void decode_centred(float scale, int half, const uint8_t *codes, float *x) {
    for (int i = 0; i < BLOCK; i++) {
        x[i] = (float)(codes[i] - half) * scale;
    }
}

void quench_encode_q4_0(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    struct block_q4_0 *block = (struct block_q4_0 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        uint8_t codes[BLOCK];
        const float *own = importance ? importance + i * BLOCK : NULL;
        store_half(block[i].scale, encode_centred(x, own, row_energy, 8, codes));
        pack(codes, block[i].codes, NULL);
    }
}

void quench_decode_q4_0(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q4_0 *block = (const struct block_q4_0 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        uint8_t codes[BLOCK];
        unpack(block[i].codes, NULL, codes);
        decode_centred(load_half(block[i].scale), 8, codes, x);
    }
}

void quench_encode_q5_0(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    struct block_q5_0 *block = (struct block_q5_0 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        uint8_t codes[BLOCK];
        const float *own = importance ? importance + i * BLOCK : NULL;
        store_half(block[i].scale, encode_centred(x, own, row_energy, 16, codes));
        pack(codes, block[i].codes, block[i].high);
    }
}

void quench_decode_q5_0(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q5_0 *block = (const struct block_q5_0 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        uint8_t codes[BLOCK];
        unpack(block[i].codes, block[i].high, codes);
        decode_centred(load_half(block[i].scale), 16, codes, x);
    }
}

/* ---- Q4_1 and Q5_1: x ~ scale * code + low ---- */

static float encode_ranged(const float *x, const float *importance, float row_energy, int top, uint8_t *codes,
                           float *low) {
    if (importance) {
        float weight[BLOCK];
        weigh(x, importance, row_energy, weight);
        float scale = quench_fit_range(BLOCK, top, grid, x, weight, codes, low);
        *low = -*low;
        return scale;
    }
    float least = FLT_MAX, most = -FLT_MAX;
    for (int i = 0; i < BLOCK; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    float scale = (most - least) / (float)top;
    float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    for (int i = 0; i < BLOCK; i++) {
        float value = (x[i] - least) * inverse + 0.5f;
        codes[i] = top == 15 ? capped(value, top) : (uint8_t)truncated(value);
    }
    *low = least;
    return scale;
}

static void decode_ranged(float scale, float low, const uint8_t *codes, float *x) {
    for (int i = 0; i < BLOCK; i++) {
        x[i] = (float)codes[i] * scale + low;
    }
}

void quench_encode_q4_1(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    struct block_q4_1 *block = (struct block_q4_1 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        uint8_t codes[BLOCK];
        float low;
        const float *own = importance ? importance + i * BLOCK : NULL;
        store_half(block[i].scale, encode_ranged(x, own, row_energy, 15, codes, &low));
        store_half(block[i].low, low);
        pack(codes, block[i].codes, NULL);
    }
}

void quench_decode_q4_1(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q4_1 *block = (const struct block_q4_1 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        uint8_t codes[BLOCK];
        unpack(block[i].codes, NULL, codes);
        decode_ranged(load_half(block[i].scale), load_half(block[i].low), codes, x);
    }
}

void quench_encode_q5_1(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    struct block_q5_1 *block = (struct block_q5_1 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        uint8_t codes[BLOCK];
        float low;
        const float *own = importance ? importance + i * BLOCK : NULL;
        store_half(block[i].scale, encode_ranged(x, own, row_energy, 31, codes, &low));
        store_half(block[i].low, low);
        pack(codes, block[i].codes, block[i].high);
    }
}

void quench_decode_q5_1(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q5_1 *block = (const struct block_q5_1 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        uint8_t codes[BLOCK];
        unpack(block[i].codes, block[i].high, codes);
        decode_ranged(load_half(block[i].scale), load_half(block[i].low), codes, x);
    }
}

/* ---- Q8_0: x ~ scale * signed byte ---- */

void quench_encode_q8_0(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)importance, (void)row_energy;
    struct block_q8_0 *block = (struct block_q8_0 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        float size = 0.0f;
        for (int j = 0; j < BLOCK; j++) {
            size = size > magnitude(x[j]) ? size : magnitude(x[j]);
        }
        float scale = size / 127.0f;
        float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
        store_half(block[i].scale, scale);
        for (int j = 0; j < BLOCK; j++) {
            block[i].codes[j] = (uint8_t)rounded_away(x[j] * inverse);
        }
    }
}

void quench_decode_q8_0(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q8_0 *block = (const struct block_q8_0 *)blocks;
    for (size_t i = 0; i < n; i++, x += BLOCK) {
        float scale = load_half(block[i].scale);
        for (int j = 0; j < BLOCK; j++) {
            x[j] = (float)(int8_t)block[i].codes[j] * scale;
        }
    }
}
