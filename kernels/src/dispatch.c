/* The C ABI: checks sizes, picks the codec, walks rows in tiles. */
#include <stdint.h>
#include <string.h>

#include "backend.h"
#include "blocks.h"
#include "numeric.h"

/* Best first. A backend beyond the processor's features is passed over. */
static const struct backend *const backends[] = {
    &quench_reference,
};

struct layout {
    int weights, bytes;
    int halves[2]; /* where the block's 16-bit floats are; -1 for none */
    int row_energy; /* with importance, the encoder needs the mean square of the whole row */
};

#define NO_HALVES {-1, -1}

static const struct layout layouts[QUENCH_TYPE_LIMIT] = {
    [QUENCH_F32] = {1, 4, NO_HALVES, 0},
    [QUENCH_F16] = {1, 2, {0, -1}, 0},
    [QUENCH_BF16] = {1, 2, NO_HALVES, 0},
    [QUENCH_Q4_0] = {BLOCK, sizeof(struct block_q4_0), {offsetof(struct block_q4_0, scale), -1}, 1},
    [QUENCH_Q4_1] = {BLOCK, sizeof(struct block_q4_1),
                     {offsetof(struct block_q4_1, scale), offsetof(struct block_q4_1, low)}, 1},
    [QUENCH_Q5_0] = {BLOCK, sizeof(struct block_q5_0), {offsetof(struct block_q5_0, scale), -1}, 1},
    [QUENCH_Q5_1] = {BLOCK, sizeof(struct block_q5_1),
                     {offsetof(struct block_q5_1, scale), offsetof(struct block_q5_1, low)}, 1},
    [QUENCH_Q8_0] = {BLOCK, sizeof(struct block_q8_0), {offsetof(struct block_q8_0, scale), -1}, 0},
    [QUENCH_IQ4_NL] = {BLOCK, sizeof(struct block_q4_0), {offsetof(struct block_q4_0, scale), -1}, 0},
    [QUENCH_Q2_K] = {SUPER_BLOCK, sizeof(struct block_q2_k),
                     {offsetof(struct block_q2_k, scale), offsetof(struct block_q2_k, low)}, 0},
    [QUENCH_Q3_K] = {SUPER_BLOCK, sizeof(struct block_q3_k), {offsetof(struct block_q3_k, scale), -1}, 0},
    [QUENCH_Q4_K] = {SUPER_BLOCK, sizeof(struct block_q4_k),
                     {offsetof(struct block_q4_k, scale), offsetof(struct block_q4_k, low)}, 0},
    [QUENCH_Q5_K] = {SUPER_BLOCK, sizeof(struct block_q5_k),
                     {offsetof(struct block_q5_k, scale), offsetof(struct block_q5_k, low)}, 0},
    [QUENCH_Q6_K] = {SUPER_BLOCK, sizeof(struct block_q6_k), {offsetof(struct block_q6_k, scale), -1}, 0},
};

static const struct layout *layout_of(int32_t type) {
    return type >= 0 && type < QUENCH_TYPE_LIMIT && layouts[type].weights ? &layouts[type] : NULL;
}

static const struct backend *backend_at(int32_t index) {
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        const uint64_t needs = backends[i]->features;
        if ((needs == 0 || (needs & ~quench_cpu_features()) == 0) && index-- == 0) {
            return backends[i];
        }
    }
    return NULL;
}

static struct codec codec_of(const struct backend *backend, int32_t type) {
    struct codec codec = backend->codecs[type];
    codec.encode = codec.encode ? codec.encode : quench_reference.codecs[type].encode;
    codec.decode = codec.decode ? codec.decode : quench_reference.codecs[type].decode;
    return codec;
}

int32_t quench_abi(void) {
    return QUENCH_ABI;
}

const char *quench_backend(int32_t index) {
    const struct backend *backend = index < 0 ? NULL : backend_at(index);
    return backend ? backend->name : NULL;
}

int32_t quench_block(int32_t type, int32_t *weights, int32_t *bytes) {
    const struct layout *layout = layout_of(type);
    if (!layout) {
        return QUENCH_BAD_TYPE;
    }
    if (!weights || !bytes) {
        return QUENCH_BAD_BUFFER;
    }
    *weights = layout->weights;
    *bytes = layout->bytes;
    return QUENCH_OK;
}

