/* Error feedback, one number at a time. */
#include "../feedback.h"
#include "codecs.h"

void quench_settle(const struct feedback_grid *grid, const struct feedback_strip *strip) {
    for (size_t row = strip->first_row; row < strip->n_rows; row++) {
        const size_t first = row * FEEDBACK_PANEL;
        float *x = strip->x + first;
        for (size_t j = 0; j < FEEDBACK_COLUMNS; j++) {
            const size_t group = j / (size_t)grid->group;
            const float step = grid->step[group][row], low = grid->low[group][row];
            const float code = feedback_code(x[j], step, low, grid->least, grid->most);
            const float decoded = step * code - low;
            x[j] -= decoded;
            strip->codes[first + j] = (uint8_t)(int32_t)code;
            strip->sums[row] += strip->scales[j] * ((double)x[j] * (double)x[j]);
            for (size_t k = j + 1; k < FEEDBACK_COLUMNS; k++) {
                x[k] = fused(x[j], strip->factor[j * strip->factor_stride + k], x[k]);
            }
        }
    }
}

void quench_carry(const float *misses, size_t misses_stride, const float *factor, size_t factor_stride, size_t inner,
                  float *x, size_t x_stride, size_t n_rows, size_t n_cols) {
    for (size_t row = 0; row < n_rows; row++, misses += misses_stride, x += x_stride) {
        for (size_t i = 0; i < inner; i++) {
            for (size_t k = 0; k < n_cols; k++) {
                x[k] = fused(misses[i], factor[i * factor_stride + k], x[k]);
            }
        }
    }
}
