/* The searches that turn a group of weights into small integers. They are the specification of the formats' bytes:
 * each sum runs in order in single precision, so the order of operations written here is the order that counts. */
#ifndef QUENCH_SEARCH_H
#define QUENCH_SEARCH_H

#include <stdint.h>

/* Candidate grids of the scale-and-low search: step k tries (first + step * k + top) levels over the range. */
struct range_grid {
    float first, step;
    int steps;
    int absolute; /* compare weighted absolute errors instead of squared ones */
};

/* Weights x ~ scale * code - low with codes 0..top and low >= 0. Returns scale; codes are the best that were tried. */
float quench_fit_range(int n, int top, struct range_grid grid, const float *x, const float *weight, uint8_t *codes,
                       float *low);

/* Weights x ~ scale * (code - half) with codes 0..2*half-1. `weight` NULL stands for x*x. Returns scale. */
float quench_fit_symmetric(int n, int half, const float *x, const float *weight, uint8_t *codes);

/* The same model by coordinate descent with x*x as weight. */
float quench_descend_symmetric(int n, int half, const float *x, uint8_t *codes);

/* Non-negative values x ~ scale * level with levels 0..top: scales and lows of a super-block. Returns scale. */
float quench_fit_levels(int n, int top, const float *x, const float *weight, uint8_t *levels);

/* Below this a group counts as zeros. */
#define QUENCH_ZERO_GROUP 1e-15f

#endif
