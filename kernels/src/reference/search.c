#include "search.h"

#include <string.h>

#include "../numeric.h"

enum { LONGEST = 32, DESCENTS = 5 };

/* The value of the largest magnitude, with its sign; the first one of equals. */
static float extreme(int n, const float *x, float *size) {
    float value = 0.0f;
    *size = 0.0f;
    for (int i = 0; i < n; i++) {
        if (magnitude(x[i]) > *size) {
            *size = magnitude(x[i]);
            value = x[i];
        }
    }
    return value;
}

/* ---- scale and low ---- */

struct line {
    float scale, low; /* low as it is added: never positive */
};

/* The terms first, which vectors can do, then the ordered sum, which they cannot. */
static inline float line_error(int n, struct line line, int absolute, const float *x, const float *weight,
                               const float *codes) {
    float terms[LONGEST], error = 0.0f;
    for (int i = 0; i < n; i++) {
        float miss = line.scale * codes[i] + line.low - x[i];
        terms[i] = weight[i] * (absolute ? magnitude(miss) : miss * miss);
    }
    for (int i = 0; i < n; i++) {
        error += terms[i];
    }
    return error;
}

static inline void code_range(int n, int top, float inverse, float low, const float *x, float *codes) {
    for (int i = 0; i < n; i++) {
        codes[i] = (float)clamp(nearest(inverse * (x[i] - low)), 0, top);
    }
}

/* Weighted least squares of x on the codes; a line that would need a positive low goes through zero instead. */
static int refit_line(float sum_w, float sum_x, float sum_l, float sum_ll, float sum_lx, struct line *line) {
    float determinant = sum_w * sum_ll - sum_l * sum_l;
    if (!(determinant > 0.0f)) {
        return 0;
    }
    line->scale = (sum_w * sum_lx - sum_x * sum_l) / determinant;
    line->low = (sum_ll * sum_x - sum_l * sum_lx) / determinant;
    if (line->low > 0.0f) {
        line->low = 0.0f;
        line->scale = sum_lx / sum_ll;
    }
    return 1;
}

static inline float fit_range(int n, int top, struct range_grid grid, const float *x, const float *weight,
                              uint8_t *codes, float *low) {
    float least = x[0], most = x[0];
    float sum_w = weight[0], sum_x = weight[0] * x[0];
    for (int i = 1; i < n; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
        sum_w += weight[i];
        sum_x += weight[i] * x[i];
    }
    least = least > 0.0f ? 0.0f : least;
    if (most == least) {
        memset(codes, 0, (size_t)n);
        *low = -least;
        return 0.0f;
    }

    float tried[LONGEST];
    float inverse = (float)top / (most - least);
    struct line best = {1.0f / inverse, least};
    float best_inverse = inverse, best_start = least;
    code_range(n, top, inverse, best.low, x, tried);
    float best_error = line_error(n, best, grid.absolute, x, weight, tried);

    /* An accepted line moves the low end that the next candidates start from. */
    for (int step = 0; step <= grid.steps; step++) {
        float l[LONGEST], ll[LONGEST], lx[LONGEST];
        float sum_l = 0.0f, sum_ll = 0.0f, sum_lx = 0.0f;
        inverse = (grid.first + grid.step * (float)step + (float)top) / (most - best.low);
        code_range(n, top, inverse, best.low, x, tried);
        for (int i = 0; i < n; i++) {
            l[i] = weight[i] * tried[i];
            ll[i] = l[i] * tried[i];
            lx[i] = l[i] * x[i];
        }
        for (int i = 0; i < n; i++) {
            sum_l += l[i];
            sum_ll += ll[i];
            sum_lx += lx[i];
        }
        struct line line;
        if (!refit_line(sum_w, sum_x, sum_l, sum_ll, sum_lx, &line)) {
            continue;
        }
        float error = line_error(n, line, grid.absolute, x, weight, tried);
        if (error < best_error) {
            best_start = best.low;
            best_inverse = inverse;
            best = line;
            best_error = error;
        }
    }
    code_range(n, top, best_inverse, best_start, x, tried);
    for (int i = 0; i < n; i++) {
        codes[i] = (uint8_t)(int32_t)tried[i];
    }
    *low = -best.low;
    return best.scale;
}

/* One copy of the search for each length that formats use, so that the loops have constant bounds. */
float quench_fit_range(int n, int top, struct range_grid grid, const float *x, const float *weight, uint8_t *codes,
                       float *low) {
    return n == 16   ? fit_range(16, top, grid, x, weight, codes, low)
           : n == 32 ? fit_range(32, top, grid, x, weight, codes, low)
                     : fit_range(n, top, grid, x, weight, codes, low);
}

/* ---- symmetric ---- */

struct products {
    float lx, ll; /* weighted sums of code * x and code * code; lx^2 / ll is what a candidate explains */
};

static inline struct products explain(int n, int half, float inverse, const float *x, const float *weight) {
    struct products sum = {0.0f, 0.0f};
    float lx[LONGEST], ll[LONGEST];
    for (int i = 0; i < n; i++) {
        float code = (float)clamp(nearest(inverse * x[i]), -half, half - 1);
        lx[i] = weight[i] * x[i] * code;
        ll[i] = weight[i] * code * code;
    }
    for (int i = 0; i < n; i++) {
        sum.lx += lx[i];
        sum.ll += ll[i];
    }
    return sum;
}

static inline void code_symmetric(int n, int half, float inverse, const float *x, uint8_t *codes) {
    for (int i = 0; i < n; i++) {
        codes[i] = (uint8_t)(clamp(nearest(inverse * x[i]), -half, half - 1) + half);
    }
}

static void squares(int n, const float *x, float *out) {
    for (int i = 0; i < n; i++) {
        out[i] = x[i] * x[i];
    }
}

