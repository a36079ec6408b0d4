/* Dot products, 16 weights in a vector. Compiled twice, with and without the dot product instructions. */
#include <arm_neon.h>

#include "../blocks.h"
#include "../dot.h"
#include "../lanes/vec.h"
#include "../numeric.h"

/* What a type's kernel finds of up to eight blocks; those that are missing count as zeros. */
struct eight {
    int32x4_t sums[8], lows[8]; /* four parts of each block sum and each low sum */
    uint16_t scales[8], low_scales[8];
};

typedef void one_fn(const uint8_t *bytes, const int8_t *x, const int16_t *sums16, const int16_t *sums32, size_t i,
                      struct eight *out);

/* Sixteen products, four into each lane of sum. */
QUENCH_INLINE int32x4_t add_products(int32x4_t sum, int8x16_t a, int8x16_t b) {
#if defined(QUENCH_DOTPROD)
    return vdotq_s32(sum, a, b);
#else
    /* Other products meet in a lane than with vdotq; only the total counts. */
    sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    return vpadalq_s16(sum, vmull_s8(vget_high_s8(a), vget_high_s8(b)));
#endif
}

QUENCH_INLINE int32x4_t products(int8x16_t a, const int8_t *x) {
    return add_products(vdupq_n_s32(0), a, vld1q_s8(x));
}

QUENCH_INLINE int8x16_t low_nibbles(uint8x16_t bytes) {
    return vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
}

QUENCH_INLINE int8x16_t high_nibbles(uint8x16_t bytes) {
    return vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
}

/* Bit `bit` of each byte, moved to bit `place`. */
QUENCH_INLINE uint8x16_t bit_at(uint8x16_t bytes, int bit, int place) {
    return vandq_u8(vshlq_u8(bytes, vdupq_n_s8((int8_t)(place - bit))), vdupq_n_u8((uint8_t)(1 << place)));
}

/* Two bits from `bit` of each byte, moved to bit `place`. */
QUENCH_INLINE uint8x16_t two_bits_at(uint8x16_t bytes, int bit, int place) {
    return vandq_u8(vshlq_u8(bytes, vdupq_n_s8((int8_t)(place - bit))), vdupq_n_u8((uint8_t)(3 << place)));
}

/* Eight products of bytes without sign and words. */
QUENCH_INLINE int32x4_t level_products(uint8x8_t levels, const int16_t *sums) {
    const int16x8_t a = vreinterpretq_s16_u16(vmovl_u8(levels)), b = vld1q_s16(sums);
    return vmlal_s16(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vget_high_s16(a), vget_high_s16(b));
}

/* ---- super-blocks ---- */

QUENCH_INLINE void one_q2_k(const uint8_t *bytes, const int8_t *x, const int16_t *sums16, const int16_t *sums32,
                            size_t i, struct eight *out) {
    const struct block_q2_k *block = (const struct block_q2_k *)bytes;
    const uint8x16_t levels = vld1q_u8(block->levels), lows = vshrq_n_u8(levels, 4);
    int32x4_t sum = vdupq_n_s32(0);
    (void)sums32;
    for (int group = 0; group < 16; group++) {
        const uint8x16_t packed = vld1q_u8(block->codes + group / 8 * 32 + group % 2 * 16);
        const int8x16_t codes = vreinterpretq_s8_u8(two_bits_at(packed, group % 8 / 2 * 2, 0));
        sum = vmlaq_n_s32(sum, products(codes, x + 16 * group), block->levels[group] & 15);
    }
    out->sums[i] = sum;
    out->lows[i] = vaddq_s32(level_products(vget_low_u8(lows), sums16), level_products(vget_high_u8(lows), sums16 + 8));
    out->scales[i] = load16(block->scale);
    out->low_scales[i] = load16(block->low);
}

