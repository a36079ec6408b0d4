/* What the refinement of Q3_K and Q6_K tries, for all backends. */
#ifndef QUENCH_REFINE_SYMMETRIC_H
#define QUENCH_REFINE_SYMMETRIC_H

/* Q3_K: inverse scales -(4 + tenth / 10) / peak, like the exact search but over a wider range and for the true weights.
 * With importance a group may also be better off when its peak has the other sign's codes, which go one step less far. */
#define REFINE_Q3_K_PLAIN {-8, -3, 2, 6, 11, 16}
#define REFINE_Q3_K_WEIGHTED {-6, -2, 3, 7, 11, 15, 20, 24}
#define REFINE_Q3_K_FLIPPED {-14, -6, 2, 10}

/* Of a group's sum of weight * x * x: far above the rounding of the sums, far below what is worth having. */
#define REFINE_Q3_K_MARGIN 1e-5f

/* Q6_K: levels that are that much larger in magnitude. The scan runs in 16-bit integers. */
enum { REFINE_Q6_K_FIRST = -5, REFINE_Q6_K_LAST = 12 };

/* x / step in 512ths is X * b >> 15 for X = 32767 x / size and b = REFINE_UNIT * size / step. */
#define REFINE_UNIT 512.015625f
/* A level is tried if no code is clamped: no X * size / 32767 beyond 31.45 steps, or 32.45 below. */
#define REFINE_REACH_HIGH 9.7037e-7f /* 1 / (32767 * 31.45) */
#define REFINE_REACH_LOW 9.4047e-7f  /* 1 / (32767 * 32.45) */

/* The new error has to be smaller by more than roundings. */
#define REFINE_Q6_K_GAIN 0.9999f
/* Sums, and weights, that are smaller than this have lost digits. */
#define REFINE_TINY 1e-30f

#endif
