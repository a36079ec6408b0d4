/* Sixteen lanes. What is not in the table comes from the reference. */
#include "../backend.h"
#include "../lanes/lanes.h"

const struct backend quench_avx512 = {
    .name = "avx512",
    .features = CPU_AVX512 | CPU_AVX2 | CPU_F16C,
    .codecs =
        {
            [QUENCH_F32] = {0},
            [QUENCH_Q2_K] = {LANES(encode_q2_k), NULL, NULL},
            [QUENCH_Q4_K] = {LANES(encode_q4_k), NULL, NULL},
            [QUENCH_Q5_K] = {LANES(encode_q5_k), NULL, NULL},
        },
    .largest = LANES(largest),
    .distance = LANES(distance),
};
