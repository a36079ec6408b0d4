/* quench_quantize: checks sizes, walks the rows' blocks as one stream of tiles, checks what goes in and comes out. */
#include <stdint.h>
#include <string.h>

#include "backend.h"
#include "blocks.h"
#include "numeric.h"

enum { ENERGIES = 8 };

struct job {
    const struct backend *backend;
    const struct layout *layout;
    struct codec codec;
    int32_t type, row_type;
    const uint8_t *rows;
    int64_t row_stride, n_rows, n_cols;
    const float *importance;
    uint32_t flags;
    uint8_t *blocks;
    double *squared_error, *weighted_error;
};

/* Blocks that are encoded together. They may begin and end inside rows. */
struct tile {
    int64_t row, column; /* of the first weight */
    size_t n;            /* weights */
    const float *weights, *importance;
};

/* Sums of a row that is not at its end yet. */
struct errors {
    double plain[8], weighted[8];
};

static int32_t refuse(int32_t status, quench_report *report, int64_t row, int64_t column) {
    report->row = row;
    report->column = column;
    return status;
}

/* ---- in ---- */

/* Weights [start, start + n) of a row as floats: in place, or widened into `tile`. */
static const float *widen(const struct job *job, int64_t row_index, int64_t start, size_t n, float *tile) {
    const uint8_t *row = job->rows + row_index * job->row_stride;
    switch (job->row_type) {
    case QUENCH_F16:
    case QUENCH_BF16:
        quench_codec(job->backend, job->row_type).decode(row + 2 * start, tile, n);
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

static size_t at_most(size_t n, int64_t limit) {
    return (int64_t)n < limit ? n : (size_t)limit;
}

/* Weights and importance of the tile in two runs of floats; copies only what does not lie so already. */
static void gather(const struct job *job, struct tile *tile, float *weights, float *importance) {
    const size_t first = at_most(tile->n, job->n_cols - tile->column);
    const int flat = job->row_type == QUENCH_F32 && job->row_stride == 4 * job->n_cols;
    tile->weights = widen(job, tile->row, tile->column, first, weights);
    tile->importance = job->importance ? job->importance + tile->column : NULL;
    if (first == tile->n) {
        return;
    }
    if (!flat || tile->weights == weights) {
        int64_t row = tile->row, column = tile->column;
        for (size_t done = 0, n = first; done < tile->n; done += n, row++, column = 0) {
            n = at_most(tile->n - done, job->n_cols - column);
            const float *found = widen(job, row, column, n, weights + done);
            if (found != weights + done) {
                memcpy(weights + done, found, n * sizeof *weights);
            }
        }
        tile->weights = weights;
    }
    if (job->importance) {
        int64_t column = tile->column;
        for (size_t done = 0, n = first; done < tile->n; done += n, column = 0) {
            n = at_most(tile->n - done, job->n_cols - column);
            memcpy(importance + done, job->importance + column, n * sizeof *importance);
        }
        tile->importance = importance;
    }
}

/* Mean squares of up to ENERGIES rows from `row` on. Each is one ordered sum, so rows are added side by side. */
static void mean_squares(const struct job *job, int64_t row, float *tile, float *energies) {
    enum { STEP = TILE / ENERGIES };
    float sums[ENERGIES] = {0.0f};
    for (int64_t start = 0; start < job->n_cols; start += STEP) {
        const size_t n = at_most(STEP, job->n_cols - start);
        const float *x[ENERGIES];
        for (int i = 0; i < ENERGIES; i++) {
            const int64_t own = row + i < job->n_rows ? row + i : job->n_rows - 1;
            x[i] = widen(job, own, start, n, tile + i * STEP);
        }
        for (size_t k = 0; k < n; k++) {
            for (int i = 0; i < ENERGIES; i++) {
                sums[i] += x[i][k] * x[i][k];
            }
        }
    }
    for (int i = 0; i < ENERGIES; i++) {
        energies[i] = sums[i] / (float)job->n_cols;
    }
}

/* ---- checks ---- */

/* Where in the matrix the tile's weight i is. */
static int32_t refuse_weight(const struct job *job, const struct tile *tile, int32_t status, size_t i,
                             quench_report *report) {
    const int64_t place = tile->column + (int64_t)i;
    return refuse(status, report, tile->row + place / job->n_cols, place % job->n_cols);
}

static uint32_t largest_of(const struct job *job, const struct tile *tile) {
    largest_fn *largest = job->backend->largest ? job->backend->largest : quench_reference.largest;
    return largest(tile->weights, tile->n);
}

static int32_t refuse_infinite(const struct job *job, const struct tile *tile, quench_report *report) {
    size_t i = 0;
    while (is_finite(tile->weights[i])) {
        i++;
    }
    return refuse_weight(job, tile, QUENCH_NOT_FINITE, i, report);
}

/* Weights of at most this magnitude (as bits) give no 16-bit number that overflows. Only said of types whose numbers are
 * simple functions of the weights; a search can end anywhere. */
static uint32_t safe_largest(const struct job *job) {
    switch (job->type) {
    case QUENCH_BF16:
        return 0x7f7f0000u;
    case QUENCH_F16:
    case QUENCH_Q8_0:
        return 0x477fe000u; /* 65504, the largest binary16 */
    case QUENCH_Q4_0:
    case QUENCH_Q4_1:
    case QUENCH_Q5_0:
    case QUENCH_Q5_1:
        return job->importance ? 0 : 0x477fe000u;
    default:
        return 0;
    }
}

/* The first block that holds an infinite or NaN 16-bit number; n_blocks if none does. */
static size_t first_overflow(const struct job *job, const uint8_t *blocks, size_t n_blocks) {
    if (job->type == QUENCH_F32) {
        return n_blocks;
    }
    const struct layout *layout = job->layout;
    const unsigned exponent = job->type == QUENCH_BF16 ? 0x7f80u : 0x7c00u;
    const int first = job->type == QUENCH_BF16 ? 0 : layout->halves[0];
    for (size_t i = 0; i < n_blocks; i++) {
        const uint8_t *block = blocks + i * (size_t)layout->bytes;
        if ((load16(block + first) & exponent) == exponent ||
            (layout->halves[1] >= 0 && (load16(block + layout->halves[1]) & exponent) == exponent)) {
            return i;
        }
    }
    return n_blocks;
}

static int32_t check_overflow(const struct job *job, const struct tile *tile, uint8_t *blocks, size_t n_blocks,
                              quench_report *report) {
    const size_t bad = first_overflow(job, blocks, n_blocks), size = (size_t)job->layout->bytes;
    if (bad == n_blocks) {
        return QUENCH_OK;
    }
    memset(blocks + bad * size, 0, (n_blocks - bad) * size);
    return refuse_weight(job, tile, QUENCH_OVERFLOW, bad * (size_t)job->layout->weights, report);
}

/* ---- errors ---- */

static double total(const double *lanes) {
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

static void add_errors(const struct job *job, const struct tile *tile, const uint8_t *blocks, size_t n_blocks,
                       struct errors *errors) {
    float decoded[TILE];
    distance_fn *distance = job->backend->distance ? job->backend->distance : quench_reference.distance;
    job->codec.decode(blocks, decoded, n_blocks);
    int64_t row = tile->row, column = tile->column;
    for (size_t done = 0, n; done < tile->n; done += n, row++, column = 0) {
        n = at_most(tile->n - done, job->n_cols - column);
        if (column == 0) {
            memset(errors, 0, sizeof *errors);
        }
        distance(tile->weights + done, decoded + done, tile->importance ? tile->importance + done : NULL, n,
                 errors->plain, errors->weighted);
        if (column + (int64_t)n < job->n_cols) {
            return;
        }
        if (job->squared_error) {
            job->squared_error[row] = total(errors->plain);
        }
        if (job->weighted_error) {
            job->weighted_error[row] = total(job->importance ? errors->weighted : errors->plain);
        }
    }
}

/* ---- ahead of the walk ---- */

/* Blocks that a backend encodes in one go, before the tiles come to them. */
enum { AHEAD = 65536 };

struct ahead {
    size_t first, n;     /* of the call's blocks */
    uint8_t left[AHEAD]; /* 1 for those that are still to do */
};

/* Whether the n blocks from `first` on were encoded ahead, and their weights are such that nothing is to be reported. */
static int encoded_ahead(const struct job *job, struct ahead *ahead, size_t first, size_t n) {
    if (first + n > ahead->first + ahead->n) {
        const struct row_source source = {job->type,   job->row_type, job->rows,      job->row_stride,
                                          job->n_rows, job->n_cols,   job->importance};
        ahead->first = first;
        ahead->n = at_most(AHEAD, job->n_rows * (job->n_cols / job->layout->weights) - (int64_t)first);
        if (!job->backend->encode_ahead(&source, (int64_t)first, ahead->n,
                                        job->blocks + first * (size_t)job->layout->bytes, ahead->left)) {
            memset(ahead->left, 1, ahead->n);
        }
    }
    return memchr(ahead->left + (first - ahead->first), 1, n) == NULL;
}

/* ---- the walk ---- */

static int32_t encode(const struct job *job, const struct tile *tile, float row_energy, uint8_t *blocks,
                      size_t n_blocks, quench_report *report) {
    const int checked = !(job->flags & QUENCH_ALLOW_NONFINITE);
    const uint32_t largest = largest_of(job, tile);
    const int finite = largest < 0x7f800000u;
    if (!finite && checked) {
        return refuse_infinite(job, tile, report);
    }
    encode_fn *codec = finite ? job->codec.encode : quench_reference.codecs[job->type].encode;
    codec(tile->weights, tile->importance, row_energy, blocks, n_blocks);
    if (finite && job->codec.refine && (job->flags & QUENCH_REFINED)) {
        job->codec.refine(tile->weights, tile->importance, blocks, n_blocks);
    }
    return checked && largest > safe_largest(job) ? check_overflow(job, tile, blocks, n_blocks, report) : QUENCH_OK;
}

static int32_t quantize(const struct job *job, quench_report *report) {
    float weights[TILE], importance[TILE];
    const struct layout *layout = job->layout;
    const int needs_energy = layout->row_energy && job->importance;
    const int needs_errors = job->squared_error || job->weighted_error;
    const int tries_ahead = job->backend->encode_ahead && layout->weights > 1 && !(job->flags & QUENCH_REFINED);
    /* A row whose weights are blocks may end anywhere: the eight error sums want its tiles to begin at multiples. */
    const int row_by_row = needs_energy || layout->weights == 1;
    /* Fast encoders want weights, blocks and a narrow source in the first-level cache together; the searches want many
     * super-blocks at once. */
    const size_t limit = layout->weights < SUPER_BLOCK ? TILE / 2 : TILE;
    float energies[ENERGIES] = {0.0f};
    int64_t energies_of = -1; /* that many rows times ENERGIES */
    uint8_t *blocks = job->blocks;
    struct errors errors;
    struct ahead ahead;
    struct tile tile = {0, 0, 0, NULL, NULL};
    ahead.first = ahead.n = 0;
    while (tile.row < job->n_rows) {
        const int64_t row_end = job->n_cols - tile.column;
        const int64_t rows_after = (int64_t)at_most(limit, job->n_rows - tile.row - 1);
        tile.n = at_most(limit, row_by_row ? row_end : row_end + rows_after * job->n_cols);
        const size_t n_blocks = tile.n / (size_t)layout->weights;
        const size_t first = (size_t)(blocks - job->blocks) / (size_t)layout->bytes;
        const int done = tries_ahead && encoded_ahead(job, &ahead, first, n_blocks);
        if (!done && needs_energy && tile.row / ENERGIES != energies_of) {
            energies_of = tile.row / ENERGIES;
            mean_squares(job, energies_of * ENERGIES, weights, energies);
        }
        if (!done || needs_errors) {
            gather(job, &tile, weights, importance);
        }
        if (!done) {
            int32_t status = encode(job, &tile, energies[tile.row % ENERGIES], blocks, n_blocks, report);
            if (status != QUENCH_OK) {
                return status;
            }
        }
        if (needs_errors) {
            add_errors(job, &tile, blocks, n_blocks, &errors);
        }
        blocks += n_blocks * (size_t)layout->bytes;
        const int64_t place = tile.column + (int64_t)tile.n;
        tile.row += place / job->n_cols;
        tile.column = place % job->n_cols;
    }
    return QUENCH_OK;
}

int32_t quench_quantize(int32_t backend_index, int32_t type, int32_t row_type, const void *rows, int64_t row_stride,
                        int64_t n_rows, int64_t n_cols, const float *importance, uint32_t flags, void *blocks,
                        size_t blocks_size, double *squared_error, double *weighted_error, quench_report *report) {
    const struct backend *backend = quench_backend_at(backend_index);
    const struct layout *layout = quench_layout(type);
    quench_report unused;
    size_t out_size = 0;
    report = report ? report : &unused;
    if (!backend) {
        return QUENCH_BAD_BACKEND;
    }
    if (!layout || !quench_codec(backend, type).encode ||
        (row_type != QUENCH_F32 && row_type != QUENCH_F16 && row_type != QUENCH_BF16)) {
        return QUENCH_BAD_TYPE;
    }
    if (flags & ~(QUENCH_ALLOW_NONFINITE | QUENCH_REFINED)) {
        return QUENCH_BAD_FLAGS;
    }
    if (!quench_row_size(layout, n_rows, n_cols, &out_size)) {
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
    const struct job job = {backend, layout, quench_codec(backend, type), type, row_type, rows, row_stride, n_rows,
                            n_cols, importance, flags, blocks, squared_error, weighted_error};
    uint64_t saved = quench_enter_ieee();
    int32_t status = quantize(&job, report);
    quench_leave_ieee(saved);
    return status;
}
