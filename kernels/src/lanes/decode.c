/* Blocks of 32 to floats: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, and IQ4_XS, which is made of such blocks. */
#include "../blocks.h"
#include "lanes.h"
#include "narrow.h"

enum { HALF = BLOCK / 2 };

void LANES(decode_q8_0)(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q8_0 *block = (const struct block_q8_0 *)blocks;
    for (; n > 0; n--, block++) {
        const vf scale = vf_set(half_at(block->scale));
        for (int i = 0; i < BLOCK; i += W, x += W) {
            vf_store(x, vf_mul(vf_from_vi(vi_from_signed_bytes(block->codes + i)), scale));
        }
    }
}

/* Sixteen bytes of 4-bit codes, their fifth bits in `fives`: x = (code - half) * scale. */
QUENCH_INLINE void centred(const uint8_t *codes, uint32_t fives, int bits, float scale, float *x) {
    const vf factor = vf_set(scale);
    const vi upper = vi_set(bits == 4 ? -8 : 0), lower = vi_set(bits == 4 ? -8 : -16);
    for (int i = 0; i < HALF; i += W) {
        const vi both = vi_from_bytes(codes + i);
        vi low = vi_and(both, vi_set(15)), high = vi_right(both, 4);
        if (bits == 5) {
            low = vi_add(low, vi_pick(vm_of_bits(fives >> i), upper, lower));
            high = vi_add(high, vi_pick(vm_of_bits(fives >> (i + HALF)), upper, lower));
        } else {
            low = vi_add(low, lower);
            high = vi_add(high, lower);
        }
        vf_store(x + i, vf_mul(vf_from_vi(low), factor));
        vf_store(x + i + HALF, vf_mul(vf_from_vi(high), factor));
    }
}

/* The same for x = code * scale + least. */
QUENCH_INLINE void ranged(const uint8_t *codes, uint32_t fives, int bits, float scale, float least, float *x) {
    const vf factor = vf_set(scale), start = vf_set(least);
    for (int i = 0; i < HALF; i += W) {
        const vi both = vi_from_bytes(codes + i);
        vi low = vi_and(both, vi_set(15)), high = vi_right(both, 4);
        if (bits == 5) {
            low = vi_or(low, vi_pick(vm_of_bits(fives >> i), vi_set(16), vi_set(0)));
            high = vi_or(high, vi_pick(vm_of_bits(fives >> (i + HALF)), vi_set(16), vi_set(0)));
        }
        vf_store(x + i, vf_add(vf_mul(vf_from_vi(low), factor), start));
        vf_store(x + i + HALF, vf_add(vf_mul(vf_from_vi(high), factor), start));
    }
}

void LANES(decode_q4_0)(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q4_0 *block = (const struct block_q4_0 *)blocks;
    for (; n > 0; n--, block++, x += BLOCK) {
        centred(block->codes, 0, 4, half_at(block->scale), x);
    }
}

void LANES(decode_q5_0)(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q5_0 *block = (const struct block_q5_0 *)blocks;
    for (; n > 0; n--, block++, x += BLOCK) {
        centred(block->codes, word_at(block->high), 5, half_at(block->scale), x);
    }
}

void LANES(decode_q4_1)(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q4_1 *block = (const struct block_q4_1 *)blocks;
    for (; n > 0; n--, block++, x += BLOCK) {
        ranged(block->codes, 0, 4, half_at(block->scale), half_at(block->low), x);
    }
}

void LANES(decode_q5_1)(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q5_1 *block = (const struct block_q5_1 *)blocks;
    for (; n > 0; n--, block++, x += BLOCK) {
        ranged(block->codes, word_at(block->high), 5, half_at(block->scale), half_at(block->low), x);
    }
}

/* ---- IQ4 ---- */

static const float values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

QUENCH_INLINE void looked_up(vtable table, const uint8_t *codes, float scale, float *x) {
    const vf factor = vf_set(scale);
    for (int i = 0; i < HALF; i += W) {
        const vi both = vi_from_bytes(codes + i);
        vf_store(x + i, vf_mul(factor, vtable_at(table, vi_and(both, vi_set(15)))));
        vf_store(x + i + HALF, vf_mul(factor, vtable_at(table, vi_right(both, 4))));
    }
}

void LANES(decode_iq4_nl)(const uint8_t *blocks, float *x, size_t n) {
    const struct block_q4_0 *block = (const struct block_q4_0 *)blocks;
    const vtable table = vtable_load(values);
    for (; n > 0; n--, block++, x += BLOCK) {
        looked_up(table, block->codes, half_at(block->scale), x);
    }
}

void LANES(decode_iq4_xs)(const uint8_t *blocks, float *x, size_t n) {
    enum { BLOCKS = SUPER_BLOCK / BLOCK };
    const struct block_iq4_xs *block = (const struct block_iq4_xs *)blocks;
    const vtable table = vtable_load(values);
    for (; n > 0; n--, block++) {
        const float scale = half_at(block->scale);
        const uint32_t low = word_at(block->levels);
        const unsigned high = load16(block->levels_high);
        for (int i = 0; i < BLOCKS; i++, x += BLOCK) {
            const int level = (int)((low >> (4 * i) & 15u) | (high >> (2 * i) & 3u) << 4) - 32;
            looked_up(table, block->codes + i * HALF, scale * (float)level, x);
        }
    }
}
