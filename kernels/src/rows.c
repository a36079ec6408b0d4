/* quench_score_rows and quench_compare_rows: checks sizes, finds the largest logits, and walks rows in pieces. */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "backend.h"
#include "rows.h"

struct rows {
    const float *logits;
    int64_t stride; /* bytes */
};

/* One row while it is walked. */
struct row {
    const float *x;
    size_t seen;                   /* columns that were looked at */
    int32_t count;                 /* how many of top are found */
    int32_t top[QUENCH_TOP_LIMIT]; /* columns of the largest so far, the largest first, of equals the first one first */
    int32_t shift;
    struct row_scale scale;
};

static const float *row_of(const struct rows *rows, int64_t row) {
    return (const float *)(const void *)((const char *)rows->logits + row * rows->stride);
}

/* ---- one number ---- */

#define LN2 0x1.62e42fefa39efp-1

/* ln(x) for a normal x > 0 to about 1e-16: 2^e * m with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh((m - 1) / (m + 1)). */
static double logarithm(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    /* Adding 1 - sqrt(1/2) in the exponent's units moves the border of the binade to sqrt(1/2). */
    const uint64_t moved = bits + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu);
    const int exponent = (int)(moved >> 52) - 1023;
    double m, series = 0.0;
    bits -= (uint64_t)(int64_t)exponent << 52;
    memcpy(&m, &bits, sizeof m);
    const double s = (m - 1.0) / (m + 1.0), square = s * s;
    for (int power = 23; power >= 3; power -= 2) {
        series = (series + 1.0 / power) * square;
    }
    return exponent * LN2 + (2.0 * s + 2.0 * s * series);
}

/* exp(t) for 0 <= t < 1 by its series. */
static double exponential(double t) {
    double value = 1.0;
    for (int i = 18; i > 0; i--) {
        value = 1.0 + value * (t / i);
    }
    return value;
}

