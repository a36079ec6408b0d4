/* Is the device to be trusted? The shaders' bytes depend on how a compiler that nobody of us has seen treats them, so
 * the device shows on its owner's machine that it rounds as the processor does and gives the processor's blocks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../numeric.h"
#include "metal.h"

enum { SAMPLES = 4096, ROWS = 4, COLUMNS = 2048, WEIGHTS = ROWS * COLUMNS };

static uint64_t next(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 32;
}

/* Any significand, exponents from -20 to 20. */
static float any_float(uint64_t *state) {
    const uint32_t significand = (uint32_t)next(state) & 0x807fffffu;
    return float_of(significand | (uint32_t)(107 + next(state) % 41) << 23);
}

/* Bell-shaped, about 0.02 wide. */
static float weight_like(uint64_t *state) {
    int32_t sum = -2 * 65535;
    for (int i = 0; i < 4; i++) {
        sum += (int32_t)(next(state) & 0xffffu);
    }
    return (float)sum * 0x1p-22f;
}

/* ---- single operations ---- */

static int same_arithmetic(void) {
    static float in[3 * SAMPLES], out[3 * SAMPLES]; /* called once */
    uint64_t state = 1;
    for (int i = 0; i < 3 * SAMPLES; i++) {
        in[i] = any_float(&state);
    }
    for (int i = 0; i < SAMPLES; i += 2) {
        in[3 * i + 2] = -in[3 * i] * in[3 * i + 1]; /* a fused sum is the product's rounding error, else zero */
    }
    const struct metal_job job = {.count = SAMPLES};
    const struct metal_span spans[] = {{in, sizeof in, METAL_READ}, {out, sizeof out, METAL_FILLED}};
    if (!quench_metal_run("probe_arithmetic", &job, spans, 2, SAMPLES / QUENCH_METAL_FLAT_THREADS,
                          QUENCH_METAL_FLAT_THREADS)) {
        return 0;
    }
    for (int i = 0; i < SAMPLES; i++) {
        const float a = in[3 * i], b = in[3 * i + 1], c = in[3 * i + 2], product = a * b;
        const float wanted[3] = {product + c, a / b, sqrtf(magnitude(c))};
        if (memcmp(wanted, out + 3 * i, sizeof wanted) != 0) {
            return 0;
        }
    }
    return 1;
}

/* ---- blocks ---- */

struct sample {
    float weights[WEIGHTS], decoded[WEIGHTS], wanted_decoded[WEIGHTS], importance[COLUMNS];
    uint8_t rows[4 * WEIGHTS], blocks[4 * WEIGHTS], wanted[4 * WEIGHTS], left[WEIGHTS];
};

static float mean_square(const float *row) {
    float sum = 0.0f;
    for (int i = 0; i < COLUMNS; i++) {
        sum += row[i] * row[i];
    }
    return sum / (float)COLUMNS;
}

/* Rows of that type, and the same as floats. */
static void make_rows(struct sample *sample, int32_t row_type) {
    uint64_t state = 2;
    for (int i = 0; i < WEIGHTS; i++) {
        sample->weights[i] = weight_like(&state);
    }
    for (int i = 0; i < COLUMNS; i++) {
        sample->importance[i] = i % 7 == 0 ? 0.0f : (float)next(&state) * 0x1p-30f;
    }
    quench_codec(&QUENCH_METAL_PROCESSOR, row_type).encode(sample->weights, NULL, 0.0f, sample->rows, WEIGHTS);
    quench_codec(&QUENCH_METAL_PROCESSOR, row_type).decode(sample->rows, sample->weights, WEIGHTS);
}

static int same_blocks(struct sample *sample, int32_t type, int32_t row_type, const float *importance) {
    const struct layout *layout = quench_layout(type);
    const struct codec codec = quench_codec(&QUENCH_METAL_PROCESSOR, type);
    const size_t n = WEIGHTS / (size_t)layout->weights, row_blocks = n / ROWS, size = n * (size_t)layout->bytes;
    const struct row_source source = {
        type, row_type, sample->rows, (row_type == QUENCH_F32 ? 4 : 2) * COLUMNS, ROWS, COLUMNS, importance};
    for (size_t row = 0; row < ROWS; row++) {
        const float *weights = sample->weights + row * COLUMNS;
        codec.encode(weights, importance, mean_square(weights),
                     sample->wanted + row * row_blocks * (size_t)layout->bytes, row_blocks);
    }
    memset(sample->left, 1, n);
    if (!quench_metal_encode(&source, 0, n, sample->blocks, sample->left)) {
        return 0;
    }
    size_t given = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t at = i * (size_t)layout->bytes;
        if (sample->left[i]) {
            memcpy(sample->blocks + at, sample->wanted + at, (size_t)layout->bytes);
        } else {
            given++;
        }
    }
    if (given * 8 < n * 7 || memcmp(sample->blocks, sample->wanted, size) != 0) {
        return 0;
    }
    codec.decode(sample->wanted, sample->wanted_decoded, n);
    return quench_metal_decode(type, sample->wanted, n, sample->decoded) &&
           memcmp(sample->decoded, sample->wanted_decoded, sizeof sample->decoded) == 0;
}

static int same_types(void) {
    static const int32_t row_types[] = {QUENCH_F32, QUENCH_F16, QUENCH_BF16};
    struct sample *sample = malloc(sizeof *sample);
    int same = sample != NULL;
    for (size_t row = 0; same && row < sizeof row_types / sizeof *row_types; row++) {
        make_rows(sample, row_types[row]);
        for (int32_t type = 0; same && type < QUENCH_TYPE_LIMIT; type++) {
            same = !quench_metal_knows(type) || (same_blocks(sample, type, row_types[row], NULL) &&
                                                 same_blocks(sample, type, row_types[row], sample->importance));
        }
    }
    free(sample);
    return same;
}

int quench_metal_probe(void) {
    return same_arithmetic() && same_types();
}
