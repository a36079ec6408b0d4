/* Refinement of Q2_K, Q4_K and Q5_K: how far it looks, and how exactly.
 *
 * A round tries other levels for each group, codes the weights anew for each, and then fits the block's two 16-bit
 * numbers to the codes by least squares. A scale and a low that grow together keep the middle of a group where it is,
 * so the window is a band: `reach` levels to both sides for the scale, and for the low REFINE_BAND levels around what
 * keeps the middle. At the end the block with the smaller error stays, as its reader will see it.
 *
 * Candidates are compared in 16-bit fixed point, two weights where a float would be: it only has to tell which is
 * better. A code is so many units that the range of codes fits in 14 bits twice, and what is larger is cut, which keeps
 * all sums in 16 bits. */
#ifndef QUENCH_K_MIN_REFINE_H
#define QUENCH_K_MIN_REFINE_H

enum { REFINE_BAND = 5, REFINE_STEPS = 7 /* 2 * reach + 1 at most */ };

static inline int refine_unit(int top) {
    return top > 15 ? 256 : 512;
}

/* Weights and importance of a group are fractions of the largest one, which is this number. A product of two fractions
 * loses 15 bits. */
#define REFINE_LARGEST 32767.0f
#define REFINE_FRACTION (32768.0f / 32767.0f)

/* The largest factor and base of a candidate, in units. */
#define REFINE_LIMIT 16383.0f

/* The most levels that the low moves for one level of the scale. */
#define REFINE_STEEPEST 4.0f

/* The fit of both numbers needs codes and lows that are not proportional: least determinant, as part of a product. */
#define REFINE_INDEPENDENT 0.001f

/* Groups whose weights or importance are all smaller keep their levels, blocks with smaller errors stay as they are:
 * terms may underflow. And the new error must be smaller by more than what float sums of 256 terms can hide. */
#define REFINE_LEAST 0x1p-100f
#define REFINE_DROP (1.0f - 0x1p-16f)

#endif
