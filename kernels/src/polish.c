/* quench_polish: one code after the other to where the objective is least while all others stay. The scales stay. */
#include <stdint.h>

#include "backend.h"
#include "blocks.h"
#include "codes.h"
#include "feedback.h"

struct job {
    carry_fn *carry;
    decode_fn *decode;
    distance_fn *distance;
    struct source source;
    int32_t type, sweeps;
    size_t n_cols, per_block, block_bytes, row_bytes;
    const float *covariance;
    uint8_t *blocks;
};

/* A row: what its decoded weights are too large by, and that times the covariance. */
struct row {
    float *away, *slope;
    uint8_t *blocks;
};

/* The code at which the objective is least; the same where it cannot be told. */
static int32_t best_code(const struct job *job, int32_t code, float step, float slope, float curvature) {
    const float wish = (float)code - slope / (curvature * step);
    if (step == 0.0f || !(curvature > 0.0f) || !is_finite(wish)) {
        return code;
    }
    return (int32_t)feedback_code(wish, 1.0f, 0.0f, quench_code_least(job->type), (float)quench_code_most(job->type));
}

/* Whether a code of the block at `column` has changed. */
static int polish_block(const struct job *job, const struct row *row, size_t column, uint8_t *block) {
    float steps[CODE_GROUPS], lows[CODE_GROUPS];
    uint8_t codes[SUPER_BLOCK];
    const size_t group = (size_t)quench_code_group(job->type);
    const int half = quench_code_half(job->type);
    int changed = 0;
    quench_read_scales(job->type, block, steps, lows);
    quench_unpack_codes(job->type, block, job->per_block, codes);
    for (size_t i = 0; i < job->per_block; i++) {
        const float *across = job->covariance + (column + i) * job->n_cols;
        const int32_t code = (int8_t)(uint8_t)(codes[i] - half);
        const int32_t better = best_code(job, code, steps[i / group], row->slope[column + i], across[column + i]);
        if (better == code) {
            continue;
        }
        const float change = steps[i / group] * (float)(better - code);
        job->carry(&change, 1, across, job->n_cols, 1, row->slope, job->n_cols, 1, job->n_cols);
        row->away[column + i] += change;
        codes[i] = (uint8_t)(better + half);
        changed = 1;
    }
    if (changed) {
        quench_pack_codes(job->type, codes, block);
    }
    return changed;
}

static void polish_row(const struct job *job, const struct row *row) {
    for (int32_t sweep = 0, changed = 1; changed && sweep < job->sweeps; sweep++) {
        changed = 0;
        for (size_t column = 0; column < job->n_cols; column += job->per_block) {
            changed |= polish_block(job, row, column, row->blocks + column / job->per_block * job->block_bytes);
        }
    }
}

/* Fills in row->away; returns its sum of squares, in double from the start. */
static double look(const struct job *job, int64_t number, const struct row *row) {
    float weights[TILE];
    double sums[8] = {0.0};
    for (size_t start = 0; start < job->n_cols; start += TILE) {
        const size_t n = job->n_cols - start < TILE ? job->n_cols - start : TILE;
        quench_widen(&job->source, number, (int64_t)start, n, weights);
        job->decode(row->blocks + start / job->per_block * job->block_bytes, row->away + start, n / job->per_block);
        job->distance(weights, row->away + start, NULL, n, sums, NULL);
        for (size_t i = 0; i < n; i++) {
            row->away[start + i] -= weights[i];
        }
    }
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

static double product(const float *x, const float *y, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)y[i];
    }
    return sum;
}

/* At most FEEDBACK_ROWS rows, whose slopes are made together: each part of the covariance is read once for all. */
static void polish_rows(const struct job *job, int64_t first, size_t n_rows, float *work, double *squared_error,
                        double *feedback_error) {
    float *away = work, *slope = work + n_rows * job->n_cols;
    struct row rows[FEEDBACK_ROWS];
    for (size_t i = 0; i < n_rows; i++) {
        const size_t number = (size_t)first + i;
        rows[i] = (struct row){away + i * job->n_cols, slope + i * job->n_cols, job->blocks + number * job->row_bytes};
        (void)look(job, (int64_t)number, &rows[i]);
    }
    for (size_t i = 0; i < n_rows * job->n_cols; i++) {
        slope[i] = 0.0f;
    }
    for (size_t column = 0; column < job->n_cols; column += FEEDBACK_PANEL) {
        const size_t inner = job->n_cols - column < FEEDBACK_PANEL ? job->n_cols - column : FEEDBACK_PANEL;
        job->carry(away + column, job->n_cols, job->covariance + column * job->n_cols, job->n_cols, inner, slope,
                   job->n_cols, n_rows, job->n_cols);
    }
    for (size_t i = 0; i < n_rows; i++) {
        polish_row(job, &rows[i]);
        feedback_error[(size_t)first + i] = product(rows[i].away, rows[i].slope, job->n_cols);
        squared_error[(size_t)first + i] = look(job, first + (int64_t)i, &rows[i]);
    }
}

int32_t quench_polish(int32_t backend_index, int32_t type, int32_t row_type, const void *rows, int64_t row_stride,
                      int64_t n_rows, int64_t n_cols, const float *covariance, size_t covariance_size, int32_t sweeps,
                      float *work, size_t work_size, void *blocks, size_t blocks_size, double *squared_error,
                      double *feedback_error) {
    const struct backend *backend = quench_backend_at(backend_index);
    const struct layout *layout = quench_layout(type);
    size_t row_bytes = 0;
    if (!backend) {
        return QUENCH_BAD_BACKEND;
    }
    if (!layout || !quench_has_codes(type) || !quench_is_source(row_type)) {
        return QUENCH_BAD_TYPE;
    }
    if (!quench_row_size(layout, n_rows, n_cols, &row_bytes) || n_cols > INT32_MAX) {
        return QUENCH_BAD_SHAPE;
    }
    const size_t columns = (size_t)n_cols;
    if (!rows || !blocks || blocks_size != row_bytes * (size_t)n_rows || !covariance || !work || !squared_error ||
        !feedback_error || sweeps < 0 || covariance_size / sizeof *covariance / columns != columns ||
        covariance_size % (columns * sizeof *covariance) || (uintptr_t)covariance % sizeof *covariance ||
        (uintptr_t)work % sizeof *work || work_size / (2 * FEEDBACK_ROWS * sizeof *work) < columns) {
        return QUENCH_BAD_BUFFER;
    }
    const struct job job = {
        .carry = backend->feedback.carry ? backend->feedback.carry : quench_reference.feedback.carry,
        .decode = quench_codec(backend, type).decode,
        .distance = backend->distance ? backend->distance : quench_reference.distance,
        .source = {backend, row_type, rows, row_stride},
        .type = type,
        .sweeps = sweeps,
        .n_cols = columns,
        .per_block = (size_t)layout->weights,
        .block_bytes = (size_t)layout->bytes,
        .row_bytes = row_bytes,
        .covariance = covariance,
        .blocks = blocks,
    };
    const uint64_t saved = quench_enter_ieee();
    for (int64_t first = 0; first < n_rows; first += FEEDBACK_ROWS) {
        const size_t n = n_rows - first < FEEDBACK_ROWS ? (size_t)(n_rows - first) : FEEDBACK_ROWS;
        polish_rows(&job, first, n, work, squared_error, feedback_error);
    }
    quench_leave_ieee(saved);
    return QUENCH_OK;
}
