/* quench_energy: what an error of rows is measured against. */
#include <stdint.h>
#include <string.h>

#include "backend.h"
#include "numeric.h"

static const float zeros[TILE];

/* n weights of a row from `start` on as floats: widened into `tile`, or copied there if they lie at an odd address. */
static const float *widened(const struct backend *backend, int32_t row_type, const uint8_t *row, int64_t start,
                            size_t n, float *tile) {
    if (row_type != QUENCH_F32) {
        quench_codec(backend, row_type).decode(row + 2 * start, tile, n);
        return tile;
    }
    row += 4 * start;
    if ((uintptr_t)row % sizeof(float) == 0) {
        return (const float *)(const void *)row;
    }
    memcpy(tile, row, n * sizeof *tile);
    return tile;
}

static double energy_of(const struct backend *backend, int32_t row_type, const uint8_t *row, int64_t n_cols,
                        const float *importance) {
    float tile[TILE];
    double plain[8] = {0.0}, weighted[8] = {0.0};
    distance_fn *distance = backend->distance ? backend->distance : quench_reference.distance;
    for (int64_t start = 0; start < n_cols; start += TILE) {
        const size_t n = n_cols - start < TILE ? (size_t)(n_cols - start) : TILE;
        const float *weights = widened(backend, row_type, row, start, n, tile);
        distance(weights, zeros, importance ? importance + start : NULL, n, plain, weighted);
    }
    const double *sum = importance ? weighted : plain;
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

int32_t quench_energy(int32_t backend_index, int32_t row_type, const void *rows, int64_t row_stride, int64_t n_rows,
                      int64_t n_cols, const float *importance, double *energy) {
    const struct backend *backend = quench_backend_at(backend_index);
    if (!backend) {
        return QUENCH_BAD_BACKEND;
    }
    if (row_type != QUENCH_F32 && row_type != QUENCH_F16 && row_type != QUENCH_BF16) {
        return QUENCH_BAD_TYPE;
    }
    if (n_rows < 0 || n_cols < 0) {
        return QUENCH_BAD_SHAPE;
    }
    if (!rows || !energy) {
        return QUENCH_BAD_BUFFER;
    }
    uint64_t saved = quench_enter_ieee();
    for (int64_t row = 0; row < n_rows; row++) {
        energy[row] = energy_of(backend, row_type, (const uint8_t *)rows + row * row_stride, n_cols, importance);
    }
    quench_leave_ieee(saved);
    return QUENCH_OK;
}
