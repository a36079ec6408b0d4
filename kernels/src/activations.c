/* quench_activations: a vector of floats becomes the other side of dot products. */
#include <string.h>

#include "blocks.h"
#include "dot.h"
#include "numeric.h"

static const enum activation_kind kinds[QUENCH_TYPE_LIMIT] = {
    [QUENCH_F32] = ACTIVATION_FLOATS,  [QUENCH_F16] = ACTIVATION_FLOATS, [QUENCH_BF16] = ACTIVATION_FLOATS,
    [QUENCH_Q4_0] = ACTIVATION_Q8_0,   [QUENCH_Q5_0] = ACTIVATION_Q8_0,  [QUENCH_Q8_0] = ACTIVATION_Q8_0,
    [QUENCH_IQ4_NL] = ACTIVATION_Q8_0, [QUENCH_Q4_1] = ACTIVATION_Q8_1,  [QUENCH_Q5_1] = ACTIVATION_Q8_1,
    [QUENCH_Q2_K] = ACTIVATION_Q8_K,   [QUENCH_Q3_K] = ACTIVATION_Q8_K,  [QUENCH_Q4_K] = ACTIVATION_Q8_K,
    [QUENCH_Q5_K] = ACTIVATION_Q8_K,   [QUENCH_Q6_K] = ACTIVATION_Q8_K,  [QUENCH_IQ4_XS] = ACTIVATION_Q8_K,
};

enum activation_kind quench_activation_kind(int32_t type) {
    return type >= 0 && type < QUENCH_TYPE_LIMIT ? kinds[type] : ACTIVATION_NONE;
}

static size_t padded(size_t n, size_t unit) {
    return (n + unit - 1) / unit * unit;
}

size_t quench_activation_bytes(enum activation_kind kind, size_t n_blocks) {
    if (kind == ACTIVATION_FLOATS) {
        return padded(n_blocks, DOT_FLOAT_SUMS) * sizeof(float);
    }
    size_t count = padded(n_blocks, DOT_SUMS);
    return kind == ACTIVATION_Q8_K
               ? count * (SUPER_BLOCK + (SUPER_BLOCK / 16 + SUPER_BLOCK / 32) * sizeof(int16_t) + sizeof(float))
               : count * (BLOCK + sizeof(int16_t) + 2 * sizeof(float));
}

struct activations quench_activation_planes(enum activation_kind kind, const void *buffer, size_t n_blocks) {
    const size_t count = padded(n_blocks, DOT_SUMS);
    struct activations planes = {0};
    planes.codes = buffer;
    if (kind == ACTIVATION_Q8_K) {
        planes.sums16 = (const int16_t *)(const void *)(planes.codes + count * SUPER_BLOCK);
        planes.sums32 = planes.sums16 + count * (SUPER_BLOCK / 16);
        planes.scales = (const float *)(const void *)(planes.sums32 + count * (SUPER_BLOCK / 32));
    } else {
        planes.sums32 = (const int16_t *)(const void *)(planes.codes + count * BLOCK);
        planes.scales = (const float *)(const void *)(planes.sums32 + count);
        planes.offsets = planes.scales + count;
    }
    return planes;
}

static int16_t sum_of_16(const int8_t *codes) {
    int sum = 0;
    for (int i = 0; i < 16; i++) {
        sum += codes[i];
    }
    return (int16_t)sum;
}

/* Q8_0 and Q8_1: the codes of both. The scale is stored in 16 bits but divides in 32. */
static float encode_q8_0(const float *x, int8_t *codes) {
    float size = 0.0f;
    for (int i = 0; i < BLOCK; i++) {
        size = magnitude(x[i]) > size ? magnitude(x[i]) : size;
    }
    const float scale = size / 127.0f;
    const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    for (int i = 0; i < BLOCK; i++) {
        codes[i] = (int8_t)rounded_away(x[i] * inverse);
    }
    return scale;
}