QUENCH_INLINE void one_q3_k(const uint8_t *bytes, const int8_t *x, const int16_t *sums16, const int16_t *sums32,
                            size_t i, struct eight *out) {
    const struct block_q3_k *block = (const struct block_q3_k *)bytes;
    int8_t levels[16];
    int32x4_t sum = vdupq_n_s32(0);
    (void)sums16, (void)sums32;
    unpack_levels_q3_k(block->levels, levels);
    for (int group = 0; group < 16; group++) {
        const uint8x16_t packed = vld1q_u8(block->codes + group / 8 * 32 + group % 2 * 16);
        const uint8x16_t third = bit_at(vld1q_u8(block->high + group % 2 * 16), group / 2, 2);
        const uint8x16_t codes = vorrq_u8(two_bits_at(packed, group % 8 / 2 * 2, 0), third);
        sum = vmlaq_n_s32(sum, products(vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(4)), x + 16 * group),
                          levels[group]);
    }
    out->sums[i] = sum;
    out->scales[i] = load16(block->scale);
}

QUENCH_INLINE void one_q4_k(const uint8_t *bytes, const int8_t *x, const int16_t *sums16, const int16_t *sums32,
                            size_t i, struct eight *out) {
    const struct block_q4_k *block = (const struct block_q4_k *)bytes;
    uint8_t levels[8], lows[8];
    int32x4_t sum = vdupq_n_s32(0);
    (void)sums16;
    unpack_levels_q4_k(block->levels, levels, lows);
    for (int pair = 0; pair < 4; pair++, x += 64) {
        const uint8x16_t first = vld1q_u8(block->codes + 32 * pair), second = vld1q_u8(block->codes + 32 * pair + 16);
        const int32x4_t low = add_products(products(low_nibbles(first), x), low_nibbles(second), vld1q_s8(x + 16));
        const int32x4_t high =
            add_products(products(high_nibbles(first), x + 32), high_nibbles(second), vld1q_s8(x + 48));
        sum = vmlaq_n_s32(vmlaq_n_s32(sum, low, levels[2 * pair]), high, levels[2 * pair + 1]);
    }
    out->sums[i] = sum;
    out->lows[i] = level_products(vld1_u8(lows), sums32);
    out->scales[i] = load16(block->scale);
    out->low_scales[i] = load16(block->low);
}

QUENCH_INLINE void one_q5_k(const uint8_t *bytes, const int8_t *x, const int16_t *sums16, const int16_t *sums32,
                            size_t i, struct eight *out) {
    const struct block_q5_k *block = (const struct block_q5_k *)bytes;
    uint8_t levels[8], lows[8];
    int32x4_t sum = vdupq_n_s32(0);
    (void)sums16;
    unpack_levels_q4_k(block->levels, levels, lows);
    for (int group = 0; group < 8; group++, x += 32) {
        int32x4_t own = vdupq_n_s32(0);
        for (int half = 0; half < 2; half++) {
            const uint8x16_t packed = vld1q_u8(block->codes + group / 2 * 32 + 16 * half);
            const uint8x16_t fifth = bit_at(vld1q_u8(block->high + 16 * half), group, 4);
            const int8x16_t codes = group % 2 ? high_nibbles(packed) : low_nibbles(packed);
            own = add_products(own, vorrq_s8(codes, vreinterpretq_s8_u8(fifth)), vld1q_s8(x + 16 * half));
        }
        sum = vmlaq_n_s32(sum, own, levels[group]);
    }
    out->sums[i] = sum;
    out->lows[i] = level_products(vld1_u8(lows), sums32);
    out->scales[i] = load16(block->scale);
    out->low_scales[i] = load16(block->low);
}

QUENCH_INLINE void one_q6_k(const uint8_t *bytes, const int8_t *x, const int16_t *sums16, const int16_t *sums32,
                            size_t i, struct eight *out) {
    const struct block_q6_k *block = (const struct block_q6_k *)bytes;
    int32x4_t sum = vdupq_n_s32(0);
    (void)sums16, (void)sums32;
    for (int group = 0; group < 16; group++) {
        const uint8x16_t packed = vld1q_u8(block->codes + group / 8 * 64 + group % 4 * 16);
        const uint8x16_t upper =
            two_bits_at(vld1q_u8(block->high + group / 8 * 32 + group % 2 * 16), group % 8 / 2 * 2, 4);
        const int8x16_t low = group % 8 < 4 ? low_nibbles(packed) : high_nibbles(packed);
        const int8x16_t codes = vsubq_s8(vorrq_s8(low, vreinterpretq_s8_u8(upper)), vdupq_n_s8(32));
        sum = vmlaq_n_s32(sum, products(codes, x + 16 * group), (int8_t)block->levels[group]);
    }
    out->sums[i] = sum;
    out->scales[i] = load16(block->scale);
}

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