/* Bytes of a row of whole blocks; 0 when the shape is impossible or when all rows together overflow a size. */
static int row_size(const struct layout *layout, int64_t n_rows, int64_t n_cols, size_t *size) {
    if (n_rows < 0 || n_cols <= 0 || n_cols % layout->weights != 0 || n_cols > INT64_MAX / 8) {
        return 0;
    }
    uint64_t bytes = (uint64_t)(n_cols / layout->weights) * (uint64_t)layout->bytes;
    uint64_t largest = bytes > 4 * (uint64_t)n_cols ? bytes : 4 * (uint64_t)n_cols;
    if (n_rows > 0 && largest > (uint64_t)INT64_MAX / (uint64_t)n_rows) {
        return 0;
    }
    *size = (size_t)bytes;
    return 1;
}

/* ---- rows of floats ---- */

/* Weights [start, start + n) of a row as floats: in place, or widened into `tile`. */
static const float *widen(int32_t row_type, const uint8_t *row, int64_t start, size_t n, float *tile) {
    switch (row_type) {
    case QUENCH_F16:
        quench_reference.codecs[QUENCH_F16].decode(row + 2 * start, tile, n);
        return tile;
    case QUENCH_BF16:
        quench_reference.codecs[QUENCH_BF16].decode(row + 2 * start, tile, n);
        return tile;
    default:
        row += 4 * start;
        if ((uintptr_t)row % sizeof(float) == 0) {
            return (const float *)(const void *)row;
        }
        memcpy(tile, row, n * sizeof *tile);
        return tile;
    }
}

static int all_finite(const float *x, size_t n) {
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t size = bits_of(x[i]) & 0x7fffffffu;
        most = size > most ? size : most;
    }
    return most < 0x7f800000u;
}

static size_t first_not_finite(const float *x, size_t n) {
    size_t i = 0;
    while (i < n && is_finite(x[i])) {
        i++;
    }
    return i;
}

static float mean_square(int32_t row_type, const uint8_t *row, int64_t n_cols, float *tile) {
    float sum = 0.0f;
    for (int64_t start = 0; start < n_cols; start += TILE) {
        size_t n = (size_t)(n_cols - start < TILE ? n_cols - start : TILE);
        const float *x = widen(row_type, row, start, n, tile);
        for (size_t i = 0; i < n; i++) {
            sum += x[i] * x[i];
        }
    }
    return sum / (float)n_cols;
}