static void fill(const struct backend *backend, enum activation_kind kind, const float *x, size_t n_blocks,
                 void *buffer) {
    const struct activations planes = quench_activation_planes(kind, buffer, n_blocks);
    int8_t *codes = (int8_t *)planes.codes;
    int16_t *sums16 = (int16_t *)planes.sums16, *sums32 = (int16_t *)planes.sums32;
    float *scales = (float *)planes.scales, *offsets = (float *)planes.offsets;
    const size_t width = kind == ACTIVATION_Q8_K ? SUPER_BLOCK : BLOCK;
    encode_q8_k_fn *encode_q8_k = backend->encode_q8_k ? backend->encode_q8_k : quench_reference.encode_q8_k;
    for (size_t i = 0; i < n_blocks; i++) {
        int8_t *own = codes + i * width;
        scales[i] = kind == ACTIVATION_Q8_K ? encode_q8_k(x + i * width, own) : encode_q8_0(x + i * width, own);
        for (size_t part = 0; part < width / 32; part++) {
            const int16_t first = sum_of_16(own + 32 * part), second = sum_of_16(own + 32 * part + 16);
            sums32[i * (width / 32) + part] = (int16_t)(first + second);
            if (sums16) {
                sums16[i * (width / 16) + 2 * part] = first;
                sums16[i * (width / 16) + 2 * part + 1] = second;
            }
        }
        if (offsets) {
            offsets[i] = float_from_half(half_from_float((float)sums32[i] * scales[i]));
            scales[i] = float_from_half(half_from_float(scales[i]));
        }
    }
}

static int32_t blocks_of(int32_t type, int64_t n_cols, enum activation_kind *kind, size_t *n_blocks) {
    const struct layout *layout = quench_layout(type);
    size_t row_size;
    *kind = quench_activation_kind(type);
    if (!layout || *kind == ACTIVATION_NONE) {
        return QUENCH_BAD_TYPE;
    }
    if (!quench_row_size(layout, 1, n_cols, &row_size)) {
        return QUENCH_BAD_SHAPE;
    }
    *n_blocks = (size_t)(n_cols / layout->weights);
    return QUENCH_OK;
}

int32_t quench_activations_size(int32_t type, int64_t n_cols, size_t *size) {
    enum activation_kind kind;
    size_t n_blocks;
    int32_t status = blocks_of(type, n_cols, &kind, &n_blocks);
    if (status == QUENCH_OK && !size) {
        return QUENCH_BAD_BUFFER;
    }
    if (status == QUENCH_OK) {
        *size = quench_activation_bytes(kind, n_blocks);
    }
    return status;
}

int32_t quench_activations(int32_t backend_index, int32_t type, const float *x, int64_t n_cols, void *activations,
                           size_t size, quench_report *report) {
    const struct backend *backend = quench_backend_at(backend_index);
    enum activation_kind kind;
    size_t n_blocks;
    int32_t status = backend ? blocks_of(type, n_cols, &kind, &n_blocks) : QUENCH_BAD_BACKEND;
    if (status != QUENCH_OK) {
        return status;
    }
    if (!x || !activations || (uintptr_t)activations % 64 != 0 || size != quench_activation_bytes(kind, n_blocks)) {
        return QUENCH_BAD_BUFFER;
    }
    if ((backend->largest ? backend->largest : quench_reference.largest)(x, (size_t)n_cols) > 0x7f7fffffu) {
        int64_t col = 0;
        while (is_finite(x[col])) {
            col++;
        }
        if (report) {
            *report = (quench_report){0, col};
        }
        return QUENCH_NOT_FINITE;
    }
    uint64_t saved = quench_enter_ieee();
    memset(activations, 0, size);
    if (kind == ACTIVATION_FLOATS) {
        memcpy(activations, x, (size_t)n_cols * sizeof *x);
    } else {
        fill(backend, kind, x, n_blocks, activations);
    }
    quench_leave_ieee(saved);
    return QUENCH_OK;
}
