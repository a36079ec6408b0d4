/* Types of one to four bits without a search that are only read: Q1_0, Q2_0, the ternary TQ1_0 and TQ2_0, and MXFP4 and
 * NVFP4, whose codes are 4-bit floats. */
#include "../blocks.h"
#include "../numeric.h"
#include "codecs.h"

/* Twice the 4-bit floats: sign, two exponent bits, one bit of fraction. */
static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

void quench_decode_q1_0(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q1_0 *block = (const struct block_q1_0 *)blocks;
    for (; n > 0; n--, block++) {
        const float scale = load_half(block->scale);
        for (int i = 0; i < 128; i++) {
            *x++ = block->codes[i / 8] >> (i % 8) & 1 ? scale : -scale;
        }
    }
}

void quench_decode_q2_0(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q2_0 *block = (const struct block_q2_0 *)blocks;
    for (; n > 0; n--, block++) {
        const float scale = load_half(block->scale);
        for (int i = 0; i < 64; i++) {
            *x++ = (float)((block->codes[i / 4] >> (2 * (i % 4)) & 3) - 1) * scale;
        }
    }
}

/* A byte holds up to five digits of base three as a fraction of 256, the first digit on top: a digit is what multiplying
 * by three carries out, and the next one is in what stays. `n` bytes in a row hold neighbouring weights. */
static float *decode_digits(const uint8_t *bytes, int n, int digits, float scale, float *x) {
    unsigned power = 1;
    for (int digit = 0; digit < digits; digit++, power *= 3) {
        for (int i = 0; i < n; i++) {
            const unsigned rest = bytes[i] * power & 255u;
            *x++ = (float)((int)(rest * 3 >> 8) - 1) * scale;
        }
    }
    return x;
}

void quench_decode_tq1_0(const uint8_t *blocks, float *x, size_t n) {
    const struct block_tq1_0 *block = (const struct block_tq1_0 *)blocks;
    for (; n > 0; n--, block++) {
        const float scale = load_half(block->scale);
        x = decode_digits(block->codes, 32, 5, scale, x);
        x = decode_digits(block->codes + 32, 16, 5, scale, x);
        x = decode_digits(block->rest, 4, 4, scale, x);
    }
}

void quench_decode_tq2_0(const uint8_t *blocks, float *x, size_t n) {
    const struct block_tq2_0 *block = (const struct block_tq2_0 *)blocks;
    for (; n > 0; n--, block++, x += SUPER_BLOCK) {
        const float scale = load_half(block->scale);
        uint8_t codes[SUPER_BLOCK] = {0};
        unpack_plane(PLANE_CODES_Q2_K, block->codes, codes);
        for (int i = 0; i < SUPER_BLOCK; i++) {
            x[i] = (float)(codes[i] - 1) * scale;
        }
    }
}

static void decode_doubled(float half_scale, int width, const uint8_t *codes, float *x) {
    for (int i = 0; i < width; i++) {
        x[i] = (float)doubled[codes[i] & 15] * half_scale;
        x[i + width] = (float)doubled[codes[i] >> 4] * half_scale;
    }
}

void quench_decode_mxfp4(const uint8_t *blocks, float *x, size_t n) {
    const struct block_mxfp4 *block = (const struct block_mxfp4 *)blocks;
    for (; n > 0; n--, block++, x += BLOCK) {
        /* A power of two, halved here: the two smallest are below the normal floats. */
        const uint32_t exponent = block->exponent;
        const uint32_t bits = exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23;
        decode_doubled(float_of(bits), BLOCK / 2, block->codes, x);
    }
}

/* Half of an 8-bit float: four bits of exponent, three of fraction. There is no sign, the eighth bit is not looked at,
 * except that 0x7f without it counts as zero. */
static float half_of_byte_float(uint8_t byte) {
    const int exponent = byte >> 3 & 15, fraction = byte & 7;
    if (byte == 0x7f) {
        return 0.0f;
    }
    if (exponent == 0) {
        return (float)fraction * 0x1p-10f;
    }
    return (float)(8 + fraction) * float_of((uint32_t)(exponent - 11 + 127) << 23);
}

void quench_decode_nvfp4(const uint8_t *blocks, float *x, size_t n) {
    enum { PARTS = 4, PART = 16 };
    const struct block_nvfp4 *block = (const struct block_nvfp4 *)blocks;
    for (; n > 0; n--, block++) {
        for (int i = 0; i < PARTS; i++, x += PART) {
            decode_doubled(half_of_byte_float(block->scales[i]), PART / 2, block->codes + i * PART / 2, x);
        }
    }
}
