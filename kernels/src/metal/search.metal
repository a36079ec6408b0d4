/* The searches of src/reference/search.c, one group or super-block a thread, with the proof that nothing is subnormal.
 * Names, order of operations and comments on the format are the reference's. */

namespace quench {

/* ---- scale and low ---- */

struct range_grid {
    float first, step;
    int steps, absolute;
};

constant range_grid GRID_WITH_IMPORTANCE = {-0.9f, 0.05f, 36, 0};

struct line {
    float scale, low;
};

/* The least exponent that weights, scales and lows may have, given the least of the error weights, q.
 *
 * scale * code has a scale's exponent at least, or is zero; with low and x, all multiples of 2^(m-23), the miss is a
 * multiple of 2^(m-23) too (sum). Its square is at least 2^(2m-46) and the term 2^(q+2m-46), which asks for
 * m >= (-80-q)/2 and, for the square itself, m >= -40. With absolute errors the term is 2^(q+m-23) at least. Either way
 * q + m - 23 >= -126, so weight * code * x and the ordered sums of it are safe as well. */
inline int least_exponent(int q, int absolute) {
    if (q == NONE) {
        return -40;
    }
    const int least = absolute ? -103 - q : (-79 - q) >> 1;
    return least > -40 ? least : -40;
}

template <int N>
inline float line_error(line tried, int absolute, thread const float *x, thread const float *weight,
                        thread const float *codes) {
    float error = 0.0f;
    for (int i = 0; i < N; i++) {
        const float scaled = product(tried.scale, codes[i]);
        const float miss = scaled + tried.low - x[i];
        const float distance = absolute ? magnitude(miss) : product(miss, miss);
        const float term = product(weight[i], distance);
        error += term;
    }
    return error;
}

/* A vanishing x - low needs x = low: else it is a multiple of the smaller one's last place, which is at least 2^-64. */
template <int N> inline void code_range(int top, float inverse, float low, thread const float *x, thread float *codes) {
    for (int i = 0; i < N; i++) {
        codes[i] = float(bounded(nearest(product(inverse, x[i] - low)), 0, top));
    }
}

inline bool refit_line(float sum_w, float sum_x, float sum_l, float sum_ll, float sum_lx, thread line &found,
                       thread bool &safe) {
    const float determinant = minus(times(sum_w, sum_ll, safe), times(sum_l, sum_l, safe), safe);
    if (!(determinant > 0.0f)) {
        return false;
    }
    found.scale = over(minus(times(sum_w, sum_lx, safe), times(sum_x, sum_l, safe), safe), determinant, safe);
    found.low = over(minus(times(sum_ll, sum_x, safe), times(sum_l, sum_lx, safe), safe), determinant, safe);
    if (found.low > 0.0f) {
        found.low = 0.0f;
        found.scale = over(sum_lx, sum_ll, safe);
    }
    return true;
}

inline bool line_is_safe(line tried, int least) {
    return (is_zero(tried.scale) || exponent_of(tried.scale) >= least) &&
           (is_zero(tried.low) || exponent_of(tried.low) >= least);
}

/* x ~ scale * code - low. Returns scale; `codes` are the best that were tried. */
template <int N>
inline float fit_range(int top, range_grid grid, thread const float *x, thread const float *weight,
                       thread uchar *codes, thread float &low, thread bool &safe) {
    const extent sizes = extent_of<N>(x), weights = extent_of<N>(weight);
    const int least_safe = least_exponent(weights.low, grid.absolute);
    safe = safe && sizes.low >= least_safe && sizes.high <= 127 && weights.low >= -126 && weights.high <= 127;

    float least = x[0], most = x[0];
    float sum_w = weight[0], sum_x = product(weight[0], x[0]);
    for (int i = 1; i < N; i++) {
        const float wx = product(weight[i], x[i]);
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
        sum_w += weight[i];
        sum_x += wx;
    }
    least = least > 0.0f ? 0.0f : least;
    if (most == least) {
        for (int i = 0; i < N; i++) {
            codes[i] = 0;
        }
        low = -least;
        return 0.0f;
    }

    float tried[N];
    float inverse = quotient(float(top), most - least);
    line best = {quotient(1.0f, inverse), least};
    float best_inverse = inverse, best_start = least;
    safe = safe && in_range(inverse) && line_is_safe(best, least_safe);
    code_range<N>(top, inverse, best.low, x, tried);
    float best_error = line_error<N>(best, grid.absolute, x, weight, tried);

    for (int step = 0; step <= grid.steps; step++) {
        float sum_l = 0.0f, sum_ll = 0.0f, sum_lx = 0.0f;
        const float shift = product(grid.step, float(step));
        inverse = quotient(grid.first + shift + float(top), most - best.low);
        safe = safe && in_range(inverse);
        code_range<N>(top, inverse, best.low, x, tried);
        for (int i = 0; i < N; i++) {
            const float l = product(weight[i], tried[i]);
            const float ll = product(l, tried[i]), lx = product(l, x[i]);
            sum_l += l;
            sum_ll += ll;
            sum_lx += lx;
        }
        line candidate;
        if (!refit_line(sum_w, sum_x, sum_l, sum_ll, sum_lx, candidate, safe)) {
            continue;
        }
        safe = safe && line_is_safe(candidate, least_safe);
        const float error = line_error<N>(candidate, grid.absolute, x, weight, tried);
        if (error < best_error) {
            best_start = best.low;
            best_inverse = inverse;
            best = candidate;
            best_error = error;
        }
    }
    code_range<N>(top, best_inverse, best_start, x, tried);
    for (int i = 0; i < N; i++) {
        codes[i] = uchar(int(tried[i]));
    }
    low = -best.low;
    return best.scale;
}

/* ---- symmetric ---- */

struct products {
    float lx, ll;
};

/* weight * x * code is at least 2^(q+p), its ordered sum a multiple of 2^(q+p-23). */
inline bool products_are_safe(extent weights, extent sizes) {
    return weights.low >= -103 && sizes.low >= -126 && weights.high <= 127 && sizes.high <= 127 &&
           weights.low + sizes.low >= -103;
}

template <int N>
inline products explain(int middle, float inverse, thread const float *x, thread const float *weight) {
    products sum = {0.0f, 0.0f};
    for (int i = 0; i < N; i++) {
        const float code = float(bounded(nearest(product(inverse, x[i])), -middle, middle - 1));
        const float lx = product(product(weight[i], x[i]), code);
        const float ll = product(product(weight[i], code), code);
        sum.lx += lx;
        sum.ll += ll;
    }
    return sum;
}

template <int N> inline void code_symmetric(int middle, float inverse, thread const float *x, thread uchar *codes) {
    for (int i = 0; i < N; i++) {
        codes[i] = uchar(bounded(nearest(product(inverse, x[i])), -middle, middle - 1) + middle);
    }
}

/* The value of the largest magnitude, with its sign; the first one of equals. */
template <int N> inline float extreme(thread const float *x) {
    float value = 0.0f;
    for (int i = 0; i < N; i++) {
        value = magnitude(x[i]) > magnitude(value) ? x[i] : value;
    }
    return value;
}

template <int N> inline void squares(thread const float *x, thread float *out) {
    for (int i = 0; i < N; i++) {
        out[i] = product(x[i], x[i]);
    }
}

/* Whether a candidate explains more: lx^2 / ll > best. */
inline bool explains_more(products sum, float best, thread bool &safe) {
    return sum.ll > 0.0f && times(sum.lx, sum.lx, safe) > times(best, sum.ll, safe);
}

/* x ~ scale * (code - middle). Returns scale. */
template <int N>
inline float fit_symmetric(int middle, thread const float *x, thread const float *weight, thread uchar *codes,
                           thread bool &safe) {
    safe = safe && products_are_safe(extent_of<N>(weight), extent_of<N>(x));
    const float peak = extreme<N>(x);
    if (magnitude(peak) < ZERO_GROUP) {
        for (int i = 0; i < N; i++) {
            codes[i] = 0;
        }
        return 0.0f;
    }
    float best_inverse = quotient(float(-middle), peak);
    safe = safe && in_range(best_inverse);
    products sum = explain<N>(middle, best_inverse, x, weight);
    float scale = sum.ll != 0.0f ? over(sum.lx, sum.ll, safe) : 0.0f;
    float best = times(scale, sum.lx, safe);
    for (int tenth = -9; tenth <= 9; tenth++) {
        if (tenth == 0) {
            continue;
        }
        const float shift = product(0.1f, float(tenth));
        const float inverse = quotient(-(float(middle) + shift), peak);
        sum = explain<N>(middle, inverse, x, weight);
        if (explains_more(sum, best, safe)) {
            scale = over(sum.lx, sum.ll, safe);
            best = times(scale, sum.lx, safe);
            best_inverse = inverse;
        }
    }
    code_symmetric<N>(middle, best_inverse, x, codes);
    return scale;
}

/* The sums without one old code are multiples of what all sums are multiples of, so they are safe when the data is. */
template <int N>
inline float descend_symmetric(int middle, thread const float *x, thread uchar *codes, thread bool &safe) {
    float weight[N];
    const float peak = extreme<N>(x);
    const extent sizes = extent_of<N>(x);
    safe = safe && (sizes.low == NONE || (sizes.low >= -34 && sizes.high <= 40));
    if (magnitude(peak) < ZERO_GROUP) {
        for (int i = 0; i < N; i++) {
            codes[i] = 0;
        }
        return 0.0f;
    }
    squares<N>(x, weight);
    const float start = quotient(float(-middle), peak);
    safe = safe && in_range(start);
    products sum = explain<N>(middle, start, x, weight);
    code_symmetric<N>(middle, start, x, codes);
    for (int round = 0; round < 5; round++) {
        bool changed = false;
        for (int i = 0; i < N; i++) {
            const int old = int(codes[i]) - middle;
            const float wx = product(weight[i], x[i]);
            const float old_lx = product(wx, float(old));
            products other = {sum.lx - old_lx, 0.0f};
            if (!(other.lx > 0.0f)) {
                continue;
            }
            const float old_ll = product(product(weight[i], float(old)), float(old));
            other.ll = sum.ll - old_ll;
            const int code = bounded(nearest(quotient(product(x[i], other.ll), other.lx)), -middle, middle - 1);
            if (code == old) {
                continue;
            }
            const float new_lx = product(wx, float(code));
            const float new_ll = product(product(weight[i], float(code)), float(code));
            other.lx += new_lx;
            other.ll += new_ll;
            if (other.ll > 0.0f && times(times(other.lx, other.lx, safe), sum.ll, safe) >
                                       times(times(sum.lx, sum.lx, safe), other.ll, safe)) {
                codes[i] = uchar(code + middle);
                sum = other;
                changed = true;
            }
        }
        if (!changed) {
            break;
        }
    }
    return sum.ll > 0.0f ? over(sum.lx, sum.ll, safe) : 0.0f;
}

/* ---- levels: scales of scales ---- */

template <int N>
inline float level_error(int top, float inverse, bool capped, thread const float *x, thread const float *weight) {
    const float scale = quotient(1.0f, inverse);
    float error = 0.0f;
    for (int i = 0; i < N; i++) {
        int level = nearest(product(inverse, x[i]));
        level = !capped ? int(uchar(level)) : level > top ? top : level;
        const float scaled = product(scale, float(level));
        const float miss = x[i] - scaled;
        const float term = product(product(weight[i], miss), miss);
        error += term;
    }
    return error;
}

/* Non-negative values x ~ scale * level with levels 0..top. Returns scale.
 *
 * All candidates' scales are at least 2^(most's exponent - 8), so that with m the smaller one of this and the least of
 * x the misses are multiples of 2^(m-23), and their weighted squares at least 2^(q+2m-46). Sums of weight * x * level
 * are multiples of 2^(q+m-23), those of weight * level^2 of 2^(q-23). */
template <int N>
inline float fit_levels(int top, thread const float *x, thread const float *weight, thread uchar *levels,
                        thread bool &safe) {
    float most = 0.0f;
    for (int i = 0; i < N; i++) {
        most = most > x[i] ? most : x[i];
    }
    if (most < ZERO_GROUP) {
        for (int i = 0; i < N; i++) {
            levels[i] = 0;
        }
        return 0.0f;
    }
    const extent sizes = extent_of<N>(x), weights = extent_of<N>(weight);
    const int least = sizes.low < exponent_of(most) - 8 ? sizes.low : exponent_of(most) - 8;
    safe = safe && sizes.high <= 127 && weights.high <= 127 && weights.low >= -103 && least >= -40 &&
           weights.low + 2 * least >= -80;

    float best = quotient(float(top), most);
    safe = safe && in_range(best);
    float best_error = level_error<N>(top, best, false, x, weight);
    for (int tenth = -4; tenth <= 4; tenth++) {
        if (tenth == 0) {
            continue;
        }
        const float shift = product(0.1f, float(tenth));
        const float inverse = quotient(shift + float(top), most);
        const float error = level_error<N>(top, inverse, true, x, weight);
        if (error < best_error) {
            best_error = error;
            best = inverse;
        }
    }
    products sum = {0.0f, 0.0f};
    for (int i = 0; i < N; i++) {
        int level = nearest(product(best, x[i]));
        level = level > top ? top : level;
        levels[i] = uchar(level);
        const float lx = product(product(weight[i], x[i]), float(level));
        const float ll = product(product(weight[i], float(level)), float(level));
        sum.lx += lx;
        sum.ll += ll;
    }
    for (int round = 0; round < 5; round++) {
        bool changed = false;
        for (int i = 0; i < N; i++) {
            const float wx = product(weight[i], x[i]), old = float(levels[i]);
            const float old_lx = product(wx, old), old_ll = product(product(weight[i], old), old);
            products other = {sum.lx - old_lx, sum.ll - old_ll};
            if (!(other.lx > 0.0f && other.ll > 0.0f)) {
                continue;
            }
            int level = nearest(quotient(product(x[i], other.ll), other.lx));
            level = level > top ? top : level;
            if (level == int(levels[i])) {
                continue;
            }
            const float new_lx = product(wx, float(level));
            const float new_ll = product(product(weight[i], float(level)), float(level));
            other.lx += new_lx;
            other.ll += new_ll;
            if (times(times(other.lx, other.lx, safe), sum.ll, safe) >
                times(times(sum.lx, sum.lx, safe), other.ll, safe)) {
                levels[i] = uchar(level);
                sum = other;
                changed = true;
            }
        }
        if (!changed) {
            break;
        }
    }
    return sum.ll > 0.0f ? over(sum.lx, sum.ll, safe) : 0.0f;
}

} // namespace quench
