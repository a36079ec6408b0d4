/* Eight lanes, F16C and FMA. What is not in the table comes from the reference. */
#include "../backend.h"
#include "../dot.h"
#include "../lanes/lanes.h"

const struct backend quench_avx2 = {
    .name = "avx2",
    .features = CPU_AVX2 | CPU_F16C | CPU_FMA,
    LANES_KERNELS,
    .dots = {&quench_avx2_dots},
};
