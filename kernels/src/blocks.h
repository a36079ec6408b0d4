/* Where the bits of a block are.
 *
 * Codes (small unsigned integers) are stored in bit planes. One rule covers all formats: a plane is cut into groups of
 * `width` bytes, a byte holds 8 / bits codes, and the codes that share a byte lie `width` apart in the block.
 * Structures consist of bytes alone: no padding, no alignment.
 */
#ifndef QUENCH_BLOCKS_H
#define QUENCH_BLOCKS_H

#include <stdint.h>

enum { BLOCK = 32, SUPER_BLOCK = 256 };

struct plane {
    int bits;  /* of each code in this plane: 1, 2 or 4 */
    int shift; /* of those bits inside the code */
    int width; /* bytes of a group */
    int bytes; /* of the plane */
};

struct block_q4_0 { uint8_t scale[2], codes[16]; };
struct block_q4_1 { uint8_t scale[2], low[2], codes[16]; };
struct block_q5_0 { uint8_t scale[2], high[4], codes[16]; };
struct block_q5_1 { uint8_t scale[2], low[2], high[4], codes[16]; };
struct block_q8_0 { uint8_t scale[2], codes[32]; };
struct block_iq4_xs { uint8_t scale[2], levels_high[2], levels[4], codes[128]; };
struct block_q2_k { uint8_t levels[16], codes[64], scale[2], low[2]; };
struct block_q3_k { uint8_t high[32], codes[64], levels[12], scale[2]; };
struct block_q4_k { uint8_t scale[2], low[2], levels[12], codes[128]; };
struct block_q5_k { uint8_t scale[2], low[2], levels[12], high[32], codes[128]; };
struct block_q6_k { uint8_t codes[128], high[64], levels[16], scale[2]; };

/* Only read. */
struct block_q1_0 { uint8_t scale[2], codes[16]; };
struct block_q2_0 { uint8_t scale[2], codes[16]; };
struct block_iq1_s { uint8_t scale[2], codes[32], high[8][2]; };
struct block_iq1_m { uint8_t codes[32], high[16], levels[4][2]; };
struct block_iq2_xxs { uint8_t scale[2], parts[8][8]; };
struct block_iq2_xs { uint8_t scale[2], codes[32][2], levels[8]; };
struct block_iq2_s { uint8_t scale[2], codes[32], signs[32], high[8], levels[8]; };
struct block_iq3_xxs { uint8_t scale[2], codes[64], signs[8][4]; };
struct block_iq3_s { uint8_t scale[2], codes[64], high[8], signs[32], levels[4]; };
struct block_tq1_0 { uint8_t codes[48], rest[4], scale[2]; };
struct block_tq2_0 { uint8_t codes[64], scale[2]; };
struct block_mxfp4 { uint8_t exponent, codes[16]; };
struct block_nvfp4 { uint8_t scales[4], codes[32]; };

_Static_assert(sizeof(struct block_q5_1) == 24 && sizeof(struct block_q8_0) == 34, "blocks of 32 have no padding");
_Static_assert(sizeof(struct block_q2_k) == 84 && sizeof(struct block_q3_k) == 110, "super-blocks have no padding");
_Static_assert(sizeof(struct block_q4_k) == 144 && sizeof(struct block_q5_k) == 176, "super-blocks have no padding");
_Static_assert(sizeof(struct block_iq4_xs) == 136, "super-blocks have no padding");
_Static_assert(sizeof(struct block_q6_k) == 210, "super-blocks have no padding");

#define PLANE_CODES_32 ((struct plane){4, 0, 16, 16})
#define PLANE_HIGH_32 ((struct plane){1, 4, 1, 4})
#define PLANE_CODES_Q2_K ((struct plane){2, 0, 32, 64})
#define PLANE_CODES_Q4_K ((struct plane){4, 0, 32, 128})
#define PLANE_CODES_Q6_K ((struct plane){4, 0, 64, 128})
#define PLANE_HIGH_Q3_K ((struct plane){1, 2, 32, 32})
#define PLANE_HIGH_Q5_K ((struct plane){1, 4, 32, 32})
#define PLANE_HIGH_Q6_K ((struct plane){2, 4, 32, 64})
/* Q3_K's sixteen 6-bit levels are two planes as well. */
#define PLANE_LEVELS_Q3_K ((struct plane){4, 0, 8, 8})
#define PLANE_LEVELS_HIGH_Q3_K ((struct plane){2, 4, 4, 4})

static inline void pack_plane(struct plane plane, const uint8_t *codes, uint8_t *out) {
    const int per_byte = 8 / plane.bits;
    const unsigned mask = (1u << plane.bits) - 1u;
    for (int group = 0; group < plane.bytes / plane.width; group++) {
        const uint8_t *first = codes + group * plane.width * per_byte;
        for (int byte = 0; byte < plane.width; byte++) {
            unsigned packed = 0;
            for (int part = 0; part < per_byte; part++) {
                packed |= (((unsigned)first[part * plane.width + byte] >> plane.shift) & mask) << (part * plane.bits);
            }
            out[group * plane.width + byte] = (uint8_t)packed;
        }
    }
}

/* Adds the plane's bits to codes that other planes have begun: start from zeros. */
static inline void unpack_plane(struct plane plane, const uint8_t *in, uint8_t *codes) {
    const int per_byte = 8 / plane.bits;
    const unsigned mask = (1u << plane.bits) - 1u;
    for (int group = 0; group < plane.bytes / plane.width; group++) {
        uint8_t *first = codes + group * plane.width * per_byte;
        for (int part = 0; part < per_byte; part++) {
            for (int byte = 0; byte < plane.width; byte++) {
                unsigned packed = in[group * plane.width + byte];
                first[part * plane.width + byte] |= (uint8_t)(((packed >> (part * plane.bits)) & mask) << plane.shift);
            }
        }
    }
}

/* Q4_K, Q5_K: 8 + 8 levels of 6 bits in 12 bytes. */
static inline void unpack_levels_q4_k(const uint8_t *in, uint8_t *scales, uint8_t *lows) {
    for (int i = 0; i < 4; i++) {
        scales[i] = in[i] & 63;
        lows[i] = in[i + 4] & 63;
        scales[i + 4] = (uint8_t)((in[i + 8] & 15) | (in[i] >> 6) << 4);
        lows[i + 4] = (uint8_t)(in[i + 8] >> 4 | (in[i + 4] >> 6) << 4);
    }
}

/* Q3_K: sixteen signed levels. */
static inline void unpack_levels_q3_k(const uint8_t *in, int8_t *levels) {
    uint8_t stored[16] = {0};
    unpack_plane(PLANE_LEVELS_Q3_K, in, stored);
    unpack_plane(PLANE_LEVELS_HIGH_Q3_K, in + 8, stored);
    for (int group = 0; group < 16; group++) {
        levels[group] = (int8_t)(stored[group] - 32);
    }
}

#endif
