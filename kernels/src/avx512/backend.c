/* Sixteen lanes. What is not in the table comes from the reference. */
#include "../backend.h"
#include "../lanes/lanes.h"

const struct backend quench_avx512 = {
    .name = "avx512",
    .features = CPU_AVX512 | CPU_AVX2 | CPU_F16C,
    .codecs =
        {
            [QUENCH_F32] = {0},
        },
    .largest = LANES(largest),
    .distance = LANES(distance),
    .rows = {LANES(above), LANES(weigh), LANES(weigh_pair), LANES(subtract)},
};