QUENCH_INLINE int8x16_t iq4_at(int8x16_t codes) {
    return vqtbl1q_s8(vld1q_s8(iq4_values), vreinterpretq_u8_s8(codes));
}

QUENCH_INLINE void one_iq4_xs(const uint8_t *bytes, const int8_t *x, const int16_t *sums16, const int16_t *sums32,
                            size_t i, struct eight *out) {
    const struct block_iq4_xs *block = (const struct block_iq4_xs *)bytes;
    const int high = load16(block->levels_high);
    int32x4_t sum = vdupq_n_s32(0);
    (void)sums16, (void)sums32;
    for (int group = 0; group < 8; group++, x += 32) {
        const int level = ((block->levels[group / 2] >> (group % 2 * 4)) & 15) | ((high >> (2 * group)) & 3) << 4;
        const uint8x16_t packed = vld1q_u8(block->codes + 16 * group);
        const int32x4_t own =
            add_products(products(iq4_at(low_nibbles(packed)), x), iq4_at(high_nibbles(packed)), vld1q_s8(x + 16));
        sum = vmlaq_n_s32(sum, own, level - 32);
    }
    out->sums[i] = sum;
    out->scales[i] = load16(block->scale);
}

/* ---- blocks of 32 ---- */

/* Bit i of `high` at bit 4 of byte i, of 16. */
QUENCH_INLINE int8x16_t fifth_bits(const uint8_t *high) {
    const uint8x16_t places = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
    const uint8x16_t bytes = vcombine_u8(vdup_n_u8(high[0]), vdup_n_u8(high[1]));
    return vreinterpretq_s8_u8(vandq_u8(vtstq_u8(bytes, places), vdupq_n_u8(16)));
}

/* Two vectors of codes and a block's numbers. */
#define SMALL_BLOCK(type, first, second, low_scale)                                                                   \
    QUENCH_INLINE void one_##type(const uint8_t *bytes, const int8_t *x, const int16_t *sums16,                     \
                                    const int16_t *sums32, size_t i, struct eight *out) {                             \
        const struct block_##type *block = (const struct block_##type *)bytes;                                        \
        (void)sums16, (void)sums32;                                                                                   \
        out->sums[i] = add_products(products(first, x), second, vld1q_s8(x + 16));                                    \
        out->scales[i] = load16(block->scale);                                                                        \
        out->low_scales[i] = low_scale;                                                                               \
    }

#define block_iq4_nl block_q4_0 /* the same bytes */
#define CODES vld1q_u8(block->codes)
#define LOW low_nibbles(CODES)
#define HIGH high_nibbles(CODES)
#define LOW_5 vorrq_s8(LOW, fifth_bits(block->high))
#define HIGH_5 vorrq_s8(HIGH, fifth_bits(block->high + 2))
#define LESS(codes, half) vsubq_s8(codes, vdupq_n_s8(half))

SMALL_BLOCK(q8_0, vreinterpretq_s8_u8(CODES), vreinterpretq_s8_u8(vld1q_u8(block->codes + 16)), 0)
SMALL_BLOCK(q4_1, LOW, HIGH, load16(block->low))
SMALL_BLOCK(q5_0, LESS(LOW_5, 16), LESS(HIGH_5, 16), 0)
SMALL_BLOCK(q5_1, LOW_5, HIGH_5, load16(block->low))
SMALL_BLOCK(q4_0, LESS(LOW, 8), LESS(HIGH, 8), 0)
SMALL_BLOCK(iq4_nl, iq4_at(LOW), iq4_at(HIGH), 0)