/* 2^exponent, 0 where that is too small for a normal number. */
static double power_of_two(int exponent) {
    const uint64_t bits = exponent < -1022 ? 0 : (uint64_t)(exponent + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- the largest ---- */

static void insert(struct row *row, int32_t column, int32_t k) {
    int32_t at = row->count - (row->count == k);
    row->count = at + 1;
    while (at > 0 && row->x[row->top[at - 1]] < row->x[column]) {
        row->top[at] = row->top[at - 1];
        at--;
    }
    row->top[at] = column;
}

static void look(const struct backend *backend, struct row *row, size_t end, int32_t k) {
    while (row->seen < end) {
        const float than = row->count < k ? -INFINITY : row->x[row->top[k - 1]];
        row->seen = backend->rows.above(row->x, row->seen, end, than);
        if (row->seen < end) {
            insert(row, (int32_t)row->seen++, k);
        }
    }
}

/* Where fewer than k are above -infinity, columns of -infinity fill the rest in order. */
static void fill_top(struct row *row, int64_t n, int32_t k) {
    for (int64_t i = 0; row->count < k && i < n; i++) {
        if (row->x[i] == -INFINITY) {
            row->top[row->count++] = (int32_t)i;
        }
    }
}

/* ---- scale ---- */

/* Rows whose largest logit is within +-NEAR_ZERO have the anchor 0: subtracting anything would round the logits. Others have
 * their largest, which is so large that subtracting it from what weighs anything is exact. */
#define NEAR_ZERO 200.0f

/* 2^(j/8) as the nearest float, and what is left of it. */
static const float power_high[8] = {1.0f,           0x1.172b84p+0f, 0x1.306fe0p+0f, 0x1.4bfdaep+0f,
                                    0x1.6a09e6p+0f, 0x1.8ace54p+0f, 0x1.ae89fap+0f, 0x1.d5818ep+0f};
static const float power_low[8] = {0.0f,            -0x1.c15742p-27f, 0x1.4636e2p-25f,  -0x1.593abcp-25f,
                                   0x1.9fcef4p-26f, 0x1.15506ep-27f,  -0x1.a94b14p-26f, -0x1.822dbcp-27f};

/* The most that a row's largest logit may be: its difference from any other float is one, too. */
#define LARGEST 0x1p100f

static float largest(const struct row *row) {
    return row->x[row->top[0]];
}

static void start(struct row *row, const float *x) {
    memset(row, 0, sizeof *row); /* with a scale by which -infinity weighs nothing */
    row->x = x;
}

/* Fits the scale to the largest logit so far: its weight is in [1, 2). */
static void fit(struct row *row) {
    struct row_scale *scale = &row->scale;
    scale->anchor = magnitude(largest(row)) <= NEAR_ZERO ? 0.0f : largest(row);
    const int32_t eighths = nearest((largest(row) - scale->anchor) * EXP_PER_LN2);
    row->shift = (eighths - (int32_t)((uint32_t)eighths & 7u)) / 8;
    scale->least = (float)(8 * (row->shift - 127)) * (EXP_STEP + EXP_STEP_REST);
    for (uint32_t j = 0; j < 8; j++) {
        scale->high[j] = (int32_t)(bits_of(power_high[j]) - (j << 20) - ((uint32_t)row->shift << 23));
        scale->rest[j] = power_low[j] / power_high[j];
    }
}

/* ---- sums ---- */

/* Looks at a row's columns up to `end`. Returns what earlier sums are to be multiplied with, exactly: a power of two, as
 * long as the anchor stays; -1 if they are of no use any more. */
static double advance(const struct backend *backend, struct row *row, size_t end, int32_t k) {
    const int fitted = row->count > 0;
    const int32_t shift = row->shift, top = row->top[0];
    const float anchor = row->scale.anchor;
    look(backend, row, end, k);
    if (row->count == 0 || (fitted && row->top[0] == top)) {
        return 1.0;
    }
    fit(row);
    return !fitted ? 1.0 : row->scale.anchor == anchor ? power_of_two(shift - row->shift) : -1.0;
}

static void multiply(double *sums, double factor) {
    for (int i = 0; factor != 1.0 && i < ROW_SUMS; i++) {
        sums[i] *= factor;
    }
}

static double total(const double *sums) {
    double left[ROW_SUMS];
    memcpy(left, sums, sizeof left);
    for (int half = ROW_SUMS / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            left[i] += left[i + half];
        }
    }
    return left[0];
}

/* How many of the `count` columns are whole groups; if none is, they are copied and filled up to one. */
static size_t whole(const float **x, size_t *count, float *space) {
    if (*count >= ROW_GROUP) {
        *count -= *count % ROW_GROUP;
        return *count;
    }
    for (size_t i = 0; i < ROW_GROUP; i++) {
        space[i] = i < *count ? (*x)[i] : -FLT_MAX;
    }
    *x = space;
    return ROW_GROUP;
}

static size_t piece(size_t at, size_t n) {
    return n - at < ROW_PIECE ? n - at : ROW_PIECE;
}

/* The sum of a row's weights, in one walk over memory: each piece is looked at and weighed while it is in the cache, and
 * when a larger logit comes, the sums are multiplied by a power of two. */
static double weigh(const struct backend *backend, struct row *row, size_t n, int32_t k) {
    double sums[ROW_SUMS] = {0.0};
    float space[ROW_GROUP];
    for (size_t at = 0, count; at < n; at += count) {
        const float *x = row->x + at;
        count = piece(at, n);
        double factor = advance(backend, row, at + count, k);
        if (factor < 0.0) {
            /* A far row with larger logits to come: find the largest first, then begin again. */
            advance(backend, row, n, k);
            memset(sums, 0, sizeof sums);
            at = count = 0;
            continue;
        }
        multiply(sums, factor);
        const size_t full = whole(&x, &count, space);
        backend->rows.weigh(x, full, &row->scale, sums);
    }
    return total(sums);
}
/* A row's sum with the most probable token's weight set right: it alone is known better than the sums have it. That
 * makes a row of one exact, and confident rows nearly so. */
struct corrected {
    double largest, correction, sum, log_sum;
};

/* log_sum is never less than the largest logit, and NaN if the row is no distribution. */
static struct corrected correct(const struct row *row, double sum) {
    struct corrected out = {0.0, 0.0, sum, NAN};
    float low;
    if (row->count == 0 || !(magnitude(largest(row)) <= LARGEST) || !(sum <= DBL_MAX)) {
        return out;
    }
    const float high = row_weight(largest(row), &row->scale, &low);
    out.largest = exponential((double)largest(row) - (double)row->scale.anchor - row->shift * LN2);
    out.correction = out.largest - ((double)high + (double)low);
    out.sum += out.correction;
    out.log_sum = (double)largest(row) + (out.sum > out.largest ? logarithm(out.sum / out.largest) : 0.0);
    return out;
}

/* ---- pairs ---- */

enum { PAIR_SUMS = 4 * ROW_SUMS };

struct pair {
    struct row rows[2];
    double centre; /* about what the candidate's logits are off by; roundings are of what is left */
    double log_sum[2];
    double mean[2];  /* of reference - candidate, under either */
    int excludes[2]; /* the candidate what the reference allows, and the other way round */
};

/* Whether a token that x allows is impossible for y. */
static int excludes(const float *x, const float *y, size_t n) {
    int found = 0;
    for (size_t i = 0; i < n; i++) {
        found |= (x[i] != -INFINITY) & (y[i] == -INFINITY);
    }
    return found;
}

static float possible(float x) {
    return x == -INFINITY ? -FLT_MAX : x;
}

/* The kernel for a piece in which -infinity may be: differences from it would be infinite even where it weighs nothing. */
static void weigh_piece(const struct backend *backend, struct pair *pair, const float *x, const float *y, size_t n,
                        double *sums) {
    const struct row_scale *x_scale = &pair->rows[0].scale, *y_scale = &pair->rows[1].scale;
    float possible_x[ROW_PIECE], possible_y[ROW_PIECE];
    double before[PAIR_SUMS];
    memcpy(before, sums, sizeof before);
    backend->rows.weigh_pair(x, y, n, x_scale, y_scale, pair->centre, sums);
    if (!isnan(total(sums + 2 * ROW_SUMS) + total(sums + 3 * ROW_SUMS))) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        possible_x[i] = possible(x[i]);
        possible_y[i] = possible(y[i]);
    }
    pair->excludes[0] |= excludes(x, y, n);
    pair->excludes[1] |= excludes(y, x, n);
    memcpy(sums, before, sizeof before);
    backend->rows.weigh_pair(possible_x, possible_y, n, x_scale, y_scale, pair->centre, sums);
}

