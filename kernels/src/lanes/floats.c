/* What the dispatcher asks about rows of floats. */
#include "../numeric.h"
#include "lanes.h"

uint32_t LANES(largest)(const float *x, size_t n) {
    const vi sign = vi_set(0x7fffffff);
    vi most = vi_set(0);
    size_t i = 0;
    for (; i + QUENCH_W <= n; i += QUENCH_W) {
        most = vi_most(most, vi_and(vi_of_bits(vf_load(x + i)), sign));
    }
    int32_t lanes[QUENCH_W];
    vi_store(lanes, most);
    uint32_t result = 0;
    for (int lane = 0; lane < QUENCH_W; lane++) {
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
    double sums[8], weighted_sums[8];
    for (int lane = 0; lane < 8; lane++) {
        sums[lane] = plain[lane];
        weighted_sums[lane] = weighted[lane];
    }
    size_t whole = n - n % 8;
    /* Eight independent sums: the compiler's own vectors keep their order. */
    if (importance) {
        for (size_t i = 0; i < whole; i += 8) {
            for (size_t lane = 0; lane < 8; lane++) {
                double miss = (double)x[i + lane] - (double)y[i + lane];
                sums[lane] += miss * miss;
                weighted_sums[lane] += (double)importance[i + lane] * (miss * miss);
            }
        }
    } else {
        for (size_t i = 0; i < whole; i += 8) {
            for (size_t lane = 0; lane < 8; lane++) {
                double miss = (double)x[i + lane] - (double)y[i + lane];
                sums[lane] += miss * miss;
            }
        }
    }
    for (size_t i = whole; i < n; i++) {
        double miss = (double)x[i] - (double)y[i];
        sums[i % 8] += miss * miss;
        if (importance) {
            weighted_sums[i % 8] += (double)importance[i] * (miss * miss);
        }
    }
    for (int lane = 0; lane < 8; lane++) {
        plain[lane] = sums[lane];
        weighted[lane] = weighted_sums[lane];
    }
}