/* ---- rows ---- */

QUENCH_INLINE int32x4_t sums_of_4(const int32x4_t *parts) {
    return vpaddq_s32(vpaddq_s32(parts[0], parts[1]), vpaddq_s32(parts[2], parts[3]));
}

QUENCH_INLINE float32x4_t scales_of_4(const uint16_t *halves, const float *x_scales) {
    return vmulq_f32(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves))), vld1q_f32(x_scales));
}

enum lows { NO_LOWS, LEVEL_LOWS, BLOCK_LOWS };

QUENCH_INLINE void dot_rows(one_fn *one, size_t size, size_t width, enum lows lows, const uint8_t *rows, size_t n_rows,
                            size_t n_blocks, const struct activations *x, float *out) {
    for (size_t row = 0; row < n_rows; row++) {
        float32x4_t totals[2] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
        for (size_t first = 0; first < n_blocks; first += 8) {
            const size_t n = n_blocks - first < 8 ? n_blocks - first : 8;
            struct eight parts = {0};
            for (size_t i = 0; i < n; i++, rows += size) {
                const size_t block = first + i;
                const int16_t *sums16 = width == SUPER_BLOCK ? x->sums16 + block * 16 : NULL;
                one(rows, x->codes + block * width, sums16, x->sums32 + block * (width / 32), i, &parts);
            }
            for (size_t half = 0; half < 2; half++) {
                const float *x_scales = x->scales + first + 4 * half;
                const float32x4_t scales = scales_of_4(parts.scales + 4 * half, x_scales);
                float32x4_t values = vmulq_f32(scales, vcvtq_f32_s32(sums_of_4(parts.sums + 4 * half)));
                if (lows == LEVEL_LOWS) {
                    const float32x4_t low_scales = scales_of_4(parts.low_scales + 4 * half, x_scales);
                    values = vsubq_f32(values,
                                       vmulq_f32(low_scales, vcvtq_f32_s32(sums_of_4(parts.lows + 4 * half))));
                }
                if (lows == BLOCK_LOWS) {
                    values = vaddq_f32(values,
                                       scales_of_4(parts.low_scales + 4 * half, x->offsets + first + 4 * half));
                }
                totals[half] = vaddq_f32(totals[half], values);
            }
        }
        const float32x4_t fours = vaddq_f32(totals[0], totals[1]);
        const float32x2_t twos = vadd_f32(vget_low_f32(fours), vget_high_f32(fours));
        out[row] = vget_lane_f32(twos, 0) + vget_lane_f32(twos, 1);
    }
}

#define DOT(type, width, lows)                                                                                        \
    static void dot_##type(const uint8_t *rows, size_t n_rows, size_t n_blocks, const struct activations *x,          \
                           float *out) {                                                                              \
        dot_rows(one_##type, sizeof(struct block_##type), width, lows, rows, n_rows, n_blocks, x, out);               \
    }

DOT(q2_k, SUPER_BLOCK, LEVEL_LOWS)
DOT(q3_k, SUPER_BLOCK, NO_LOWS)
DOT(q4_k, SUPER_BLOCK, LEVEL_LOWS)
DOT(q5_k, SUPER_BLOCK, LEVEL_LOWS)
DOT(q6_k, SUPER_BLOCK, NO_LOWS)
DOT(iq4_xs, SUPER_BLOCK, NO_LOWS)
DOT(q8_0, BLOCK, NO_LOWS)
DOT(q4_0, BLOCK, NO_LOWS)
DOT(q5_0, BLOCK, NO_LOWS)
DOT(q4_1, BLOCK, BLOCK_LOWS)
DOT(q5_1, BLOCK, BLOCK_LOWS)
DOT(iq4_nl, BLOCK, NO_LOWS)

#if defined(QUENCH_DOTPROD)
#  define TABLE quench_dotprod_dots
#else
#  define TABLE quench_neon_dots
#endif

const struct dots TABLE = {
#if defined(QUENCH_DOTPROD)
    .features = CPU_DOTPROD,
#endif
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
