/* What tells Q2_K, Q4_K and Q5_K apart, and their parts in numbers. */
#ifndef QUENCH_K_MIN_H
#define QUENCH_K_MIN_H

#include <stddef.h>

#include "../blocks.h"
#include "search.h"

enum { MOST_GROUPS = 16, LONGEST_GROUP = 32, REFINE_ROUNDS = 2 };

struct k_min_format {
    int group;                 /* weights in a group */
    int top;                   /* highest code */
    int level_top;             /* highest level */
    struct range_grid plain;   /* grid without importance */
    int plain_rms;             /* weight of an error is |x| plus the group's root mean square, not |x| alone */
    float energy_factor;       /* with importance: of the super-block's sum of squares */
    int cap_plain, cap_fitted; /* levels above level_top are cut, after each of the two level searches */
    /* Bytes of a block, and where in it the parts begin: the two 16-bit numbers lie together. Fifth bits have a plane
     * of their own where codes need them, else 0. */
    int bytes, levels, numbers, codes, fifth;
    /* Levels that each round of a refinement reaches, without and with importance; 0 for no round. */
    int reach_plain[REFINE_ROUNDS], reach_importance[REFINE_ROUNDS];
};

static const struct range_grid grid_with_importance = {-0.9f, 0.05f, 36, 0};

static const struct k_min_format q2_k = {
    16, 3, 15, {-0.5f, 0.1f, 15, 1}, 0, 1.0f, 0, 0,
    sizeof(struct block_q2_k), offsetof(struct block_q2_k, levels), offsetof(struct block_q2_k, scale),
    offsetof(struct block_q2_k, codes), 0, {2, 0}, {3, 2}};
static const struct k_min_format q4_k = {
    32, 15, 63, {-1.0f, 0.1f, 20, 0}, 1, 2.0f, 1, 0,
    sizeof(struct block_q4_k), offsetof(struct block_q4_k, levels), offsetof(struct block_q4_k, scale),
    offsetof(struct block_q4_k, codes), 0, {3, 0}, {3, 2}};
static const struct k_min_format q5_k = {
    32, 31, 63, {-0.5f, 0.1f, 15, 0}, 1, 2.0f, 1, 1,
    sizeof(struct block_q5_k), offsetof(struct block_q5_k, levels), offsetof(struct block_q5_k, scale),
    offsetof(struct block_q5_k, codes), offsetof(struct block_q5_k, high), {2, 0}, {3, 2}};

struct levels {
    float scale, low; /* the block's two numbers */
    uint8_t scales[MOST_GROUPS], lows[MOST_GROUPS];
};

/* Between a block's bytes and its levels and 256 codes. Packing rounds the two numbers to 16 bits, and keeps the low
 * bits of levels and codes that are too large. */
void quench_pack_k_min(const struct k_min_format *format, const struct levels *levels, const uint8_t *codes,
                       uint8_t *block);
void quench_unpack_levels(const struct k_min_format *format, const uint8_t *block, struct levels *levels);
void quench_unpack_k_min(const struct k_min_format *format, const uint8_t *block, struct levels *levels,
                         uint8_t *codes);

#endif
