/* What the backend asks of a device: device.m on Apple silicon; the tests bring one that runs the shaders on the
 * processor. */
#ifndef QUENCH_METAL_DEVICE_H
#define QUENCH_METAL_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "job.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Memory of the caller, aligned to its elements: read by the kernel, written to the last byte, or written in parts. */
enum metal_use { METAL_READ, METAL_FILLED, METAL_CHANGED };

struct metal_span {
    const void *bytes;
    size_t size;
    enum metal_use use;
};

enum { METAL_MOST_SPANS = 5 };

/* 1 and the device's name if there is one. Cheap after the first call; safe from any thread. */
int quench_metal_device(char *name, size_t size);

/* Runs the kernel over `groups` threadgroups of `threads` threads and waits for it. The job is [[buffer(0)]], spans
 * follow. Returns 1 if it ran, 0 if not; then the written spans hold anything. Safe from any thread. */
int quench_metal_run(const char *kernel, const struct metal_job *job, const struct metal_span *spans, int n_spans,
                     uint32_t groups, uint32_t threads);

#ifdef __cplusplus
}
#endif

#endif
