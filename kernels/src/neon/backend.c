/* Four lanes. What is not in the table comes from the reference. */
#include "../backend.h"
#include "../lanes/lanes.h"

const struct backend quench_neon = {
    .name = "neon",
    .features = CPU_NEON,
    .codecs =
        {
            [QUENCH_F32] = {0},
        },
    .largest = LANES(largest),
    .distance = LANES(distance),
    .rows = {LANES(above), LANES(weigh), LANES(weigh_pair), LANES(subtract)},
};
