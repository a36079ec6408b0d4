/* Arbitrary bytes as blocks of every type, decoded by every backend: the reference's floats, and never a step outside.
 *
 * Input: type, rows, mode, then either the blocks or (mode odd) lies about the shape, which must be refused unless they
 * happen to be true. */
#include "fuzz.h"

static void decode_lies(struct input input, struct type type) {
    const int64_t n_rows = take64(&input), n_cols = take64(&input);
    const size_t out_size = 4 * (size_t)(take(&input) + 1);
    uint8_t *blocks = exactly(input.size);
    float *values = exactly(out_size);
    memcpy(blocks, input.data, input.size);
    for (int32_t backend = -1; backend <= reference_index() + 1; backend++) {
        int32_t status =
            quench_dequantize(backend, type.number, blocks, input.size, n_rows, n_cols, values, out_size);
        if (status == QUENCH_OK && (uint64_t)n_rows * (uint64_t)n_cols * 4 != out_size) {
            abort();
        }
    }
    free(blocks);
    free(values);
}

static void decode_blocks(struct input input, struct type type, size_t n_rows) {
    const size_t n_blocks = input.size / (size_t)type.bytes / n_rows;
    if (n_blocks == 0) {
        return;
    }
    const int64_t n_cols = (int64_t)n_blocks * type.weights;
    const size_t size = n_rows * n_blocks * (size_t)type.bytes, count = n_rows * (size_t)n_cols;
    uint8_t *blocks = exactly(size);
    float *wanted = exactly(4 * count), *found = exactly(4 * count);
    memcpy(blocks, input.data, size);
    const int32_t reference = reference_index();
    for (int32_t backend = reference; backend >= 0; backend--) {
        float *out = backend == reference ? wanted : found;
        if (quench_dequantize(backend, type.number, blocks, size, (int64_t)n_rows, n_cols, out, 4 * count) !=
            QUENCH_OK) {
            abort();
        }
        for (size_t i = 0; i < count && backend < reference; i++) {
            /* Any NaN is as good as another. */
            if (memcmp(found + i, wanted + i, 4) != 0 && !(found[i] != found[i] && wanted[i] != wanted[i])) {
                differ("a decoded weight", type.number, backend, i);
            }
        }
    }
    free(blocks);
    free(wanted);
    free(found);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    const struct type type = type_at(take(&input));
    const size_t n_rows = 1 + take(&input) % 8;
    if (take(&input) % 2) {
        decode_lies(input, type);
    } else {
        decode_blocks(input, type, n_rows);
    }
    return 0;
}
