/* IQ1, IQ2 and IQ3, which are only read: eight weights share a code that names a point of a lattice, 32 or 16 weights a
 * scale. IQ2 and IQ3 keep signs beside the code; IQ1 shifts its points by an eighth up or down.
 *
 * Every index is cut to its table's size by the width of its bit field, so any bytes decode. */
#include "../blocks.h"
#include "../numeric.h"
#include "codecs.h"
#include "lattices.h"

enum { GROUP = 8, GROUPS = SUPER_BLOCK / GROUP, BLOCKS = SUPER_BLOCK / BLOCK };

static uint32_t load32(const uint8_t *bytes) {
    return (uint32_t)load16(bytes) | (uint32_t)load16(bytes + 2) << 16;
}

/* Coordinates of one point of eight, or of two points of four. */
static void spread_eight(uint16_t point, const int8_t *levels, float *values) {
    for (int i = 0; i < GROUP; i++) {
        values[i] = (float)levels[point >> (2 * i) & 3];
    }
}

static void spread_four(uint16_t point, const int8_t *levels, float *values) {
    for (int i = 0; i < GROUP / 2; i++) {
        values[i] = (float)levels[point >> (3 * i) & 7];
    }
}

/* Seven signs are stored; the eighth makes the number of minus signs even. */
static unsigned even_signs(unsigned seven) {
    unsigned parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return seven | (parity & 1u) << 7;
}

static void write_signed(float scale, const float *values, unsigned signs, float *x) {
    for (int i = 0; i < GROUP; i++) {
        const float value = scale * values[i];
        x[i] = signs >> i & 1u ? -value : value;
    }
}

static void write_shifted(float scale, uint16_t point, int down, float *x) {
    float values[GROUP];
    spread_eight(point, iq1_levels, values);
    for (int i = 0; i < GROUP; i++) {
        x[i] = scale * (values[i] + (down ? -0.125f : 0.125f));
    }
}

/* ---- IQ2 ---- */

static float scale_iq2(float scale, unsigned level) {
    return scale * (0.5f + (float)(level & 15u)) * 0.25f;
}

static void write_iq2(float scale, uint16_t point, unsigned signs, float *x) {
    float values[GROUP];
    spread_eight(point, iq2_levels, values);
    write_signed(scale, values, signs, x);
}

void quench_decode_iq2_xxs(const uint8_t *blocks, float *x, size_t n) {
    const struct block_iq2_xxs *block = (const struct block_iq2_xxs *)blocks;
    for (; n > 0; n--, block++) {
        const float scale = load_half(block->scale);
        for (int i = 0; i < BLOCKS; i++) {
            const uint8_t *codes = block->parts[i];
            const uint32_t signs = load32(codes + 4);
            const float own = scale_iq2(scale, signs >> 28);
            for (int group = 0; group < 4; group++, x += GROUP) {
                write_iq2(own, iq2_xxs_points[codes[group]], even_signs(signs >> (7 * group) & 127u), x);
            }
        }
    }
}

void quench_decode_iq2_xs(const uint8_t *blocks, float *x, size_t n) {
    const struct block_iq2_xs *block = (const struct block_iq2_xs *)blocks;
    for (; n > 0; n--, block++) {
        const float scale = load_half(block->scale);
        for (int group = 0; group < GROUPS; group++, x += GROUP) {
            const unsigned code = load16(block->codes[group]);
            const float own = scale_iq2(scale, (unsigned)block->levels[group / 4] >> (group & 2 ? 4 : 0));
            write_iq2(own, iq2_xs_points[code & 511u], even_signs(code >> 9), x);
        }
    }
}

