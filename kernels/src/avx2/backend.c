/* Eight lanes and F16C. What is not in the table comes from the reference. */
#include "../backend.h"
#include "../lanes/lanes.h"

const struct backend quench_avx2 = {
    .name = "avx2",
    .features = CPU_AVX2 | CPU_F16C,
    .codecs =
        {
            [QUENCH_F32] = {0},
        },
    .largest = LANES(largest),
    .distance = LANES(distance),
    .rows = {LANES(above), LANES(weigh), LANES(weigh_pair), LANES(subtract)},
};
