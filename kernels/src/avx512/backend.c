/* Sixteen lanes. What is not in the table comes from the reference. */
#include "../backend.h"
#include "../dot.h"
#include "../lanes/lanes.h"

const struct backend quench_avx512 = {
    .name = "avx512",
    .features = CPU_AVX512 | CPU_AVX2 | CPU_F16C,
    LANES_KERNELS,
#if defined(QUENCH_HAS_VNNI)
    .dots = {&quench_vnni_dots, &quench_avx512_dots},
#else
    .dots = {&quench_avx512_dots},
#endif
};
