/* Rows of floats: widening and narrowing, and what the dispatcher asks about them. */
#include "lanes.h"
#include "narrow.h"

uint32_t LANES(largest)(const float *x, size_t n) {
    enum { STEP = 4 * W };
    const vi sign = vi_set(0x7fffffff);
    vi most[4] = {vi_set(0), vi_set(0), vi_set(0), vi_set(0)};
    size_t i = 0;
    for (; i + STEP <= n; i += STEP) {
        for (int k = 0; k < 4; k++) {
            most[k] = vi_most(most[k], vi_and(vi_of_bits(vf_load(x + i + k * W)), sign));
        }
    }
    int32_t lanes[W];
    vi_store(lanes, vi_most(vi_most(most[0], most[1]), vi_most(most[2], most[3])));
    uint32_t result = 0;
    for (int lane = 0; lane < W; lane++) {
        result = (uint32_t)lanes[lane] > result ? (uint32_t)lanes[lane] : result;
    }
    for (; i < n; i++) {
        uint32_t size = bits_of(x[i]) & 0x7fffffffu;
        result = size > result ? size : result;
    }
    return result;
}

void LANES(distance)(const float *x, const float *y, const float *importance, size_t n, double *plain,
                     double *weighted) {
    const size_t whole = n - n % 8;
    v8d sum = v8d_load(plain);
    if (importance) {
        v8d weighted_sum = v8d_load(weighted);
        for (size_t i = 0; i < whole; i += 8) {
            const v8d miss = v8d_sub(v8d_from_floats(x + i), v8d_from_floats(y + i));
            const v8d square = v8d_mul(miss, miss);
            sum = v8d_add(sum, square);
            weighted_sum = v8d_add(weighted_sum, v8d_mul(v8d_from_floats(importance + i), square));
        }
        v8d_store(weighted, weighted_sum);
    } else {
        for (size_t i = 0; i < whole; i += 8) {
            const v8d miss = v8d_sub(v8d_from_floats(x + i), v8d_from_floats(y + i));
            sum = v8d_add(sum, v8d_mul(miss, miss));
        }
    }
    v8d_store(plain, sum);
    for (size_t i = whole; i < n; i++) {
        const double miss = (double)x[i] - (double)y[i];
        plain[i % 8] += miss * miss;
        if (importance) {
            weighted[i % 8] += (double)importance[i] * (miss * miss);
        }
    }
}

/* ---- F16 and BF16: no weight that is encoded is a NaN ---- */

void LANES(decode_f16)(const uint8_t *blocks, float *x, size_t n) {
    size_t i = 0;
    for (; i + W <= n; i += W) {
        vf_store(x + i, vf_from_halves(blocks + 2 * i));
    }
    for (; i < n; i++) {
        x[i] = half_at(blocks + 2 * i);
    }
}

void LANES(encode_f16)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)importance, (void)row_energy;
    size_t i = 0;
    for (; i + W <= n; i += W) {
        vf_store_halves(blocks + 2 * i, vf_load(x + i));
    }
    for (; i < n; i++) {
        store_half(blocks + 2 * i, x[i]);
    }
}

void LANES(decode_bf16)(const uint8_t *blocks, float *x, size_t n) {
    size_t i = 0;
    for (; i + W <= n; i += W) {
        vf_store(x + i, vf_of_bits(vi_left(vi_from_words(blocks + 2 * i), 16)));
    }
    for (; i < n; i++) {
        x[i] = float_from_brain(load16(blocks + 2 * i));
    }
}

void LANES(encode_bf16)(const float *x, const float *importance, float row_energy, uint8_t *blocks, size_t n) {
    (void)importance, (void)row_energy;
    size_t i = 0;
    for (; i + W <= n; i += W) {
        const vi bits = vi_of_bits(vf_load(x + i));
        const vi tie = vi_add(vi_and(vi_right(bits, 16), vi_set(1)), vi_set(0x7fff));
        vi_store_words(blocks + 2 * i, vi_right(vi_add(bits, tie), 16));
    }
    for (; i < n; i++) {
        store16(blocks + 2 * i, brain_from_float(x[i]));
    }
}
