/* What a backend provides, and what the dispatcher asks of it. A new instruction set adds a folder beside reference/
 * with one `struct backend`, compiled for that set by target attributes, and one line in dispatch.c's table. */
#ifndef QUENCH_BACKEND_H
#define QUENCH_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "quench_kernels.h"

/* Weights that the dispatcher hands over at once: whole blocks of one row, widened to float. */
enum { TILE = 4096 };

/* importance: for exactly these weights, or NULL. row_energy: mean square of the whole row, when the type needs it. */
typedef void encode_fn(const float *weights, const float *importance, float row_energy, uint8_t *blocks, size_t n);
typedef void decode_fn(const uint8_t *blocks, float *weights, size_t n);

struct codec {
    encode_fn *encode;
    decode_fn *decode;
};

struct backend {
    const char *name;
    uint64_t features;                      /* all of these CPU features are needed */
    struct codec codecs[QUENCH_TYPE_LIMIT]; /* an empty entry falls back to the reference */
};

extern const struct backend quench_reference;

enum cpu_feature {
    CPU_AVX2 = 1 << 0,
    CPU_F16C = 1 << 1,
    CPU_FMA = 1 << 2,
    CPU_AVX512 = 1 << 3, /* F, BW, DQ and VL together */
    CPU_AVX512_VNNI = 1 << 4,
    CPU_NEON = 1 << 5,
    CPU_DOTPROD = 1 << 6
};

/* Features that both the processor and the operating system support. */
uint64_t quench_cpu_features(void);

/* The kernels need IEEE arithmetic: denormals kept, rounding to nearest. Other code in the process may have changed
 * the thread's floating-point mode, so a call sets it and gives it back. */
uint64_t quench_enter_ieee(void);
void quench_leave_ieee(uint64_t saved);

#endif
