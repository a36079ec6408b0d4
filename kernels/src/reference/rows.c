/* Rows of logits, one number at a time. */
#include "../rows.h"
#include "codecs.h"

size_t quench_above(const float *x, size_t from, size_t n, float than) {
    while (from < n && !(x[from] > than)) {
        from++;
    }
    return from;
}

/* Adds high parts and low parts of the four columns of one sum. */
static void add_four(const float high[4], const float low[4], double *sum) {
    for (int k = 0; k < 4; k++) {
        *sum += (double)high[k];
    }
    *sum += (double)((low[0] + low[1]) + (low[2] + low[3]));
}

void quench_weigh(const float *x, size_t n, const struct row_scale *scale, double *sums) {
    float high[4], low[4];
    for (size_t i = 0; i < n; i += ROW_GROUP) {
        for (size_t lane = 0; lane < ROW_SUMS; lane++) {
            for (size_t k = 0; k < 4; k++) {
                high[k] = row_weight(x[i + lane + k * ROW_SUMS], scale, &low[k]);
            }
            add_four(high, low, sums + lane);
        }
    }
}

/* The same for weights times differences. */
static void add_four_times(const float high[4], const float low[4], const double difference[4], double *sum) {
    float product[2];
    for (int k = 0; k < 4; k++) {
        *sum += (double)high[k] * difference[k];
    }
    for (int k = 0; k < 4; k += 2) {
        product[k / 2] = fused(low[k + 1], (float)difference[k + 1], low[k] * (float)difference[k]);
    }
    *sum += (double)(product[0] + product[1]);
}

void quench_weigh_pair(const float *x, const float *y, size_t n, const struct row_scale *x_scale,
                       const struct row_scale *y_scale, double centre, double *sums) {
    const struct row_scale *scales[2] = {x_scale, y_scale};
    const int near = row_pair_near(x_scale, y_scale, centre);
    float logits[2][4], high[4], low[4];
    double difference[4];
    for (size_t i = 0; i < n; i += ROW_GROUP) {
        for (size_t lane = 0; lane < ROW_SUMS; lane++) {
            for (size_t k = 0; k < 4; k++) {
                const float a = x[i + lane + k * ROW_SUMS], b = y[i + lane + k * ROW_SUMS];
                logits[0][k] = a;
                logits[1][k] = b;
                difference[k] = near ? (double)(a - b) : (double)a - (double)b - centre;
            }
            for (int side = 0; side < 2; side++) {
                for (int k = 0; k < 4; k++) {
                    high[k] = row_weight(logits[side][k], scales[side], &low[k]);
                }
                add_four(high, low, sums + side * ROW_SUMS + lane);
                add_four_times(high, low, difference, sums + (2 + side) * ROW_SUMS + lane);
            }
        }
    }
}

void quench_subtract(const float *x, size_t n, double by, float *out) {
    for (size_t i = 0; i < n; i++) {
        out[i] = (float)((double)x[i] - by);
    }
}