static double difference(const struct pair *pair, int32_t column) {
    return (double)possible(pair->rows[0].x[column]) - (double)possible(pair->rows[1].x[column]);
}

/* Two models of one family agree in their largest logits within a fraction, and then 0 is as good and faster. */
static double centre(const struct pair *pair) {
    const double off = pair->rows[0].count > 0 ? difference(pair, pair->rows[0].top[0]) : 0.0;
    return fabs(off) < 0.25 || fabs(off) > (double)LARGEST ? 0.0 : off;
}

static void weigh_pair(const struct backend *backend, struct pair *pair, size_t n, int32_t k) {
    double sums[PAIR_SUMS] = {0.0};
    float space[2][ROW_GROUP];
    for (size_t at = 0, count; at < n; at += count) {
        double factors[2];
        const float *x = pair->rows[0].x + at, *y = pair->rows[1].x + at;
        count = piece(at, n);
        for (int side = 0; side < 2; side++) {
            factors[side] = advance(backend, &pair->rows[side], at + count, k);
        }
        if (at == 0) {
            pair->centre = centre(pair);
        }
        if (factors[0] < 0.0 || factors[1] < 0.0) {
            advance(backend, &pair->rows[0], n, k);
            advance(backend, &pair->rows[1], n, k);
            memset(sums, 0, sizeof sums);
            at = count = 0;
            continue;
        }
        for (int part = 0; part < 4; part++) {
            multiply(sums + part * ROW_SUMS, factors[part % 2]);
        }
        size_t same = count;
        whole(&x, &same, space[0]);
        const size_t full = whole(&y, &count, space[1]);
        weigh_piece(backend, pair, x, y, full, sums);
    }
    for (int side = 0; side < 2; side++) {
        const struct corrected found = correct(&pair->rows[side], total(sums + side * ROW_SUMS));
        pair->log_sum[side] = found.log_sum;
        if (!isnan(found.log_sum)) {
            const double dot = total(sums + (2 + side) * ROW_SUMS);
            const double off_centre = difference(pair, pair->rows[side].top[0]) - pair->centre;
            pair->mean[side] = (dot + found.correction * off_centre) / found.sum + pair->centre;
        }
    }
}

