/* Runs recorded cases through the library, for processors that are only emulated here.
 *
 * stdin: records of {int32 type, int32 has_importance, int64 n_rows, int64 n_cols, float rows[], float importance[]}.
 * stdout: for each record its blocks, then the floats that they decode to. Exit status 1 on any refusal. */
#include <stdio.h>
#include <stdlib.h>

#include "quench_kernels.h"

struct record {
    int32_t type, has_importance;
    int64_t n_rows, n_cols;
};

static void *read_floats(size_t count) {
    float *floats = malloc(count * sizeof *floats);
    if (!floats || fread(floats, sizeof *floats, count, stdin) != count) {
        exit(1);
    }
    return floats;
}

static void replay(const struct record *record) {
    int32_t weights = 0, bytes = 0;
    const size_t count = (size_t)(record->n_rows * record->n_cols);
    if (quench_block(record->type, &weights, &bytes) != QUENCH_OK) {
        exit(1);
    }
    const size_t size = count / (size_t)weights * (size_t)bytes;
    float *rows = read_floats(count);
    float *importance = record->has_importance ? read_floats((size_t)record->n_cols) : NULL;
    void *blocks = malloc(size);
    quench_report report;
    if (!blocks || quench_quantize(0, record->type, QUENCH_F32, rows, 4 * record->n_cols, record->n_rows,
                                   record->n_cols, importance, QUENCH_ALLOW_NONFINITE, blocks, size, NULL,
                                   &report) != QUENCH_OK) {
        exit(1);
    }
    if (quench_dequantize(0, record->type, blocks, size, record->n_rows, record->n_cols, rows,
                          count * sizeof *rows) != QUENCH_OK) {
        exit(1);
    }
    fwrite(blocks, 1, size, stdout);
    fwrite(rows, sizeof *rows, count, stdout);
    free(blocks);
    free(importance);
    free(rows);
}

int main(void) {
    struct record record;
    while (fread(&record, sizeof record, 1, stdin) == 1) {
        replay(&record);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
