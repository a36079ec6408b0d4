/* What the refinement of Q3_K and Q6_K tries, for all backends. */
#ifndef QUENCH_K_SYMMETRIC_REFINE_H
#define QUENCH_K_SYMMETRIC_REFINE_H

/* Q3_K: inverse scales -(4 + tenth / 10) / peak, over a wider range than the exact search, or the same with the other
 * sign: then the peak has the codes that go one step less far, which may suit the other weights. */
struct code_range {
    int tenth, flipped;
};
#define REFINE_Q3_K_PLAIN {{-2, 0}, {4, 0}, {8, 0}, {-8, 1}}
#define REFINE_Q3_K_WEIGHTED {{4, 0}, {12, 0}, {22, 0}, {44, 0}, {2, 1}, {14, 1}, {32, 1}}

/* Of a group's sum of weight * x * x: far above the rounding of the sums, far below what is worth having. */
#define REFINE_Q3_K_MARGIN 1e-5f

/* Q6_K: what is added to the magnitude of a level to try others, the count being even. Chosen greedily on gaussian and on
 * trained weights among -6 to 22; with importance, smaller errors lie where the steps are larger. */
#define REFINE_Q6_K_PLAIN {-4, -3, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14, 18}
#define REFINE_Q6_K_WEIGHTED {3, 4, 5, 6, 7, 8, 9, 11, 12, 14, 16, 19}
enum { REFINE_Q6_K_PLAIN_TRIED = 16, REFINE_Q6_K_WEIGHTED_TRIED = 12 };

/* The scan runs in 16-bit integers: x / step in 512ths is X * b >> 15 for X = 32767 x / size and b = REFINE_UNIT * size / step. */
#define REFINE_UNIT 512.015625f
/* A level is tried if no code is clamped: steps that reach the extremes with codes up to 31.45 and down to -32.45. */
#define REFINE_REACH_HIGH 0.031796503f /* 1 / 31.45 */
#define REFINE_REACH_LOW 0.030816641f  /* 1 / 32.45 */

/* The new error has to be smaller by more than roundings. */
#define REFINE_Q6_K_GAIN 0.9999f
/* Sums, and weights, that are smaller than this have lost digits. */
#define REFINE_TINY 1e-30f

#endif
