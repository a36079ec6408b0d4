/* Refinement of Q2_K, Q4_K and Q5_K: how far it looks.
 *
 * A round tries other levels for each group, codes the weights anew for each, and then fits the block's two 16-bit
 * numbers to the codes by least squares. A scale and a low that grow together keep the middle of a group where it is,
 * so the window is a band: `reach` levels to both sides for the scale, and for the low one level to both sides of what
 * keeps the middle. At the end the block with the smaller error stays, as its reader will see it. */
#ifndef QUENCH_K_MIN_REFINE_H
#define QUENCH_K_MIN_REFINE_H

enum { REFINE_ROUNDS = 2, REFINE_BAND = 3 };

static const int refine_reach_plain[REFINE_ROUNDS] = {1, 1};
static const int refine_reach_importance[REFINE_ROUNDS] = {3, 1};

/* The most levels that the low moves for one level of the scale. */
#define REFINE_STEEPEST 4.0f

/* The fit of both numbers needs codes and lows that are not proportional: the least determinant, as part of a product. */
#define REFINE_INDEPENDENT 0.001f

/* Smaller errors are left alone, since their terms may underflow; and the new error must be smaller by more than what
 * float sums of 256 terms can hide. */
#define REFINE_LEAST_ERROR 0x1p-100f
#define REFINE_DROP (1.0f - 0x1p-16f)

#endif
