/* Error feedback. Codes of a column are found for W rows at once, a lane each; what misses add to the columns behind them
 * is a product of matrices, whose sums stay in registers. */
#include "../feedback.h"
#include "../reference/codecs.h"
#include "lanes.h"
#include "wide.h"

enum { VECTORS = 2, AT_ONCE = 4, STEP_COLUMNS = VECTORS * W };

/* ---- codes ---- */

/* Columns of W rows, a vector each. */
QUENCH_INLINE void load_strip(const float *rows, vf columns[FEEDBACK_COLUMNS]) {
    for (size_t j = 0; j < FEEDBACK_COLUMNS; j += 8) {
        vf_transpose8(rows + j, FEEDBACK_PANEL, columns + j);
    }
}

QUENCH_INLINE void settle_rows(const struct feedback_grid *grid, const struct feedback_strip *strip, size_t row) {
    const size_t first = row * FEEDBACK_PANEL;
    const vf least = vf_set(grid->least), most = vf_set(grid->most);
    vf x[FEEDBACK_COLUMNS];
    float misses[FEEDBACK_COLUMNS][W];
    int32_t codes[FEEDBACK_COLUMNS][W];
    load_strip(strip->x + first, x);
    vw sums = vw_load(strip->sums + row);
    for (size_t j = 0; j < FEEDBACK_COLUMNS; j++) {
        const size_t group = j / (size_t)grid->group;
        const float *factor = strip->factor + j * strip->factor_stride;
        const vf step = vf_load(grid->step[group] + row), low = vf_load(grid->low[group] + row);
        const vf bounded = vf_least(vf_most(vf_div(vf_add(x[j], low), step), least), most);
        const vf code = vf_round(bounded);
        const vf decoded = vf_sub(vf_mul(step, code), low);
        const vf miss = vf_sub(x[j], decoded);
        const vw wide_miss = vw_widen(miss);
        sums = vw_add(sums, vw_mul(vw_set(strip->scales[j]), vw_mul(wide_miss, wide_miss)));
        vi_store(codes[j], vi_nearest(code));
        vf_store(misses[j], miss);
        for (size_t k = j + 1; k < FEEDBACK_COLUMNS; k++) {
            x[k] = vf_fused(miss, vf_set(factor[k]), x[k]);
        }
    }
    vw_store(strip->sums + row, sums);
    for (size_t lane = 0; lane < W; lane++) {
        for (size_t j = 0; j < FEEDBACK_COLUMNS; j++) {
            strip->codes[first + lane * FEEDBACK_PANEL + j] = (uint8_t)codes[j][lane];
            strip->x[first + lane * FEEDBACK_PANEL + j] = misses[j][lane];
        }
    }
}

void LANES(settle)(const struct feedback_grid *grid, const struct feedback_strip *strip) {
    struct feedback_strip rest = *strip;
    for (; rest.first_row + W <= rest.n_rows; rest.first_row += W) {
        settle_rows(grid, strip, rest.first_row);
    }
    quench_settle(grid, &rest);
}

/* ---- what they carry ---- */

/* STEP_COLUMNS of `rows` rows; `factor` has them for each of `inner` misses. */
QUENCH_INLINE void carry_few(const float *misses, size_t misses_stride, const float *factor, size_t inner, float *x,
                             size_t x_stride, size_t rows) {
    vf sums[AT_ONCE][VECTORS];
    for (size_t row = 0; row < rows; row++) {
        for (size_t k = 0; k < VECTORS; k++) {
            sums[row][k] = vf_load(x + row * x_stride + k * W);
        }
    }
    for (size_t i = 0; i < inner; i++) {
        vf factors[VECTORS];
        for (size_t k = 0; k < VECTORS; k++) {
            factors[k] = vf_load(factor + i * STEP_COLUMNS + k * W);
        }
        for (size_t row = 0; row < rows; row++) {
            const vf miss = vf_set(misses[row * misses_stride + i]);
            for (size_t k = 0; k < VECTORS; k++) {
                sums[row][k] = vf_fused(miss, factors[k], sums[row][k]);
            }
        }
    }
    for (size_t row = 0; row < rows; row++) {
        for (size_t k = 0; k < VECTORS; k++) {
            vf_store(x + row * x_stride + k * W, sums[row][k]);
        }
    }
}

/* The factors of a few columns are put together first: in a large matrix each of their rows is on another page. */
void LANES(carry)(const float *misses, size_t misses_stride, const float *factor, size_t factor_stride, size_t inner,
                  float *x, size_t x_stride, size_t n_rows, size_t n_cols) {
    float together[FEEDBACK_PANEL * STEP_COLUMNS];
    for (size_t column = 0; column < n_cols; column += STEP_COLUMNS) {
        for (size_t i = 0; i < inner; i++) {
            memcpy(together + i * STEP_COLUMNS, factor + i * factor_stride + column, STEP_COLUMNS * sizeof *factor);
        }
        size_t row = 0;
        for (; row + AT_ONCE <= n_rows; row += AT_ONCE) {
            carry_few(misses + row * misses_stride, misses_stride, together, inner, x + row * x_stride + column,
                      x_stride, AT_ONCE);
        }
        for (; row < n_rows; row++) {
            carry_few(misses + row * misses_stride, misses_stride, together, inner, x + row * x_stride + column,
                      x_stride, 1);
        }
    }
}
