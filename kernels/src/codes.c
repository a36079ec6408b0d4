/* What the blocks with codes and scales have in common, type by type. */
#include <stddef.h>
#include <string.h>

#include "blocks.h"
#include "codes.h"
#include "numeric.h"
#include "reference/k_min.h"

int quench_has_codes(int32_t type) {
    switch (type) {
    case QUENCH_Q4_0:
    case QUENCH_Q4_1:
    case QUENCH_Q5_0:
    case QUENCH_Q5_1:
    case QUENCH_Q8_0:
    case QUENCH_Q2_K:
    case QUENCH_Q3_K:
    case QUENCH_Q4_K:
    case QUENCH_Q5_K:
    case QUENCH_Q6_K:
        return 1;
    default:
        return 0;
    }
}

/* Calls `plane(which, offset of its bytes)` for each plane of codes of a type. */
#define WITH_PLANES(type, plane)                                                                                      \
    switch (type) {                                                                                                   \
    case QUENCH_Q2_K:                                                                                                 \
        plane(PLANE_CODES_Q2_K, offsetof(struct block_q2_k, codes));                                                  \
        break;                                                                                                        \
    case QUENCH_Q3_K:                                                                                                 \
        plane(PLANE_CODES_Q2_K, offsetof(struct block_q3_k, codes));                                                  \
        plane(PLANE_HIGH_Q3_K, offsetof(struct block_q3_k, high));                                                    \
        break;                                                                                                        \
    case QUENCH_Q4_K:                                                                                                 \
        plane(PLANE_CODES_Q4_K, offsetof(struct block_q4_k, codes));                                                  \
        break;                                                                                                        \
    case QUENCH_Q5_K:                                                                                                 \
        plane(PLANE_CODES_Q4_K, offsetof(struct block_q5_k, codes));                                                  \
        plane(PLANE_HIGH_Q5_K, offsetof(struct block_q5_k, high));                                                    \
        break;                                                                                                        \
    case QUENCH_Q6_K:                                                                                                 \
        plane(PLANE_CODES_Q6_K, offsetof(struct block_q6_k, codes));                                                  \
        plane(PLANE_HIGH_Q6_K, offsetof(struct block_q6_k, high));                                                    \
        break;                                                                                                        \
    case QUENCH_Q4_0:                                                                                                 \
        plane(PLANE_CODES_32, offsetof(struct block_q4_0, codes));                                                    \
        break;                                                                                                        \
    case QUENCH_Q4_1:                                                                                                 \
        plane(PLANE_CODES_32, offsetof(struct block_q4_1, codes));                                                    \
        break;                                                                                                        \
    case QUENCH_Q5_0:                                                                                                 \
        plane(PLANE_CODES_32, offsetof(struct block_q5_0, codes));                                                    \
        plane(PLANE_HIGH_32, offsetof(struct block_q5_0, high));                                                      \
        break;                                                                                                        \
    case QUENCH_Q5_1:                                                                                                 \
        plane(PLANE_CODES_32, offsetof(struct block_q5_1, codes));                                                    \
        plane(PLANE_HIGH_32, offsetof(struct block_q5_1, high));                                                      \
        break;                                                                                                        \
    default:                                                                                                          \
        plane(PLANE_BYTES_32, offsetof(struct block_q8_0, codes));                                                    \
    }

#define PLANE_BYTES_32 ((struct plane){8, 0, 32, 32})

void quench_pack_codes(int32_t type, const uint8_t *codes, uint8_t *block) {
#define PACK(plane, offset) pack_plane(plane, codes, block + (offset))
    WITH_PLANES(type, PACK)
#undef PACK
}

void quench_unpack_codes(int32_t type, const uint8_t *block, size_t n, uint8_t *codes) {
    memset(codes, 0, n);
#define UNPACK(plane, offset) unpack_plane(plane, block + (offset), codes)
    WITH_PLANES(type, UNPACK)
#undef UNPACK
}

int quench_code_half(int32_t type) {
    switch (type) {
    case QUENCH_Q3_K:
        return 4;
    case QUENCH_Q4_0:
        return 8;
    case QUENCH_Q5_0:
        return 16;
    case QUENCH_Q6_K:
        return 32;
    default:
        return 0;
    }
}

int quench_code_most(int32_t type) {
    switch (type) {
    case QUENCH_Q2_K:
        return 3;
    case QUENCH_Q4_K:
    case QUENCH_Q4_1:
        return 15;
    case QUENCH_Q5_K:
    case QUENCH_Q5_1:
        return 31;
    case QUENCH_Q8_0:
        return 127;
    default:
        return quench_code_half(type) - 1;
    }
}

float quench_code_least(int32_t type) {
    return (float)(type == QUENCH_Q8_0 ? -127 : -quench_code_half(type));
}

int quench_code_group(int32_t type) {
    return type == QUENCH_Q2_K || type == QUENCH_Q3_K || type == QUENCH_Q6_K ? 16 : 32;
}

static void read_k_min(const struct k_min_format *format, const uint8_t *block, float *steps, float *lows) {
    struct levels levels;
    quench_unpack_levels(format, block, &levels);
    for (int group = 0; group < SUPER_BLOCK / format->group; group++) {
        steps[group] = levels.scale * (float)levels.scales[group];
        lows[group] = levels.low * (float)levels.lows[group];
    }
}

static void read_symmetric(float scale, const int8_t *levels, float *steps) {
    for (int group = 0; group < CODE_GROUPS; group++) {
        steps[group] = scale * (float)levels[group];
    }
}

void quench_read_scales(int32_t type, const uint8_t *block, float *steps, float *lows) {
    int8_t levels[CODE_GROUPS];
    memset(lows, 0, CODE_GROUPS * sizeof *lows);
    switch (type) {
    case QUENCH_Q2_K:
        read_k_min(&q2_k, block, steps, lows);
        break;
    case QUENCH_Q4_K:
        read_k_min(&q4_k, block, steps, lows);
        break;
    case QUENCH_Q5_K:
        read_k_min(&q5_k, block, steps, lows);
        break;
    case QUENCH_Q3_K:
        unpack_levels_q3_k(block + offsetof(struct block_q3_k, levels), levels);
        read_symmetric(load_half(block + offsetof(struct block_q3_k, scale)), levels, steps);
        break;
    case QUENCH_Q6_K:
        memcpy(levels, block + offsetof(struct block_q6_k, levels), sizeof levels);
        read_symmetric(load_half(block + offsetof(struct block_q6_k, scale)), levels, steps);
        break;
    case QUENCH_Q4_1:
    case QUENCH_Q5_1:
        lows[0] = -load_half(block + offsetof(struct block_q4_1, low));
        steps[0] = load_half(block);
        break;
    default:
        steps[0] = load_half(block);
    }
}

/* ---- rows that blocks are made from ---- */

int quench_is_source(int32_t row_type) {
    return row_type == QUENCH_F32 || row_type == QUENCH_F16 || row_type == QUENCH_BF16;
}

void quench_widen(const struct source *source, int64_t row, int64_t start, size_t n, float *out) {
    const uint8_t *first = source->rows + row * source->stride;
    if (source->type == QUENCH_F32) {
        memcpy(out, first + 4 * start, n * sizeof *out);
    } else {
        quench_codec(source->backend, source->type).decode(first + 2 * start, out, n);
    }
}
