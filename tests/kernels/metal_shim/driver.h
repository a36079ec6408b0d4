/* Between the shaders compiled as C++ and the driver that runs them over a grid. */
#pragma once

#include <cstdint>

struct metal_job;

/* Buffers are numbered from behind the job: span 0 is [[buffer(1)]]. */
struct binding {
    const metal_job *job;
    unsigned char *spans[8];
    void *shared;
    uint32_t thread_index, group_index, threads;

    const unsigned char *in(int i) const { return spans[i]; }
    unsigned char *out(int i) const { return spans[i]; }
    uint32_t grid_index() const { return group_index * threads + thread_index; }
};

struct named_kernel {
    const char *name;
    bool has_barriers;
    void (*run)(const binding &at);
};

extern const named_kernel shim_kernels[];
extern const int shim_kernel_count;
