/* quench_dequantize: checks sizes and decodes. */
#include "backend.h"

int32_t quench_dequantize(int32_t backend_index, int32_t type, const void *blocks, size_t blocks_size, int64_t n_rows,
                          int64_t n_cols, float *out, size_t out_size) {
    const struct backend *backend = quench_backend_at(backend_index);
    const struct layout *layout = quench_layout(type);
    size_t in_size = 0;
    if (!backend) {
        return QUENCH_BAD_BACKEND;
    }
    if (!layout) {
        return QUENCH_BAD_TYPE;
    }
    if (!quench_row_size(layout, n_rows, n_cols, &in_size)) {
        return QUENCH_BAD_SHAPE;
    }
    size_t n_blocks = (size_t)n_rows * (size_t)(n_cols / layout->weights);
    if (!blocks || !out || blocks_size != in_size * (size_t)n_rows ||
        out_size != (size_t)n_rows * (size_t)n_cols * sizeof *out) {
        return QUENCH_BAD_BUFFER;
    }
    uint64_t saved = quench_enter_ieee();
    if (!backend->decode_ahead || !backend->decode_ahead(type, blocks, n_blocks, out)) {
        quench_codec(backend, type).decode(blocks, out, n_blocks);
    }
    quench_leave_ieee(saved);
    return QUENCH_OK;
}
