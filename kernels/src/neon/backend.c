/* Four lanes. What is not in the table comes from the reference. */
#include "../backend.h"
#include "../dot.h"
#include "../lanes/lanes.h"

const struct backend quench_neon = {
    .name = "neon",
    .features = CPU_NEON,
    LANES_KERNELS,
#if defined(QUENCH_HAS_DOTPROD)
    .dots = {&quench_dotprod_dots, &quench_neon_dots},
#else
    .dots = {&quench_neon_dots},
#endif
};
