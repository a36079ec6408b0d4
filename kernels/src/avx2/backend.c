/* Eight lanes and F16C. What is not in the table comes from the reference. */
#include "../backend.h"
#include "../lanes/lanes.h"

const struct backend quench_avx2 = {
    .name = "avx2",
    .features = CPU_AVX2 | CPU_F16C,
    .codecs =
        {
            [QUENCH_Q6_K] = {.encode = LANES(encode_q6_k)},
            [QUENCH_Q5_K] = {.encode = LANES(encode_q5_k)},
            [QUENCH_Q4_K] = {.encode = LANES(encode_q4_k)},
            [QUENCH_Q2_K] = {.encode = LANES(encode_q2_k)},
        },
    .largest = LANES(largest),
    .distance = LANES(distance),
};
