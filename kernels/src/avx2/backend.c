/* Eight lanes and F16C. What is not in the table comes from the reference. */
#include "../backend.h"
#include "../lanes/lanes.h"

const struct backend quench_avx2 = {
    .name = "avx2",
    .features = CPU_AVX2 | CPU_F16C,
    .codecs =
        {
            [QUENCH_Q3_K] = {.encode = LANES(encode_q3_k)},
            [QUENCH_Q6_K] = {.encode = LANES(encode_q6_k)},
        },
    .largest = LANES(largest),
    .distance = LANES(distance),
};
