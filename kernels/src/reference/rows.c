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

/* The same for weights times differences. A centre of 0 needs no double for what is low. */
static void add_four_times(const float high[4], const float low[4], const float x[4], const float y[4], double centre,
                           double *sum) {
    float product[4];
    for (int k = 0; k < 4; k++) {
        const double difference = (double)x[k] - (double)y[k] - centre;
        *sum += (double)high[k] * difference;
        product[k] = low[k] * (centre == 0.0 ? x[k] - y[k] : (float)difference);
    }
    *sum += (double)((product[0] + product[1]) + (product[2] + product[3]));
}

void quench_weigh_pair(const float *x, const float *y, size_t n, const struct row_scale *x_scale,
                       const struct row_scale *y_scale, double centre, double *sums) {
    const struct row_scale *scales[2] = {x_scale, y_scale};
    float a[4], b[4], high[4], low[4];
    for (size_t i = 0; i < n; i += ROW_GROUP) {
        for (size_t lane = 0; lane < ROW_SUMS; lane++) {
            for (size_t k = 0; k < 4; k++) {
                a[k] = x[i + lane + k * ROW_SUMS];
                b[k] = y[i + lane + k * ROW_SUMS];
            }
            for (int side = 0; side < 2; side++) {
                for (int k = 0; k < 4; k++) {
                    high[k] = row_weight(side ? b[k] : a[k], scales[side], &low[k]);
                }
                add_four(high, low, sums + side * ROW_SUMS + lane);
                add_four_times(high, low, a, b, centre, sums + (2 + side) * ROW_SUMS + lane);
            }
        }
    }
}

void quench_subtract(const float *x, size_t n, double by, float *out) {
    for (size_t i = 0; i < n; i++) {
        out[i] = (float)((double)x[i] - by);
    }
}
