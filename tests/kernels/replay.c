/* Runs recorded calls through every backend of the library, for processors and tools that Python does not run on.
 *
 * stdin: records of {struct record, float importance[n_cols] if there is one, uint8 data[data_bytes]}.
 * stdout: how many backends there are (int32) and their names (16 bytes each); then for each record and backend a
 * struct answer, and if the status is 0 what the call wrote: for quantize blocks, squared and weighted errors of the
 * rows, for dequantize floats, for dot one float a row; data of dot is x, then blocks. Every buffer is of exactly the
 * size that the call needs, so that a memory checker sees a step over its end. Exit status 1 for a record that is not
 * understood. */
#define _POSIX_C_SOURCE 200112L /* posix_memalign */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quench_kernels.h"

enum { QUANTIZE = 0, DEQUANTIZE = 1, DOT = 2 };

struct record {
    int32_t operation, type, row_type;
    uint32_t flags;
    int32_t has_importance;
    int32_t shift; /* bytes between an aligned address and the data */
    int64_t row_stride, n_rows, n_cols, data_bytes;
};

struct answer {
    int32_t status, unused;
    int64_t row, column;
};

static void *allocate(size_t size) {
    void *memory = malloc(size);
    if (!memory) {
        exit(1);
    }
    return memory;
}

static void *read_bytes(size_t count, size_t shift) {
    uint8_t *bytes = allocate(count + shift);
    if (fread(bytes + shift, 1, count, stdin) != count) {
        exit(1);
    }
    return bytes;
}

static void quantize(const struct record *record, int32_t backend, const uint8_t *data, const float *importance,
                     size_t blocks_size) {
    /* Rows may lie backwards: then the first is the last in memory. */
    const uint8_t *rows = record->row_stride < 0 ? data - (record->n_rows - 1) * record->row_stride : data;
    const size_t n_rows = (size_t)record->n_rows;
    uint8_t *blocks = allocate(blocks_size);
    double *plain = allocate(n_rows * sizeof *plain), *weighted = allocate(n_rows * sizeof *weighted);
    quench_report report = {-1, -1};
    struct answer answer = {0};
    answer.status = quench_quantize(backend, record->type, record->row_type, rows, record->row_stride, record->n_rows,
                                    record->n_cols, importance, record->flags, blocks, blocks_size, plain, weighted,
                                    &report);
    answer.row = report.row;
    answer.column = report.column;
    fwrite(&answer, sizeof answer, 1, stdout);
    if (answer.status == QUENCH_OK) {
        fwrite(blocks, 1, blocks_size, stdout);
        fwrite(plain, sizeof *plain, n_rows, stdout);
        fwrite(weighted, sizeof *weighted, n_rows, stdout);
    }
    free(blocks);
    free(plain);
    free(weighted);
}

static void dequantize(const struct record *record, int32_t backend, const uint8_t *data) {
    const size_t count = (size_t)(record->n_rows * record->n_cols);
    float *values = allocate(count * sizeof *values);
    struct answer answer = {0, 0, -1, -1};
    answer.status = quench_dequantize(backend, record->type, data, (size_t)record->data_bytes, record->n_rows,
                                      record->n_cols, values, count * sizeof *values);
    fwrite(&answer, sizeof answer, 1, stdout);
    if (answer.status == QUENCH_OK) {
        fwrite(values, sizeof *values, count, stdout);
    }
    free(values);
}

static void dot(const struct record *record, int32_t backend, const uint8_t *data) {
    const size_t x_size = (size_t)record->n_cols * sizeof(float), out_size = (size_t)record->n_rows * sizeof(float);
    float *x = allocate(x_size), *out = allocate(out_size);
    void *prepared = NULL;
    size_t size = 0;
    quench_report report = {-1, -1};
    struct answer answer = {0, 0, -1, -1};
    memcpy(x, data, x_size);
    answer.status = quench_activations_size(record->type, record->n_cols, &size);
    if (answer.status == QUENCH_OK && posix_memalign(&prepared, 64, size) != 0) {
        exit(1);
    }
    if (answer.status == QUENCH_OK) {
        answer.status = quench_activations(backend, record->type, x, record->n_cols, prepared, size, &report);
    }
    if (answer.status == QUENCH_OK) {
        answer.status = quench_dot(backend, record->type, data + x_size, (size_t)record->data_bytes - x_size,
                                   record->n_rows, record->n_cols, prepared, size, out, out_size);
    }
    answer.row = report.row;
    answer.column = report.column;
    fwrite(&answer, sizeof answer, 1, stdout);
    if (answer.status == QUENCH_OK) {
        fwrite(out, 1, out_size, stdout);
    }
    free(prepared);
    free(out);
    free(x);
}

static void replay(const struct record *record) {
    int32_t weights = 0, bytes = 0;
    if (quench_block(record->type, &weights, &bytes) != QUENCH_OK) {
        exit(1);
    }
    const size_t blocks_size = (size_t)(record->n_rows * (record->n_cols / weights)) * (size_t)bytes;
    float *importance = record->has_importance ? read_bytes((size_t)record->n_cols * sizeof *importance, 0) : NULL;
    uint8_t *memory = read_bytes((size_t)record->data_bytes, (size_t)record->shift);
    for (int32_t backend = 0; quench_backend(backend); backend++) {
        if (record->operation == QUANTIZE) {
            quantize(record, backend, memory + record->shift, importance, blocks_size);
        } else if (record->operation == DOT) {
            dot(record, backend, memory + record->shift);
        } else {
            dequantize(record, backend, memory + record->shift);
        }
    }
    free(importance);
    free(memory);
}

int main(void) {
    int32_t count = 0;
    while (quench_backend(count)) {
        count++;
    }
    fwrite(&count, sizeof count, 1, stdout);
    for (int32_t i = 0; i < count; i++) {
        char name[16] = {0};
        strncpy(name, quench_backend(i), sizeof name - 1);
        fwrite(name, sizeof name, 1, stdout);
    }
    struct record record;
    while (fread(&record, sizeof record, 1, stdin) == 1) {
        replay(&record);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