/* ---- checks ---- */

static int32_t check(const struct backend *backend, const struct rows *rows, size_t count, int64_t n_rows,
                     int64_t n_cols, int32_t k) {
    if (!backend) {
        return QUENCH_BAD_BACKEND;
    }
    if (n_rows < 0 || n_cols <= 0 || n_cols > INT32_MAX || k < 1 || k > QUENCH_TOP_LIMIT || k > n_cols ||
        n_rows > INT64_MAX / 4 / n_cols || n_rows > INT64_MAX / 8 / QUENCH_TOP_LIMIT) {
        return QUENCH_BAD_SHAPE;
    }
    for (size_t i = 0; i < count; i++) {
        if (!rows[i].logits || (uintptr_t)rows[i].logits % sizeof(float) || rows[i].stride % (int64_t)sizeof(float)) {
            return QUENCH_BAD_BUFFER;
        }
    }
    return QUENCH_OK;
}

static int32_t check_targets(const int32_t *targets, int64_t n_rows, int64_t n_cols, quench_report *report) {
    for (int64_t row = 0; targets && row < n_rows; row++) {
        if (targets[row] < 0 || targets[row] >= n_cols) {
            if (report) {
                *report = (quench_report){row, targets[row]};
            }
            return QUENCH_BAD_TARGET;
        }
    }
    return QUENCH_OK;
}

/* -ln of the target's probability. */
static double surprise(const float *x, double log_sum_of_x, const int32_t *target) {
    return target ? log_sum_of_x - (double)x[*target] : NAN;
}

/* ---- the two calls ---- */

static void score_row(const struct backend *backend, const float *x, int64_t n, const int32_t *target, int32_t k,
                      quench_row_score *score, int32_t *top, float *log_probabilities) {
    struct row row;
    start(&row, x);
    score->log_sum = correct(&row, weigh(backend, &row, (size_t)n, k)).log_sum;
    score->nll = surprise(x, score->log_sum, target);
    fill_top(&row, n, k);
    for (int32_t i = 0; i < k; i++) {
        top[i] = isnan(score->log_sum) ? -1 : row.top[i];
    }
    if (log_probabilities) {
        backend->rows.subtract(x, (size_t)n, score->log_sum, log_probabilities);
    }
}

