/* quench_feedback: a panel of columns after the other. Its blocks are encoded as quench_quantize would, from weights
 * that were corrected by the misses so far; their scales stay, and codes are rounded anew, column by column. */
#include <stdint.h>
#include <string.h>

#include "backend.h"
#include "blocks.h"
#include "codes.h"
#include "feedback.h"

enum { MOST_BYTES = 8 * sizeof(struct block_q8_0) };

_Static_assert(FEEDBACK_ROWS * FEEDBACK_PANEL == TILE, "a batch of rows is what encoders take at once");
_Static_assert(sizeof(struct block_q6_k) <= MOST_BYTES, "Q8_0 is the largest");

struct job {
    const struct backend *backend;
    const struct layout *layout;
    struct codec codec;
    settle_fn *settle;
    carry_fn *carry;
    struct source source;
    int32_t type;
    int64_t n_rows, n_cols;
    const float *importance, *factor;
    const double *scales;
    float *work; /* corrected weights, and misses of the columns that are done */
    uint8_t *blocks;
    size_t row_bytes;
    double *squared_error, *feedback_error;
};

/* A batch of rows in a panel: FEEDBACK_PANEL floats a row, whatever the panel's width. */
struct batch {
    int64_t row, column;
    size_t n_rows, width;
    float x[TILE];
    uint8_t codes[TILE], blocks[FEEDBACK_ROWS * MOST_BYTES];
};

static int32_t refuse(int32_t status, quench_report *report, int64_t row, int64_t column) {
    report->row = row;
    report->column = column;
    return status;
}

static size_t at_most(size_t n, int64_t limit) {
    return (int64_t)n < limit ? n : (size_t)limit;
}

/* ---- one block of columns ---- */

static int32_t check_finite(const struct job *job, const struct batch *batch, size_t from, size_t n,
                            quench_report *report) {
    largest_fn *largest = job->backend->largest ? job->backend->largest : quench_reference.largest;
    for (size_t row = 0; row < batch->n_rows; row++) {
        const float *x = batch->x + row * FEEDBACK_PANEL + from;
        if (largest(x, n) < 0x7f800000u) {
            continue;
        }
        size_t i = 0;
        while (is_finite(x[i])) {
            i++;
        }
        return refuse(QUENCH_NOT_FINITE, report, batch->row + (int64_t)row, batch->column + (int64_t)(from + i));
    }
    return QUENCH_OK;
}

/* The blocks of n columns from `from` on, one a row, into batch->blocks. */
static void encode(const struct job *job, struct batch *batch, size_t from, size_t n) {
    const size_t size = (size_t)job->layout->bytes;
    const float *importance = job->importance + batch->column + from;
    if (job->layout->row_energy) {
        for (size_t row = 0; row < batch->n_rows; row++) {
            job->codec.encode(batch->x + row * FEEDBACK_PANEL + from, importance,
                              (float)job->squared_error[batch->row + (int64_t)row], batch->blocks + row * size, 1);
        }
        return;
    }
    float x[TILE], repeated[TILE];
    for (size_t row = 0; row < batch->n_rows; row++) {
        memcpy(x + row * n, batch->x + row * FEEDBACK_PANEL + from, n * sizeof *x);
        memcpy(repeated + row * n, importance, n * sizeof *repeated);
    }
    job->codec.encode(x, repeated, 0.0f, batch->blocks, batch->n_rows);
}

/* Codes that the encoder chose, for groups of step 0, where all codes mean the same. */
static void keep_codes(const struct job *job, struct batch *batch, size_t row, size_t from, size_t n,
                       const float *steps) {
    uint8_t codes[SUPER_BLOCK];
    const size_t group = (size_t)quench_code_group(job->type);
    quench_unpack_codes(job->type, batch->blocks + row * (size_t)job->layout->bytes, n, codes);
    for (size_t i = 0; i < n; i++) {
        if (steps[i / group] == 0.0f) {
            batch->codes[row * FEEDBACK_PANEL + from + i] = (uint8_t)(codes[i] - quench_code_half(job->type));
        }
    }
}