static inline float fit_symmetric(int n, int half, const float *x, const float *weight, uint8_t *codes) {
    float size, own[LONGEST];
    float peak = extreme(n, x, &size);
    if (size < QUENCH_ZERO_GROUP) {
        memset(codes, 0, (size_t)n);
        return 0.0f;
    }
    if (!weight) {
        squares(n, x, own);
        weight = own;
    }
    float best_inverse = (float)-half / peak;
    struct products sum = explain(n, half, best_inverse, x, weight);
    float scale = sum.ll != 0.0f ? sum.lx / sum.ll : 0.0f;
    float best = scale * sum.lx;
    for (int tenth = -9; tenth <= 9; tenth++) {
        if (tenth == 0) {
            continue;
        }
        float inverse = -((float)half + 0.1f * (float)tenth) / peak;
        sum = explain(n, half, inverse, x, weight);
        if (sum.ll > 0.0f && sum.lx * sum.lx > best * sum.ll) {
            scale = sum.lx / sum.ll;
            best = scale * sum.lx;
            best_inverse = inverse;
        }
    }
    code_symmetric(n, half, best_inverse, x, codes);
    return scale;
}

float quench_fit_symmetric(int n, int half, const float *x, const float *weight, uint8_t *codes) {
    return n == 16   ? fit_symmetric(16, half, x, weight, codes)
           : n == 32 ? fit_symmetric(32, half, x, weight, codes)
                     : fit_symmetric(n, half, x, weight, codes);
}

float quench_descend_symmetric(int n, int half, const float *x, uint8_t *codes) {
    float size, weight[LONGEST];
    float peak = extreme(n, x, &size);
    if (size < QUENCH_ZERO_GROUP) {
        memset(codes, 0, (size_t)n);
        return 0.0f;
    }
    squares(n, x, weight);
    struct products sum = explain(n, half, (float)-half / peak, x, weight);
    code_symmetric(n, half, (float)-half / peak, x, codes);
    for (int round = 0; round < DESCENTS; round++) {
        int changed = 0;
        for (int i = 0; i < n; i++) {
            int old = codes[i] - half;
            float wx = weight[i] * x[i];
            struct products other = {sum.lx - wx * (float)old, 0.0f};
            if (!(other.lx > 0.0f)) {
                continue;
            }
            other.ll = sum.ll - weight[i] * (float)old * (float)old;
            int code = clamp(nearest(x[i] * other.ll / other.lx), -half, half - 1);
            if (code == old) {
                continue;
            }
            other.lx += wx * (float)code;
            other.ll += weight[i] * (float)code * (float)code;
            if (other.ll > 0.0f && other.lx * other.lx * sum.ll > sum.lx * sum.lx * other.ll) {
                codes[i] = (uint8_t)(code + half);
                sum = other;
                changed = 1;
            }
        }
        if (!changed) {
            break;
        }
    }
    return sum.ll > 0.0f ? sum.lx / sum.ll : 0.0f;
}

/* ---- levels: scales of scales ---- */

static float level_error(int n, int top, float inverse, int capped, const float *x, const float *weight) {
    float scale = 1.0f / inverse, error = 0.0f;
    for (int i = 0; i < n; i++) {
        int level = nearest(inverse * x[i]);
        /* The first candidate is stored in a byte before it is measured, the others are capped. */
        level = !capped ? (uint8_t)level : level > top ? top : level;
        float miss = x[i] - scale * (float)level;
        error += weight[i] * miss * miss;
    }
    return error;
}

static float best_inverse(int n, int top, float most, const float *x, const float *weight) {
    float best = (float)top / most;
    float best_error = level_error(n, top, best, 0, x, weight);
    for (int tenth = -4; tenth <= 4; tenth++) {
        if (tenth == 0) {
            continue;
        }
        float inverse = (0.1f * (float)tenth + (float)top) / most;
        float error = level_error(n, top, inverse, 1, x, weight);
        if (error < best_error) {
            best_error = error;
            best = inverse;
        }
    }
    return best;
}

float quench_fit_levels(int n, int top, const float *x, const float *weight, uint8_t *levels) {
    float most = 0.0f;
    for (int i = 0; i < n; i++) {
        most = most > x[i] ? most : x[i];
    }
    if (most < QUENCH_ZERO_GROUP) {
        memset(levels, 0, (size_t)n);
        return 0.0f;
    }
    float inverse = best_inverse(n, top, most, x, weight);
    struct products sum = {0.0f, 0.0f};
    for (int i = 0; i < n; i++) {
        int level = nearest(inverse * x[i]);
        level = level > top ? top : level;
        levels[i] = (uint8_t)level;
        sum.lx += weight[i] * x[i] * (float)level;
        sum.ll += weight[i] * (float)level * (float)level;
    }
    for (int round = 0; round < DESCENTS; round++) {
        int changed = 0;
        for (int i = 0; i < n; i++) {
            float wx = weight[i] * x[i], old = (float)levels[i];
            struct products other = {sum.lx - wx * old, sum.ll - weight[i] * old * old};
            if (!(other.lx > 0.0f && other.ll > 0.0f)) {
                continue;
            }
            int level = nearest(x[i] * other.ll / other.lx);
            level = level > top ? top : level;
            if (level == levels[i]) {
                continue;
            }
            other.lx += wx * (float)level;
            other.ll += weight[i] * (float)level * (float)level;
            if (other.lx * other.lx * sum.ll > sum.lx * sum.lx * other.ll) {
                levels[i] = (uint8_t)level;
                sum = other;
                changed = 1;
            }
        }
        if (!changed) {
            break;
        }
    }
    return sum.ll > 0.0f ? sum.lx / sum.ll : 0.0f;
}
