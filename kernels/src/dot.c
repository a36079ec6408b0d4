/* quench_dot: checks sizes and finds the kernel. */
#include "dot.h"

static dot_fn *find(const struct backend *backend, int32_t type) {
    const uint64_t features = quench_cpu_features();
    for (size_t i = 0; i < sizeof backend->dots / sizeof *backend->dots; i++) {
        const struct dots *dots = backend->dots[i];
        if (dots && (dots->features & ~features) == 0 && dots->types[type]) {
            return dots->types[type];
        }
    }
    return quench_reference_dots.types[type];
}

/* Rows of floats: decoded tile by tile with the backend's own decoder, then multiplied. */
static void dot_floats(const struct backend *backend, const struct layout *layout, int32_t type, const uint8_t *rows,
                       size_t n_rows, size_t n_cols, const float *x, float *out) {
    float row[TILE];
    const struct codec codec = quench_codec(backend, type);
    dot_floats_fn *multiply = backend->dot_floats ? backend->dot_floats : quench_reference.dot_floats;
    for (size_t i = 0; i < n_rows; i++) {
        float sums[DOT_FLOAT_SUMS] = {0};
        for (size_t first = 0; first < n_cols; first += TILE) {
            const size_t n = n_cols - first < TILE ? n_cols - first : TILE;
            codec.decode(rows, row, n);
            multiply(row, x + first, n, sums);
            rows += n * (size_t)layout->bytes;
        }
        for (size_t half = DOT_FLOAT_SUMS / 2; half > 0; half /= 2) {
            for (size_t lane = 0; lane < half; lane++) {
                sums[lane] += sums[lane + half];
            }
        }
        out[i] = sums[0];
    }
}

int32_t quench_dot(int32_t backend_index, int32_t type, const void *blocks, size_t blocks_size, int64_t n_rows,
                   int64_t n_cols, const void *activations, size_t activations_size, float *out, size_t out_size) {
    const struct backend *backend = quench_backend_at(backend_index);
    const struct layout *layout = quench_layout(type);
    const enum activation_kind kind = quench_activation_kind(type);
    size_t row_size = 0;
    if (!backend) {
        return QUENCH_BAD_BACKEND;
    }
    if (!layout || kind == ACTIVATION_NONE) {
        return QUENCH_BAD_TYPE;
    }
    if (!quench_row_size(layout, n_rows, n_cols, &row_size)) {
        return QUENCH_BAD_SHAPE;
    }
    const size_t n_blocks = (size_t)(n_cols / layout->weights);
    if (!blocks || !activations || !out || blocks_size != row_size * (size_t)n_rows ||
        (uintptr_t)activations % 64 != 0 || activations_size != quench_activation_bytes(kind, n_blocks) ||
        out_size != (size_t)n_rows * sizeof *out) {
        return QUENCH_BAD_BUFFER;
    }
    uint64_t saved = quench_enter_ieee();
    if (kind == ACTIVATION_FLOATS) {
        dot_floats(backend, layout, type, blocks, (size_t)n_rows, (size_t)n_cols, activations, out);
    } else {
        const struct activations x = quench_activation_planes(kind, activations, n_blocks);
        find(backend, type)(blocks, (size_t)n_rows, n_blocks, &x, out);
    }
    quench_leave_ieee(saved);
    return QUENCH_OK;
}