static void settle_block(const struct job *job, struct batch *batch, size_t from, size_t n,
                         float (*steps)[CODE_GROUPS], float (*lows)[CODE_GROUPS]) {
    const size_t group = (size_t)quench_code_group(job->type), stride = (size_t)job->n_cols;
    struct feedback_grid grid = {.group = (int)group, .least = quench_code_least(job->type), .most = (float)quench_code_most(job->type)};
    for (size_t at = from; at < from + n; at += FEEDBACK_COLUMNS) {
        const size_t column = (size_t)batch->column + at, behind = at + FEEDBACK_COLUMNS;
        const float *factor = job->factor + column * stride + column;
        for (size_t i = 0; i < FEEDBACK_COLUMNS / group; i++) {
            for (size_t row = 0; row < batch->n_rows; row++) {
                grid.step[i][row] = steps[row][(at - from) / group + i];
                grid.low[i][row] = lows[row][(at - from) / group + i];
            }
        }
        const struct feedback_strip strip = {.x = batch->x + at,
                                             .codes = batch->codes + at,
                                             .n_rows = batch->n_rows,
                                             .factor = factor,
                                             .factor_stride = stride,
                                             .scales = job->scales + column,
                                             .sums = job->feedback_error + batch->row};
        job->settle(&grid, &strip);
        job->carry(batch->x + at, FEEDBACK_PANEL, factor + FEEDBACK_COLUMNS, stride, FEEDBACK_COLUMNS,
                   batch->x + behind, FEEDBACK_PANEL, batch->n_rows, batch->width - behind);
    }
}

static void store_blocks(const struct job *job, struct batch *batch, size_t from, size_t n,
                         float (*steps)[CODE_GROUPS]) {
    const size_t size = (size_t)job->layout->bytes, groups = n / (size_t)quench_code_group(job->type);
    const int half = quench_code_half(job->type);
    const size_t place = ((size_t)batch->column + from) / n * size;
    for (size_t row = 0; row < batch->n_rows; row++) {
        uint8_t *block = batch->blocks + row * size, *codes = batch->codes + row * FEEDBACK_PANEL + from;
        size_t flat = 0;
        while (flat < groups && steps[row][flat] != 0.0f) {
            flat++;
        }
        if (flat < groups) {
            keep_codes(job, batch, row, from, n, steps[row]);
        }
        for (size_t i = 0; i < n; i++) {
            codes[i] = (uint8_t)(codes[i] + half);
        }
        quench_pack_codes(job->type, codes, block);
        memcpy(job->blocks + (size_t)(batch->row + (int64_t)row) * job->row_bytes + place, block, size);
    }
}

static int32_t one_block(const struct job *job, struct batch *batch, size_t from, quench_report *report) {
    const size_t n = (size_t)job->layout->weights, groups = n / (size_t)quench_code_group(job->type);
    float steps[FEEDBACK_ROWS][CODE_GROUPS], lows[FEEDBACK_ROWS][CODE_GROUPS];
    const int32_t status = check_finite(job, batch, from, n, report);
    if (status != QUENCH_OK) {
        return status;
    }
    encode(job, batch, from, n);
    for (size_t row = 0; row < batch->n_rows; row++) {
        quench_read_scales(job->type, batch->blocks + row * (size_t)job->layout->bytes, steps[row], lows[row]);
        for (size_t i = 0; i < groups; i++) {
            if (!is_finite(steps[row][i]) || !is_finite(lows[row][i])) {
                return refuse(QUENCH_OVERFLOW, report, batch->row + (int64_t)row, batch->column + (int64_t)from);
            }
        }
    }
    settle_block(job, batch, from, n, steps, lows);
    store_blocks(job, batch, from, n, steps);
    return QUENCH_OK;
}

/* ---- the walk ---- */

static int32_t one_batch(const struct job *job, struct batch *batch, quench_report *report) {
    for (size_t row = 0; row < batch->n_rows; row++) {
        memcpy(batch->x + row * FEEDBACK_PANEL,
               job->work + (batch->row + (int64_t)row) * job->n_cols + batch->column, batch->width * sizeof(float));
    }
    for (size_t from = 0; from < batch->width; from += (size_t)job->layout->weights) {
        const int32_t status = one_block(job, batch, from, report);
        if (status != QUENCH_OK) {
            return status;
        }
    }
    for (size_t row = 0; row < batch->n_rows; row++) {
        memcpy(job->work + (batch->row + (int64_t)row) * job->n_cols + batch->column,
               batch->x + row * FEEDBACK_PANEL, batch->width * sizeof(float));
    }
    return QUENCH_OK;
}

