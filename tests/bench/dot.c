/* The loops that Python is too slow for: the engine's kernel row after row, and a plain read of the same bytes. */
#include <stddef.h>
#include <stdint.h>

typedef void vec_dot(int n, float *out, size_t out_stride, const void *row, size_t row_stride, const void *x,
                     size_t x_stride, int count);

void engine_rows(vec_dot *dot, const uint8_t *rows, size_t row_size, size_t n_rows, int n_cols, const void *x,
                 float *out) {
    for (size_t row = 0; row < n_rows; row++) {
        dot(n_cols, out + row, 0, rows + row * row_size, 0, x, 0, 1);
    }
}

enum { WORDS = 64 };

/* Eight vectors of 64 bytes a turn; `ahead` bytes are prefetched, none for 0. The size is whole turns. */
uint64_t read_all(const uint64_t *words, size_t size, size_t ahead) {
    uint64_t sums[WORDS] = {0}, sum = 0;
    for (size_t i = 0; i < size / sizeof *words; i += WORDS) {
        for (size_t line = 0; ahead && line < WORDS * sizeof *words; line += 64) {
            __builtin_prefetch((const void *)((uintptr_t)(words + i) + ahead + line));
        }
        for (size_t lane = 0; lane < WORDS; lane++) {
            sums[lane] ^= words[i + lane];
        }
    }
    for (size_t lane = 0; lane < WORDS; lane++) {
        sum ^= sums[lane];
    }
    return sum;
}
