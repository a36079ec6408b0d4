/* What tells Q2_K, Q4_K and Q5_K apart. */
#ifndef QUENCH_K_MIN_FORMATS_H
#define QUENCH_K_MIN_FORMATS_H

#include "search.h"

enum { MOST_GROUPS = 16, LONGEST_GROUP = 32 };

struct k_min_format {
    int group;               /* weights in a group */
    int top;                 /* highest code */
    int level_top;           /* highest level */
    struct range_grid plain; /* grid without importance */
    int plain_rms;           /* weight of an error is |x| plus the group's root mean square, not |x| alone */
    float energy_factor;     /* with importance: of the super-block's sum of squares */
    int cap_plain, cap_fitted; /* levels above level_top are cut, after each of the two level searches */
};

static const struct range_grid grid_with_importance = {-0.9f, 0.05f, 36, 0};

static const struct k_min_format q2_k = {16, 3, 15, {-0.5f, 0.1f, 15, 1}, 0, 1.0f, 0, 0};
static const struct k_min_format q4_k = {32, 15, 63, {-1.0f, 0.1f, 20, 0}, 1, 2.0f, 1, 0};
static const struct k_min_format q5_k = {32, 31, 63, {-0.5f, 0.1f, 15, 0}, 1, 2.0f, 1, 1};

#endif
