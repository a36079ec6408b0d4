/* The GPU of Apple silicon. Large calls run there, one after the other; everything else, and every block that a shader
 * leaves alone, is NEON's. The memory is the same for both, so weights are read where they lie.
 *
 * Nothing is believed: at first use the device has to give the processor's results (probe.c). */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metal.h"

/* Below these numbers of weights the processor is done before the device has begun. Estimates, not measured. */
#if !defined(QUENCH_METAL_LEAST_ENCODED)
#  define QUENCH_METAL_LEAST_ENCODED 16384
#  define QUENCH_METAL_LEAST_DECODED 1048576
#endif

#define KERNEL(name, blocks) {"encode_" name, "decode_" name, blocks}

static const struct {
    const char *encode, *decode;
    uint32_t blocks; /* that a threadgroup encodes */
} kernels[QUENCH_TYPE_LIMIT] = {
    [QUENCH_Q2_K] = KERNEL("q2_k", 2),      [QUENCH_Q3_K] = KERNEL("q3_k", 2),
    [QUENCH_Q4_K] = KERNEL("q4_k", 4),      [QUENCH_Q5_K] = KERNEL("q5_k", 4),
    [QUENCH_Q6_K] = KERNEL("q6_k", 2),      [QUENCH_Q4_0] = KERNEL("q4_0", 32),
    [QUENCH_Q4_1] = KERNEL("q4_1", 32),     [QUENCH_Q5_0] = KERNEL("q5_0", 32),
    [QUENCH_Q5_1] = KERNEL("q5_1", 32),     [QUENCH_Q8_0] = KERNEL("q8_0", 32),
    [QUENCH_IQ4_NL] = KERNEL("iq4_nl", 32), [QUENCH_IQ4_XS] = KERNEL("iq4_xs", 4),
};

int quench_metal_knows(int32_t type) {
    return kernels[type].encode != NULL;
}

static uint32_t groups_of(uint64_t count, uint32_t threads) {
    return (uint32_t)((count + threads - 1) / threads);
}

static int aligned(const void *address, size_t size) {
    return (uintptr_t)address % size == 0;
}

/* ---- calls ---- */

/* What a shader can index: 32 bits, rows upwards, elements at their alignment. */
static int addressable(const struct row_source *source, size_t n, int64_t row_blocks) {
    const size_t size = source->row_type == QUENCH_F32 ? 4 : 2;
    return source->n_cols <= INT32_MAX && n <= INT32_MAX && row_blocks + (int64_t)n <= INT32_MAX &&
           source->row_stride >= 0 && (size_t)source->row_stride % size == 0 && aligned(source->rows, size) &&
           (!source->importance || aligned(source->importance, sizeof(float)));
}

static int sum_rows(const struct metal_job *encoding, struct metal_span rows, int64_t n_rows, float *energies) {
    struct metal_job job = *encoding;
    job.count = (uint32_t)n_rows;
    const struct metal_span spans[] = {rows, {energies, (size_t)n_rows * sizeof *energies, METAL_FILLED}};
    return quench_metal_run("row_energies", &job, spans, 2, groups_of(job.count, QUENCH_METAL_FLAT_THREADS),
                            QUENCH_METAL_FLAT_THREADS);
}

