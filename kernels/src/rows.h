/* What the row reductions of all backends share: the order of sums and the exponential.
 *
 * The exponential of t = x - anchor is 2^(n/8) * e^r with n = round(8 t / ln 2) and |r| <= ln 2 / 16, in float, given as
 * high + low: high is the float next to 2^(n/8), and low = high * (e^r * 2^(n/8) / high - 1), at most 0.09 of the whole,
 * is all that is rounded. The sum of both is within 1.1e-8 of the truth, a tenth of a unit in the last place of a float.
 * Its pieces:
 *   - t - n * EXP_STEP is exact since |n| < 4096 and EXP_STEP has 12 bits;
 *   - EXP_STEP_REST is ln 2 / 8 - EXP_STEP;
 *   - e^r - 1 = r + r^2 (1/2 + r (EXP_C3 + r EXP_C4)) to 1.8e-10, fitted at Chebyshev nodes to |r| <= 0.0434;
 *   - what is below 2^-126 of the row's largest weighs less than it should, and from 2^-127 on nothing.
 *
 * a * b + c is rounded once wherever fused() says so: every vector backend has an instruction for it.
 *
 * Sums are kept in 16 doubles: column i goes to sum i % 16. Four columns that are 16 apart, of each 64 from the row's
 * beginning, go there together: their high parts one after the other, then their low parts, which were added in float
 * as (0 + 1) + (2 + 3). A row is filled up to 64 with -FLT_MAX. So every backend gives the same bits, whatever the width
 * of its vectors. */
#ifndef QUENCH_ROWS_H
#define QUENCH_ROWS_H

#include <stdint.h>

#include "numeric.h"

enum {
    ROW_SUMS = 16,
    ROW_GROUP = 64,
    ROW_PIECE = 4096 /* columns at once: those of two rows fit a first cache */
};

#define EXP_PER_LN2 0x1.715476p+3f /* 8 / ln 2 */
#define EXP_MAGIC 12582912.0f      /* 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold */
#define EXP_STEP 0x1.62ep-4f
#define EXP_STEP_REST 0x1.0bfbe8p-18f
#define EXP_C3 0x1.555c86p-3f
#define EXP_C4 0x1.555a44p-5f

/* How a row's logits become weights: exp(x - anchor) * 2^-shift. `high` holds the bits of the floats next to
 * 2^(j/8 - shift), less j << 20: what n << 20 adds to the exponent has j in its lowest bits. `rest` holds what is missing
 * in them, as a part of them. x - anchor is raised to `least`, whose n << 20 takes away all bits of high[0]. */
struct row_scale {
    float anchor, least;
    int32_t high[8];
    float rest[8];
};

/* The ordinary case: logits of the usual size, and of both rows about equal. Then differences are floats, rounded at most
 * as much as a float is, which costs less than doubles less their centre. */
static inline int row_pair_near(const struct row_scale *x, const struct row_scale *y, double centre) {
    return x->anchor == 0.0f && y->anchor == 0.0f && centre == 0.0;
}

/* The high and low part of a weight, by the operations that every backend does. */
static inline float row_weight(float x, const struct row_scale *scale, float *low) {
    const float away = x - scale->anchor, t = scale->least > away ? scale->least : away; /* NaN stays */
    const float shifted = fused(t, EXP_PER_LN2, EXP_MAGIC);
    const float n = shifted - EXP_MAGIC;
    const float r = fused(n, -EXP_STEP_REST, t - n * EXP_STEP);
    const float u = fused(fused(fused(EXP_C4, r, EXP_C3), r, 0.5f), r * r, r);
    const uint32_t bits = bits_of(shifted);
    const float high = float_of((bits << 20) + (uint32_t)scale->high[bits & 7u]);
    *low = high * (u + scale->rest[bits & 7u]);
    return high;
}

#endif
