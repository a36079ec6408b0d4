/* The vector's side of dot products, and rows of floats. */
#include <string.h>

#include "../blocks.h"
#include "../dot.h"
#include "lanes.h"
#include "narrow.h"

enum { VECTORS = DOT_FLOAT_SUMS / QUENCH_W };

void LANES(dot_floats)(const float *row, const float *x, size_t n, float *sums) {
    vf parts[VECTORS];
    size_t i = 0;
    for (int v = 0; v < VECTORS; v++) {
        parts[v] = vf_load(sums + v * QUENCH_W);
    }
    for (; i + DOT_FLOAT_SUMS <= n; i += DOT_FLOAT_SUMS) {
        for (int v = 0; v < VECTORS; v++) {
            parts[v] = vf_add(parts[v], vf_mul(vf_load(row + i + v * QUENCH_W), vf_load(x + i + v * QUENCH_W)));
        }
    }
    for (int v = 0; v < VECTORS; v++) {
        vf_store(sums + v * QUENCH_W, parts[v]);
    }
    for (size_t lane = 0; i < n; i++, lane++) {
        sums[lane] += row[i] * x[i];
    }
}

float LANES(encode_q8_k)(const float *x, int8_t *codes) {
    const vi sign = vi_set(0x7fffffff);
    int32_t lanes[QUENCH_W], size = 0;
    vi most = vi_set(0);
    for (size_t i = 0; i < SUPER_BLOCK; i += QUENCH_W) {
        most = vi_most(most, vi_and(vi_of_bits(vf_load(x + i)), sign));
    }
    vi_store(lanes, most);
    for (int lane = 0; lane < QUENCH_W; lane++) {
        size = lanes[lane] > size ? lanes[lane] : size;
    }
    memset(codes, 0, SUPER_BLOCK);
    if (size == 0) {
        return 0.0f;
    }
    size_t first = 0; /* the first value of that size decides the sign */
    while ((bits_of(x[first]) & 0x7fffffffu) != (uint32_t)size) {
        first++;
    }
    const float inverse = -127.0f / x[first];
    for (size_t i = 0; i < SUPER_BLOCK && is_finite(inverse); i += BLOCK) {
        vi values[BLOCK / QUENCH_W];
        for (size_t part = 0; part < BLOCK / QUENCH_W; part++) {
            values[part] = vi_nearest(vf_mul(vf_set(inverse), vf_load(x + i + part * QUENCH_W)));
        }
        vi_store_block((uint8_t *)codes + i, values);
    }
    return 1.0f / inverse;
}