int quench_metal_encode(const struct row_source *source, int64_t first, size_t n, uint8_t *blocks, uint8_t *left) {
    const struct layout *layout = quench_layout(source->type);
    const int64_t row_blocks = source->n_cols / layout->weights;
    if (n == 0 || !quench_metal_knows(source->type) || !addressable(source, n, row_blocks)) {
        return 0;
    }
    const int64_t row = first / row_blocks, n_rows = (first % row_blocks + (int64_t)n + row_blocks - 1) / row_blocks;
    const size_t row_bytes = (size_t)source->n_cols * (source->row_type == QUENCH_F32 ? 4 : 2);
    const struct metal_job job = {
        .row_stride = (uint64_t)source->row_stride,
        .row_blocks = (uint32_t)row_blocks,
        .first_block = (uint32_t)(first % row_blocks),
        .count = (uint32_t)n,
        .row_type = (uint32_t)source->row_type,
        .row_weights = (uint32_t)source->n_cols,
        .has_importance = source->importance != NULL,
    };
    const struct metal_span rows = {source->rows + row * source->row_stride,
                                    (size_t)(n_rows - 1) * (size_t)source->row_stride + row_bytes, METAL_READ};
    float *energies = NULL;
    int ran = 1;
    if (layout->row_energy && source->importance) {
        energies = malloc((size_t)n_rows * sizeof *energies);
        ran = energies && sum_rows(&job, rows, n_rows, energies);
    }
    if (ran) {
        /* A buffer that is not read has to be bound to something all the same. */
        const struct metal_span nothing = {&job, sizeof job, METAL_READ};
        const struct metal_span spans[] = {
            rows,
            source->importance
                ? (struct metal_span){source->importance, (size_t)source->n_cols * sizeof(float), METAL_READ}
                : nothing,
            energies ? (struct metal_span){energies, (size_t)n_rows * sizeof *energies, METAL_READ} : nothing,
            {blocks, n * (size_t)layout->bytes, METAL_CHANGED},
            {left, n, METAL_FILLED},
        };
        ran = quench_metal_run(kernels[source->type].encode, &job, spans, 5,
                               groups_of(n, kernels[source->type].blocks), QUENCH_METAL_ENCODE_THREADS);
    }
    free(energies);
    return ran;
}

int quench_metal_decode(int32_t type, const uint8_t *blocks, size_t n, float *weights) {
    const struct layout *layout = quench_layout(type);
    if (n == 0 || !quench_metal_knows(type)) {
        return 0;
    }
    /* In runs of 64 MiB of floats, which the device holds a copy of. */
    const size_t most = ((size_t)1 << 24) / (size_t)layout->weights;
    for (size_t done = 0, run; done < n; done += run) {
        run = n - done < most ? n - done : most;
        const struct metal_job job = {.count = (uint32_t)(run * (size_t)layout->weights)};
        const struct metal_span spans[] = {
            {blocks + done * (size_t)layout->bytes, run * (size_t)layout->bytes, METAL_READ},
            {weights + done * (size_t)layout->weights, job.count * sizeof *weights, METAL_FILLED},
        };
        if (!quench_metal_run(kernels[type].decode, &job, spans, 2, groups_of(job.count, QUENCH_METAL_FLAT_THREADS),
                              QUENCH_METAL_FLAT_THREADS)) {
            return 0;
        }
    }
    return 1;
}

/* ---- trust ---- */

static pthread_once_t looked = PTHREAD_ONCE_INIT, probed = PTHREAD_ONCE_INIT;
static int present, trusted;
static char device_name[128], note[256];

static void probe(void) {
    const uint64_t saved = quench_enter_ieee();
    trusted = quench_metal_probe();
    quench_leave_ieee(saved);
    if (!trusted) {
        snprintf(note, sizeof note, "The Metal device %s does not give this library's bytes: using %s.", device_name,
                 QUENCH_METAL_PROCESSOR.name);
    }
}

static int is_trusted(void) {
    pthread_once(&probed, probe);
    return trusted;
}

static int encode_ahead(const struct row_source *source, int64_t first, size_t n, uint8_t *blocks, uint8_t *left) {
    return n * (size_t)quench_layout(source->type)->weights >= QUENCH_METAL_LEAST_ENCODED &&
           quench_metal_knows(source->type) && is_trusted() && quench_metal_encode(source, first, n, blocks, left);
}

static int decode_ahead(int32_t type, const uint8_t *blocks, size_t n, float *weights) {
    return n * (size_t)quench_layout(type)->weights >= QUENCH_METAL_LEAST_DECODED && quench_metal_knows(type) &&
           is_trusted() && quench_metal_decode(type, blocks, n, weights);
}

/* ---- the table ---- */

/* The processor's own with the device's two entries: what NEON learns, Metal has. */
static struct backend table;

static void look(void) {
    present = quench_metal_device(device_name, sizeof device_name);
    table = QUENCH_METAL_PROCESSOR;
    table.name = quench_metal.name;
    table.encode_ahead = encode_ahead;
    table.decode_ahead = decode_ahead;
    if (!present) {
        snprintf(note, sizeof note, "No Metal device: using %s.", QUENCH_METAL_PROCESSOR.name);
    }
}

static const struct backend *find(void) {
    pthread_once(&looked, look);
    return present ? &table : NULL;
}

const char *quench_metal_note(void) {
    return find() && is_trusted() ? NULL : note;
}

const struct backend quench_metal = {.name = "metal", .find = find};
