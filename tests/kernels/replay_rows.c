/* Scores and compares recorded rows of logits, for processors that are only emulated here.
 *
 * stdin: records of {int32 n_rows, int32 n_cols, int32 targets[n_rows], float reference[], float candidate[]}.
 * stdout: for each record, scores of the reference, its seven largest columns (as many as there are), the divergences,
 * and the candidate's log-probabilities. Exit status 1 on any refusal. */
#include <stdio.h>
#include <stdlib.h>

#include "quench_kernels.h"

static void *read_numbers(size_t count) {
    void *numbers = malloc(count * 4);
    if (!numbers || fread(numbers, 4, count, stdin) != count) {
        exit(1);
    }
    return numbers;
}

static void *space(size_t size) {
    void *bytes = malloc(size);
    if (!bytes) {
        exit(1);
    }
    return bytes;
}

static void replay(int32_t n_rows, int32_t n_cols) {
    const size_t rows = (size_t)n_rows, count = rows * (size_t)n_cols;
    const int32_t k = n_cols < 7 ? n_cols : 7;
    const size_t top_size = rows * (size_t)k * sizeof(int32_t);
    int32_t *targets = read_numbers(rows), *top = space(top_size);
    float *reference = read_numbers(count), *candidate = read_numbers(count);
    quench_row_score *scores = space(rows * sizeof *scores), *unused = space(rows * sizeof *unused);
    quench_row_divergence *divergences = space(rows * sizeof *divergences);
    const int64_t stride = 4 * (int64_t)n_cols;
    if (quench_score_rows(0, reference, stride, n_rows, n_cols, targets, k, scores, rows * sizeof *scores, top,
                          top_size, NULL, 0, NULL) != QUENCH_OK ||
        quench_compare_rows(0, reference, stride, candidate, stride, n_rows, n_cols, targets, k, divergences,
                            rows * sizeof *divergences, NULL) != QUENCH_OK) {
        exit(1);
    }
    fwrite(scores, sizeof *scores, rows, stdout);
    fwrite(top, 1, top_size, stdout);
    if (quench_score_rows(0, candidate, stride, n_rows, n_cols, NULL, k, unused, rows * sizeof *unused, top, top_size,
                          candidate, count * sizeof *candidate, NULL) != QUENCH_OK) {
        exit(1);
    }
    fwrite(divergences, sizeof *divergences, rows, stdout);
    fwrite(candidate, sizeof *candidate, count, stdout);
    free(targets), free(top), free(reference), free(candidate), free(scores), free(unused), free(divergences);
}

int main(void) {
    int32_t shape[2];
    while (fread(shape, sizeof shape, 1, stdin) == 1) {
        replay(shape[0], shape[1]);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