/* Eight running sums in a fixed order: the same number from every backend, and no chain of additions. */
static double squared_distance(const float *x, const float *y, size_t n) {
    double lanes[8] = {0};
    size_t whole = n - n % 8;
    for (size_t i = 0; i < whole; i += 8) {
        for (size_t lane = 0; lane < 8; lane++) {
            double miss = (double)x[i + lane] - (double)y[i + lane];
            lanes[lane] += miss * miss;
        }
    }
    for (size_t i = whole; i < n; i++) {
        double miss = (double)x[i] - (double)y[i];
        lanes[i % 8] += miss * miss;
    }
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

/* ---- what was written ---- */

/* The first block that holds an infinite or NaN 16-bit number; n_blocks if none does. */
static size_t first_overflow(int32_t type, const struct layout *layout, const uint8_t *blocks, size_t n_blocks) {
    if (type == QUENCH_F32) {
        return n_blocks;
    }
    const unsigned exponent = type == QUENCH_BF16 ? 0x7f80u : 0x7c00u;
    const int first = type == QUENCH_BF16 ? 0 : layout->halves[0];
    for (size_t i = 0; i < n_blocks; i++) {
        const uint8_t *block = blocks + i * (size_t)layout->bytes;
        if ((load16(block + first) & exponent) == exponent ||
            (layout->halves[1] >= 0 && (load16(block + layout->halves[1]) & exponent) == exponent)) {
            return i;
        }
    }
    return n_blocks;
}

static int32_t refuse(int32_t status, quench_report *report, int64_t row, int64_t column) {
    if (report) {
        report->row = row;
        report->column = column;
    }
    return status;
}

/* ---- quantize ---- */

struct job {
    int32_t type, row_type;
    const struct layout *layout;
    struct codec codec;
    int64_t n_cols;
    const float *importance;
    uint32_t flags;
};

static int32_t quantize_row(const struct job *job, const uint8_t *row, uint8_t *blocks, double *squared_error,
                            quench_report *report) {
    float tile[TILE], decoded[TILE];
    const struct layout *layout = job->layout;
    const int checked = !(job->flags & QUENCH_ALLOW_NONFINITE);
    float row_energy = 0.0f;
    double error = 0.0;
    if (layout->row_energy && job->importance) {
        row_energy = mean_square(job->row_type, row, job->n_cols, tile);
    }
    for (int64_t start = 0; start < job->n_cols; start += TILE) {
        size_t n = (size_t)(job->n_cols - start < TILE ? job->n_cols - start : TILE);
        size_t n_blocks = n / (size_t)layout->weights;
        const float *x = widen(job->row_type, row, start, n, tile);
        if (checked && !all_finite(x, n)) {
            return refuse(QUENCH_NOT_FINITE, report, report->row, start + (int64_t)first_not_finite(x, n));
        }
        job->codec.encode(x, job->importance ? job->importance + start : NULL, row_energy, blocks, n_blocks);
        if (checked) {
            size_t bad = first_overflow(job->type, layout, blocks, n_blocks);
            if (bad < n_blocks) {
                memset(blocks + bad * (size_t)layout->bytes, 0, (n_blocks - bad) * (size_t)layout->bytes);
                return refuse(QUENCH_OVERFLOW, report, report->row, start + (int64_t)bad * layout->weights);
            }
        }
        if (squared_error) {
            job->codec.decode(blocks, decoded, n_blocks);
            error += squared_distance(x, decoded, n);
        }
        blocks += n_blocks * (size_t)layout->bytes;
    }
    if (squared_error) {
        *squared_error = error;
    }
    return QUENCH_OK;
}

int32_t quench_quantize(int32_t backend_index, int32_t type, int32_t row_type, const void *rows, int64_t row_stride,
                        int64_t n_rows, int64_t n_cols, const float *importance, uint32_t flags, void *blocks,
                        size_t blocks_size, double *squared_error, quench_report *report) {
    const struct backend *backend = backend_index < 0 ? NULL : backend_at(backend_index);
    const struct layout *layout = layout_of(type);
    quench_report here = {0, 0};
    size_t out_size = 0;
    if (!backend) {
        return QUENCH_BAD_BACKEND;
    }
    if (!layout || (row_type != QUENCH_F32 && row_type != QUENCH_F16 && row_type != QUENCH_BF16)) {
        return QUENCH_BAD_TYPE;
    }
    if (flags & ~QUENCH_ALLOW_NONFINITE) {
        return QUENCH_BAD_FLAGS;
    }
    if (!row_size(layout, n_rows, n_cols, &out_size)) {
        return QUENCH_BAD_SHAPE;
    }
    if (!rows || !blocks || blocks_size != out_size * (size_t)n_rows) {
        return QUENCH_BAD_BUFFER;
    }
    for (int64_t i = 0; importance && i < n_cols; i++) {
        if (!(importance[i] >= 0.0f) || !is_finite(importance[i])) {
            return refuse(QUENCH_BAD_IMPORTANCE, report, 0, i);
        }
    }

    const struct job job = {type, row_type, layout, codec_of(backend, type), n_cols, importance, flags};
    int32_t status = QUENCH_OK;
    uint64_t saved = quench_enter_ieee();
    for (int64_t row = 0; row < n_rows && status == QUENCH_OK; row++) {
        here.row = row;
        status = quantize_row(&job, (const uint8_t *)rows + row * row_stride, (uint8_t *)blocks + (size_t)row * out_size,
                              squared_error ? squared_error + row : NULL, &here);
    }
    quench_leave_ieee(saved);
    if (status != QUENCH_OK && report) {
        *report = here;
    }
    return status;
}

int32_t quench_dequantize(int32_t backend_index, int32_t type, const void *blocks, size_t blocks_size, int64_t n_rows,
                          int64_t n_cols, float *out, size_t out_size) {
    const struct backend *backend = backend_index < 0 ? NULL : backend_at(backend_index);
    const struct layout *layout = layout_of(type);
    size_t in_size = 0;
    if (!backend) {
        return QUENCH_BAD_BACKEND;
    }
    if (!layout) {
        return QUENCH_BAD_TYPE;
    }
    if (!row_size(layout, n_rows, n_cols, &in_size)) {
        return QUENCH_BAD_SHAPE;
    }
    size_t n_blocks = (size_t)n_rows * (size_t)(n_cols / layout->weights);
    if (!blocks || !out || blocks_size != in_size * (size_t)n_rows ||
        out_size != (size_t)n_rows * (size_t)n_cols * sizeof *out) {
        return QUENCH_BAD_BUFFER;
    }
    uint64_t saved = quench_enter_ieee();
    codec_of(backend, type).decode(blocks, out, n_blocks);
    quench_leave_ieee(saved);
    return QUENCH_OK;
}
