/* What the host tells a kernel. Read by C, by Objective-C and by the shader compiler: fixed widths, no padding. */
#ifndef QUENCH_METAL_JOB_H
#define QUENCH_METAL_JOB_H

#if !defined(__METAL_VERSION__)
#  include <stdint.h>
#endif

struct metal_job {
    uint64_t row_stride;     /* bytes between the starts of two rows */
    uint32_t row_blocks;     /* blocks of a row */
    uint32_t first_block;    /* of the first row: where the work begins */
    uint32_t count;          /* blocks to encode, weights to decode, rows to sum, or samples to probe */
    uint32_t row_type;       /* 0: F32, 1: F16, 30: BF16 */
    uint32_t row_weights;    /* weights of a row */
    uint32_t has_importance; /* 1 if there is importance, for each column */
};

/* Threads of a threadgroup: of encoders one SIMD group, so that its barriers cost little. */
#define QUENCH_METAL_ENCODE_THREADS 32u
#define QUENCH_METAL_FLAT_THREADS 64u

/* Bytes of threadgroup memory that an encoder of super-blocks asks for. */
#define QUENCH_METAL_SHARED_BYTES 2048u

#endif
