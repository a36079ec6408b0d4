/* What the emulated processor can do, in place of CPUID's answer; without VNNI if QUENCH_SHIM_NO_VNNI is set. */
#include <stdlib.h>

#include "backend.h"

uint64_t quench_cpu_features(void) {
    const uint64_t features = CPU_AVX2 | CPU_F16C | CPU_FMA | CPU_AVX512;
    return getenv("QUENCH_SHIM_NO_VNNI") ? features : features | CPU_AVX512_VNNI;
}
