/* F32, F16 and BF16, whose blocks are one weight; and what the dispatcher asks about rows of floats. */
#include <string.h>

#include "../numeric.h"
#include "codecs.h"

void quench_encode_f32(const float *weights, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)importance, (void)row_energy;
    memcpy(blocks, weights, n * sizeof *weights);
}

void quench_decode_f32(const uint8_t *blocks, float *weights, size_t n) {
    memcpy(weights, blocks, n * sizeof *weights);
}

void quench_encode_f16(const float *weights, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)importance, (void)row_energy;
    for (size_t i = 0; i < n; i++) {
        uint16_t half = half_from_float(weights[i]);
        memcpy(blocks + 2 * i, &half, sizeof half);
    }
}

void quench_decode_f16(const uint8_t *blocks, float *weights, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, blocks + 2 * i, sizeof half);
        weights[i] = float_from_half(half);
    }
}

void quench_encode_bf16(const float *weights, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)importance, (void)row_energy;
    for (size_t i = 0; i < n; i++) {
        uint16_t brain = brain_from_float(weights[i]);
        memcpy(blocks + 2 * i, &brain, sizeof brain);
    }
}

void quench_decode_bf16(const uint8_t *blocks, float *weights, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint16_t brain;
        memcpy(&brain, blocks + 2 * i, sizeof brain);
        weights[i] = float_from_brain(brain);
    }
}

uint32_t quench_largest(const float *x, size_t n) {
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t size = bits_of(x[i]) & 0x7fffffffu;
        most = size > most ? size : most;
    }
    return most;
}

void quench_distance(const float *x, const float *y, const float *importance, size_t n, double *plain,
                     double *weighted) {
    for (size_t i = 0; i < n; i++) {
        double miss = (double)x[i] - (double)y[i];
        plain[i % 8] += miss * miss;
        if (importance) {
            weighted[i % 8] += (double)importance[i] * (miss * miss);
        }
    }
}
