/* Quantizes recorded rows with error feedback and polishes them, for memory checkers and for processors that are only
 * emulated here.
 *
 * stdin: records of {int32 type, n_rows, n_cols, reserved; double scales[n_cols]; float importance[n_cols],
 * factor[n_cols * n_cols], covariance[n_cols * n_cols], rows[n_rows * n_cols]}. stdout: for each record blocks, squared
 * and feedback errors. Exit status 1 on any refusal. */
#include <stdio.h>
#include <stdlib.h>

#include "quench_kernels.h"

static void *space(size_t size) {
    void *bytes = malloc(size);
    if (!bytes) {
        exit(1);
    }
    return bytes;
}

static void *read_bytes(size_t size) {
    void *bytes = space(size);
    if (fread(bytes, 1, size, stdin) != size) {
        exit(1);
    }
    return bytes;
}

static void replay(int32_t type, int32_t n_rows, int32_t n_cols) {
    const size_t rows = (size_t)n_rows, columns = (size_t)n_cols, factor_size = columns * columns * sizeof(float);
    const size_t work_size = rows * columns * sizeof(float);
    int32_t weights, bytes;
    if (quench_block(type, &weights, &bytes) != QUENCH_OK) {
        exit(1);
    }
    const size_t blocks_size = rows * (columns / (size_t)weights) * (size_t)bytes;
    double *scales = read_bytes(columns * sizeof *scales), *squared = space(rows * sizeof *squared);
    double *fed = space(rows * sizeof *fed);
    float *importance = read_bytes(columns * sizeof *importance), *factor = read_bytes(factor_size);
    const size_t space_size = 64 * columns * sizeof(float);
    float *covariance = read_bytes(factor_size), *spare = space(space_size);
    float *x = read_bytes(work_size), *work = space(work_size);
    void *blocks = space(blocks_size);
    if (quench_feedback(0, type, QUENCH_F32, x, 4 * (int64_t)n_cols, n_rows, n_cols, importance, factor, factor_size,
                        scales, work, work_size, blocks, blocks_size, squared, fed, NULL) != QUENCH_OK ||
        quench_polish(0, type, QUENCH_F32, x, 4 * (int64_t)n_cols, n_rows, n_cols, covariance, factor_size, 3, spare,
                      space_size, blocks, blocks_size, squared, fed) != QUENCH_OK) {
        exit(1);
    }
    fwrite(blocks, 1, blocks_size, stdout);
    fwrite(squared, sizeof *squared, rows, stdout);
    fwrite(fed, sizeof *fed, rows, stdout);
    free(scales), free(squared), free(fed), free(importance), free(factor), free(x), free(work), free(blocks);
    free(covariance), free(spare);
}

int main(void) {
    int32_t head[4];
    while (fread(head, sizeof head, 1, stdin) == 1) {
        replay(head[0], head[1], head[2]);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
