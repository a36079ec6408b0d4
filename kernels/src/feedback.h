/* What quench_feedback asks of a backend: codes of a few columns one after the other, and what their misses add to the
 * columns behind them.
 *
 * A miss is the corrected weight less what was decoded. A column's weight is corrected by the misses of all columns
 * before it, in their order: x = fused(miss, factor, x), rounded once each time. So the blocking of loops changes no
 * bit. */
#ifndef QUENCH_FEEDBACK_H
#define QUENCH_FEEDBACK_H

#include "numeric.h"

enum {
    FEEDBACK_COLUMNS = 32, /* settled in one go */
    FEEDBACK_GROUPS = 2,   /* of columns with a scale of their own, in so many columns */
    FEEDBACK_ROWS = 32,    /* the most that are settled side by side: their 256 columns are TILE */
    FEEDBACK_PANEL = 256   /* columns whose misses are carried on together */
};

/* What codes mean: step * code - low, for whole codes from least to most, of each group of 16 or 32 columns and row. */
struct feedback_grid {
    int group;
    float least, most;
    float step[FEEDBACK_GROUPS][FEEDBACK_ROWS], low[FEEDBACK_GROUPS][FEEDBACK_ROWS];
};

/* FEEDBACK_COLUMNS columns of n_rows rows that are FEEDBACK_PANEL apart. `factor` is the square that corrects them by one
 * another, its rows factor_stride apart. */
struct feedback_strip {
    float *x;                 /* corrected weights; misses when it is done */
    uint8_t *codes;           /* less than zero: as in a signed byte */
    size_t first_row, n_rows; /* rows before the first are done */
    const float *factor;
    size_t factor_stride;
    const double *scales;
    double *sums; /* of each row: scale * miss^2 is added, column after column */
};

/* The nearest code; of NaN the least one. Bounds are whole, so that rounding after the clamp is exact. */
static inline float feedback_code(float x, float step, float low, float least, float most) {
    float code = (x + low) / step;
    code = code > least ? code : least;
    code = code < most ? code : most;
    return (float)nearest(code);
}

#endif
