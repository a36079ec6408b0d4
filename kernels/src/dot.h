/* Dot products of rows of blocks with a vector of floats, as the engine computes them: the vector is quantized too, so
 * that everything inside of a block is exact integer arithmetic.
 *
 *   block sum = sum over groups of level * (sum of code * x code)           levels are 1 in blocks of 32
 *   low sum   = sum over groups of low level * (sum of x codes)             0 in types without lows
 *   value     = (scale * x scale) * block sum - (low * x scale) * low sum   in super-blocks
 *   value     = (scale * x scale) * block sum + low * x offset              in blocks of 32
 *   row       = eight partial sums, block i in sum i % 8, added in order; then halves: i and i + 4, i and i + 2, i and
 *               i + 1
 *
 * Both integers are converted to float once, and no operation is fused: this order makes all backends agree. F32, F16
 * and BF16 rows are multiplied as floats, column i in partial sum i % 32, and added in halves as above. */
#ifndef QUENCH_DOT_H
#define QUENCH_DOT_H

#include "backend.h"

enum {
    DOT_SUMS = 8,        /* partial sums of a row; rows of x are padded with zeros to so many blocks */
    DOT_FLOAT_SUMS = 32, /* the same for rows of floats */
    DOT_AHEAD = 8192     /* bytes ahead that kernels prefetch: as measured, 8 to 32 KiB are alike and less is slower */
};

/* A prepared vector. Plane after plane, n_blocks rounded up to DOT_SUMS. */
struct activations {
    const int8_t *codes;
    const int16_t *sums16; /* of 16 codes each; only with super-blocks */
    const int16_t *sums32; /* of 32 codes each */
    const float *scales;   /* of each block */
    const float *offsets;  /* scale * sum of the codes, as the engine rounds it; only with blocks of 32 */
};

enum activation_kind { ACTIVATION_NONE, ACTIVATION_FLOATS, ACTIVATION_Q8_K, ACTIVATION_Q8_0, ACTIVATION_Q8_1 };

enum activation_kind quench_activation_kind(int32_t type);

/* Bytes of the planes of n_blocks blocks (or floats), at most SIZE_MAX / 8 of them. */
size_t quench_activation_bytes(enum activation_kind kind, size_t n_blocks);

struct activations quench_activation_planes(enum activation_kind kind, const void *buffer, size_t n_blocks);

extern const struct dots quench_reference_dots, quench_avx2_dots;
extern const struct dots quench_avx512_dots, quench_vnni_dots;
extern const struct dots quench_neon_dots, quench_dotprod_dots;

#endif
