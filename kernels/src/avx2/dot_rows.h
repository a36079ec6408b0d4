/* Rows of super-blocks for AVX2 and AVX-512: the second half of their dot.c, which includes this behind struct eight, the
 * eight_... functions of the types, no_sum() and sums_of(). */
#ifndef QUENCH_DOT_ROWS_H
#define QUENCH_DOT_ROWS_H

QUENCH_INLINE __m256 add_eight(__m256 total, eight_fn *eight, int has_lows, const uint8_t *blocks, size_t n,
                               size_t first, const struct activations *x) {
    struct eight parts;
    const __m256 x_scales = _mm256_loadu_ps(x->scales + first);
    eight(blocks, n, x->codes + first * SUPER_BLOCK, x->sums16 + first * 16, x->sums32 + first * 8, &parts);
    for (size_t i = n; i < 8; i++) {
        parts.sums[i] = no_sum();
    }
    __m256 values = value_of(parts.scales, x_scales, sums_of(parts.sums));
    if (has_lows) {
        values = _mm256_sub_ps(values, value_of(parts.low_scales, x_scales, parts.lows));
    }
    return _mm256_add_ps(total, values);
}

QUENCH_INLINE void dot_rows(eight_fn *eight, size_t size, int has_lows, const uint8_t *rows, size_t n_rows,
                            size_t n_blocks, const struct activations *x, float *out) {
    for (size_t row = 0; row < n_rows; row++, rows += n_blocks * size) {
        __m256 total = _mm256_setzero_ps();
        size_t i = 0;
        for (; i + 8 <= n_blocks; i += 8) {
            total = add_eight(total, eight, has_lows, rows + i * size, 8, i, x);
        }
        if (i < n_blocks) {
            total = add_eight(total, eight, has_lows, rows + i * size, n_blocks - i, i, x);
        }
        out[row] = row_value(total);
    }
}

#define DOT(type, has_lows)                                                                                           \
    static void dot_##type(const uint8_t *rows, size_t n_rows, size_t n_blocks, const struct activations *x,          \
                           float *out) {                                                                              \
        dot_rows(eight_##type, sizeof(struct block_##type), has_lows, rows, n_rows, n_blocks, x, out);                \
    }

DOT(q2_k, 1)
DOT(q3_k, 0)
DOT(q4_k, 1)
DOT(q5_k, 1)
DOT(q6_k, 0)
DOT(iq4_xs, 0)

#endif