int32_t quench_score_rows(int32_t backend_index, const float *logits, int64_t row_stride, int64_t n_rows,
                          int64_t n_cols, const int32_t *targets, int32_t top_k, quench_row_score *scores,
                          size_t scores_size, int32_t *top, size_t top_size, float *log_probabilities,
                          size_t log_probabilities_size, quench_report *report) {
    const struct backend *backend = quench_backend_at(backend_index);
    const struct rows rows = {logits, row_stride};
    int32_t status = check(backend, &rows, 1, n_rows, n_cols, top_k);
    if (status != QUENCH_OK) {
        return status;
    }
    if (!scores || scores_size != (size_t)n_rows * sizeof *scores || !top ||
        top_size != (size_t)n_rows * (size_t)top_k * sizeof *top ||
        (log_probabilities && log_probabilities_size != (size_t)n_rows * (size_t)n_cols * sizeof *log_probabilities)) {
        return QUENCH_BAD_BUFFER;
    }
    status = check_targets(targets, n_rows, n_cols, report);
    if (status != QUENCH_OK) {
        return status;
    }
    const uint64_t saved = quench_enter_ieee();
    for (int64_t row = 0; row < n_rows; row++) {
        score_row(backend, row_of(&rows, row), n_cols, targets ? targets + row : NULL, top_k, scores + row,
                  top + row * top_k, log_probabilities ? log_probabilities + row * n_cols : NULL);
    }
    quench_leave_ieee(saved);
    return QUENCH_OK;
}

static int32_t shared(const int32_t *a, const int32_t *b, int32_t k) {
    int32_t count = 0;
    for (int32_t i = 0; i < k; i++) {
        for (int32_t j = 0; j < k; j++) {
            count += a[i] == b[j];
        }
    }
    return count;
}

/* What rounding leaves below zero is zero; NaN stays. */
static double not_below_zero(double value) {
    return value < 0.0 ? 0.0 : value;
}

static void compare_row(const struct backend *backend, const float *x, const float *y, int64_t n,
                        const int32_t *target, int32_t k, quench_row_divergence *out) {
    struct pair pair;
    memset(pair.excludes, 0, sizeof pair.excludes);
    start(&pair.rows[0], x);
    start(&pair.rows[1], y);
    weigh_pair(backend, &pair, (size_t)n, k);
    const int usable = !isnan(pair.log_sum[0]) && !isnan(pair.log_sum[1]);
    memset(out, 0, sizeof *out);
    for (int side = 0; side < 2; side++) {
        fill_top(&pair.rows[side], n, k);
        out->log_sum[side] = pair.log_sum[side];
        out->nll[side] = surprise(side ? y : x, pair.log_sum[side], target);
        out->top[side] = isnan(pair.log_sum[side]) ? -1 : pair.rows[side].top[0];
    }
    out->kl = out->reverse_kl = NAN;
    if (usable) {
        /* ln p - ln q = (x - y) - (log_sum(x) - log_sum(y)) */
        const double apart = pair.log_sum[0] - pair.log_sum[1];
        out->kl = pair.excludes[0] ? INFINITY : not_below_zero(pair.mean[0] - apart);
        out->reverse_kl = pair.excludes[1] ? INFINITY : not_below_zero(apart - pair.mean[1]);
        out->shared = shared(pair.rows[0].top, pair.rows[1].top, k);
    }
}

int32_t quench_compare_rows(int32_t backend_index, const float *reference, int64_t reference_stride,
                            const float *candidate, int64_t candidate_stride, int64_t n_rows, int64_t n_cols,
                            const int32_t *targets, int32_t top_k, quench_row_divergence *divergences,
                            size_t divergences_size, quench_report *report) {
    const struct backend *backend = quench_backend_at(backend_index);
    const struct rows rows[2] = {{reference, reference_stride}, {candidate, candidate_stride}};
    int32_t status = check(backend, rows, 2, n_rows, n_cols, top_k);
    if (status != QUENCH_OK) {
        return status;
    }
    if (!divergences || divergences_size != (size_t)n_rows * sizeof *divergences) {
        return QUENCH_BAD_BUFFER;
    }
    status = check_targets(targets, n_rows, n_cols, report);
    if (status != QUENCH_OK) {
        return status;
    }
    const uint64_t saved = quench_enter_ieee();
    for (int64_t row = 0; row < n_rows; row++) {
        compare_row(backend, row_of(&rows[0], row), row_of(&rows[1], row), n_cols, targets ? targets + row : NULL,
                    top_k, divergences + row);
    }
    quench_leave_ieee(saved);
    return QUENCH_OK;
}