/* Weights of all rows where their misses will be; and the mean square of each, for the types that need it. */
static void begin(const struct job *job) {
    for (int64_t row = 0; row < job->n_rows; row++) {
        float *x = job->work + row * job->n_cols, sum = 0.0f;
        quench_widen(&job->source, row, 0, (size_t)job->n_cols, x);
        for (int64_t i = 0; job->layout->row_energy && i < job->n_cols; i++) {
            sum += x[i] * x[i];
        }
        job->squared_error[row] = sum / (float)job->n_cols;
        job->feedback_error[row] = 0.0;
    }
}

/* What the blocks miss of the weights themselves. */
static void finish(const struct job *job) {
    float weights[TILE], decoded[TILE];
    distance_fn *distance = job->backend->distance ? job->backend->distance : quench_reference.distance;
    const size_t per_block = (size_t)job->layout->weights;
    for (int64_t row = 0; row < job->n_rows; row++) {
        double sums[8] = {0.0};
        const uint8_t *block = job->blocks + (size_t)row * job->row_bytes;
        for (int64_t start = 0; start < job->n_cols; start += TILE) {
            const size_t n = at_most(TILE, job->n_cols - start), n_blocks = n / per_block;
            quench_widen(&job->source, row, start, n, weights);
            job->codec.decode(block, decoded, n_blocks);
            distance(weights, decoded, NULL, n, sums, NULL);
            block += n_blocks * (size_t)job->layout->bytes;
        }
        job->squared_error[row] =
            ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
    }
}

static int32_t feed(const struct job *job, quench_report *report) {
    struct batch batch;
    const size_t stride = (size_t)job->n_cols;
    begin(job);
    for (int64_t column = 0; column < job->n_cols; column += FEEDBACK_PANEL) {
        batch.column = column;
        batch.width = at_most(FEEDBACK_PANEL, job->n_cols - column);
        for (batch.row = 0; batch.row < job->n_rows; batch.row += FEEDBACK_ROWS) {
            batch.n_rows = at_most(FEEDBACK_ROWS, job->n_rows - batch.row);
            const int32_t status = one_batch(job, &batch, report);
            if (status != QUENCH_OK) {
                return status;
            }
        }
        const size_t behind = (size_t)column + batch.width;
        job->carry(job->work + column, stride, job->factor + (size_t)column * stride + behind, stride, batch.width,
                   job->work + behind, stride, (size_t)job->n_rows, stride - behind);
    }
    finish(job);
    return QUENCH_OK;
}

int32_t quench_feedback(int32_t backend_index, int32_t type, int32_t row_type, const void *rows, int64_t row_stride,
                        int64_t n_rows, int64_t n_cols, const float *importance, const float *factor,
                        size_t factor_size, const double *scales, float *work, size_t work_size, void *blocks,
                        size_t blocks_size, double *squared_error, double *feedback_error, quench_report *report) {
    const struct backend *backend = quench_backend_at(backend_index);
    const struct layout *layout = quench_layout(type);
    quench_report unused;
    size_t row_bytes = 0;
    report = report ? report : &unused;
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
    if (!rows || !blocks || blocks_size != row_bytes * (size_t)n_rows || !importance || !scales || !factor ||
        !work || !squared_error || !feedback_error || factor_size / sizeof *factor / columns != columns ||
        factor_size % (columns * sizeof *factor) || (uintptr_t)factor % sizeof *factor ||
        (uintptr_t)work % sizeof *work || work_size != (size_t)n_rows * columns * sizeof *work) {
        return QUENCH_BAD_BUFFER;
    }
    for (int64_t i = 0; i < n_cols; i++) {
        if (!(importance[i] >= 0.0f) || !is_finite(importance[i])) {
            return refuse(QUENCH_BAD_IMPORTANCE, report, 0, i);
        }
    }
    const struct feedback_kernels *fast = &backend->feedback, *plain = &quench_reference.feedback;
    const struct job job = {.backend = backend,
                            .layout = layout,
                            .codec = quench_codec(backend, type),
                            .settle = fast->settle ? fast->settle : plain->settle,
                            .carry = fast->carry ? fast->carry : plain->carry,
                            .type = type,
                            .source = {backend, row_type, rows, row_stride},
                            .n_rows = n_rows,
                            .n_cols = n_cols,
                            .importance = importance,
                            .factor = factor,
                            .scales = scales,
                            .work = work,
                            .blocks = blocks,
                            .row_bytes = row_bytes,
                            .squared_error = squared_error,
                            .feedback_error = feedback_error};
    uint64_t saved = quench_enter_ieee();
    int32_t status = feed(&job, report);
    quench_leave_ieee(saved);
    return status;
}