void quench_decode_iq2_s(const uint8_t *blocks, float *x, size_t n) {
    const struct block_iq2_s *block = (const struct block_iq2_s *)blocks;
    for (; n > 0; n--, block++) {
        const float scale = load_half(block->scale);
        for (int group = 0; group < GROUPS; group++, x += GROUP) {
            const unsigned high = (unsigned)block->high[group / 4] >> (2 * (group % 4)) & 3u;
            const float own = scale_iq2(scale, (unsigned)block->levels[group / 4] >> (group & 2 ? 4 : 0));
            write_iq2(own, iq2_s_points[block->codes[group] | high << 8], block->signs[group], x);
        }
    }
}

/* ---- IQ3 ---- */

void quench_decode_iq3_xxs(const uint8_t *blocks, float *x, size_t n) {
    const struct block_iq3_xxs *block = (const struct block_iq3_xxs *)blocks;
    for (; n > 0; n--, block++) {
        const float scale = load_half(block->scale);
        for (int group = 0; group < GROUPS; group++, x += GROUP) {
            const uint32_t signs = load32(block->signs[group / 4]);
            const float own = scale * (0.5f + (float)(signs >> 28)) * 0.5f;
            float values[GROUP];
            spread_four(iq3_xxs_points[block->codes[2 * group]], iq3_xxs_levels, values);
            spread_four(iq3_xxs_points[block->codes[2 * group + 1]], iq3_xxs_levels, values + GROUP / 2);
            write_signed(own, values, even_signs(signs >> (7 * (group % 4)) & 127u), x);
        }
    }
}

void quench_decode_iq3_s(const uint8_t *blocks, float *x, size_t n) {
    const struct block_iq3_s *block = (const struct block_iq3_s *)blocks;
    for (; n > 0; n--, block++) {
        const float scale = load_half(block->scale);
        for (int group = 0; group < GROUPS; group++, x += GROUP) {
            const unsigned level = (unsigned)block->levels[group / 8] >> (group & 4 ? 4 : 0) & 15u;
            const unsigned high = (unsigned)block->high[group / 4] >> (2 * (group % 4));
            float values[GROUP];
            spread_four(iq3_s_points[block->codes[2 * group] | (high & 1u) << 8], iq3_s_levels, values);
            spread_four(iq3_s_points[block->codes[2 * group + 1] | (high & 2u) << 7], iq3_s_levels, values + GROUP / 2);
            write_signed(scale * (float)(1u + 2u * level), values, block->signs[group], x);
        }
    }
}

/* ---- IQ1 ---- */

void quench_decode_iq1_s(const uint8_t *blocks, float *x, size_t n) {
    const struct block_iq1_s *block = (const struct block_iq1_s *)blocks;
    for (; n > 0; n--, block++) {
        const float scale = load_half(block->scale);
        for (int group = 0; group < GROUPS; group++, x += GROUP) {
            const unsigned high = load16(block->high[group / 4]);
            const float own = scale * (float)(2u * (high >> 12 & 7u) + 1u);
            const unsigned code = block->codes[group] | (high >> (3 * (group % 4)) & 7u) << 8;
            write_shifted(own, iq1_s_points[code], (high & 0x8000u) != 0, x);
        }
    }
}

void quench_decode_iq1_m(const uint8_t *blocks, float *x, size_t n) {
    const struct block_iq1_m *block = (const struct block_iq1_m *)blocks;
    for (; n > 0; n--, block++) {
        /* The upper four bits of each level word together are the scale. */
        unsigned half = 0;
        for (int i = 0; i < 4; i++) {
            half |= ((unsigned)load16(block->levels[i]) >> 12) << (4 * i);
        }
        const float scale = float_from_half((uint16_t)half);
        for (int group = 0; group < GROUPS; group++, x += GROUP) {
            const unsigned level = (unsigned)load16(block->levels[group / 8]) >> (3 * (group / 2 % 4)) & 7u;
            const unsigned high = (unsigned)block->high[group / 2] >> (4 * (group % 2));
            const unsigned code = block->codes[group] | (high & 7u) << 8;
            write_shifted(scale * (float)(2u * level + 1u), iq1_s_points[code], (high & 8u) != 0, x);
        }
    }
}
