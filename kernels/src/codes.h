/* Blocks whose weights are step * code - low, in parts: codes and scales apart. And the rows that they are made from. */
#ifndef QUENCH_CODES_H
#define QUENCH_CODES_H

#include <stdint.h>

#include "backend.h"

enum { CODE_GROUPS = 16 }; /* of weights with a scale of their own, in a block */

/* Whether a type's blocks are such. All that follows is about those alone. */
int quench_has_codes(int32_t type);

/* Codes of a block as they are stored, each in a byte. */
void quench_unpack_codes(int32_t type, const uint8_t *block, size_t n, uint8_t *codes);
void quench_pack_codes(int32_t type, const uint8_t *codes, uint8_t *block);

/* What is added to a code that may be negative when it is stored; 0 where codes begin at 0, or are signed bytes. */
int quench_code_half(int32_t type);

/* The largest code, and the least one. */
int quench_code_most(int32_t type);
float quench_code_least(int32_t type);

/* Weights that share a scale. */
int quench_code_group(int32_t type);

/* Step and low of each group of a block, by the decoder's own operations. */
void quench_read_scales(int32_t type, const uint8_t *block, float *steps, float *lows);

/* Rows of floats or 16-bit numbers, `stride` bytes apart. */
struct source {
    const struct backend *backend;
    int32_t type;
    const uint8_t *rows;
    int64_t stride;
};

int quench_is_source(int32_t row_type);

/* n weights of a row from `start` on. */
void quench_widen(const struct source *source, int64_t row, int64_t start, size_t n, float *out);

#endif
