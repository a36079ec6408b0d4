/* F32, F16 and BF16: a block is one weight. */
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
