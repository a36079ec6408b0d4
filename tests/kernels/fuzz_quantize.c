/* Arbitrary floats, importance and strides through every type and backend: the reference's blocks, errors and refusals,
 * and never a step outside.
 *
 * Input: type, source, flags, kind of weights, rows, blocks a row, gap between rows, shift from alignment; then bytes
 * that are repeated until there are enough for importance and rows. */
#include "fuzz.h"

enum { HAS_IMPORTANCE = 1, VALID_IMPORTANCE = 2, BACKWARDS = 4, ALLOW = 8, REFINED = 16, LIES = 32 };
enum { AS_THEY_ARE, FINITE, ORDINARY, FEW_VALUES };

struct matrix {
    struct type type;
    int32_t row_type;
    uint32_t flags;
    int64_t n_rows, n_cols, stride;
    const uint8_t *rows;
    const float *importance;
};

struct result {
    int32_t status;
    quench_report report;
    uint8_t *blocks;
    double *plain, *weighted;
};

/* Bits of a weight of the source's type, made into the wanted kind. */
static uint32_t tamed(uint32_t bits, int32_t row_type, unsigned kind) {
    const int mantissa = row_type == QUENCH_F32 ? 23 : row_type == QUENCH_F16 ? 10 : 7;
    const uint32_t largest = row_type == QUENCH_F16 ? 31 : 255;
    const uint32_t sign = row_type == QUENCH_F32 ? 31 : 15;
    uint32_t exponent = bits >> mantissa & largest;
    const uint32_t rest = bits & ~(largest << mantissa);
    if (kind == FINITE && exponent == largest) {
        exponent--;
    } else if (kind == ORDINARY) {
        exponent = largest / 2 - 8 + exponent % 8;
    } else if (kind == FEW_VALUES) {
        exponent = largest / 2 - exponent % 4;
        return (rest & 1u << sign) | exponent << mantissa;
    }
    return rest | exponent << mantissa;
}

static void fill(uint8_t *to, size_t size, struct input input, size_t from) {
    for (size_t i = 0; i < size; i++) {
        to[i] = input.size ? input.data[(from + i) % input.size] : (uint8_t)i;
    }
}

static void fill_rows(uint8_t *rows, size_t size, struct input input, int32_t row_type, unsigned kind) {
    fill(rows, size, input, 0);
    const size_t item = row_type == QUENCH_F32 ? 4 : 2;
    for (size_t i = 0; kind != AS_THEY_ARE && i + item <= size; i += item) {
        uint32_t bits = 0;
        memcpy(&bits, rows + i, item);
        bits = tamed(bits, row_type, kind);
        memcpy(rows + i, &bits, item);
    }
}

static void fill_importance(float *importance, size_t count, struct input input, int valid) {
    fill((uint8_t *)importance, 4 * count, input, 13);
    for (size_t i = 0; valid && i < count; i++) {
        uint32_t bits;
        memcpy(&bits, importance + i, 4);
        bits = tamed(bits & 0x7fffffffu, QUENCH_F32, bits & 64 ? FINITE : ORDINARY);
        memcpy(importance + i, &bits, 4);
    }
}

static struct result quantize(const struct matrix *m, int32_t backend) {
    const size_t size = (size_t)(m->n_rows * (m->n_cols / m->type.weights)) * (size_t)m->type.bytes;
    const size_t sums = 8 * (size_t)m->n_rows;
    struct result result = {0, {-1, -1}, exactly(size), exactly(sums), exactly(sums)};
    result.status = quench_quantize(backend, m->type.number, m->row_type, m->rows, m->stride, m->n_rows, m->n_cols,
                                    m->importance, m->flags, result.blocks, size, result.plain, result.weighted,
                                    &result.report);
    return result;
}

static void drop(struct result result) {
    free(result.blocks);
    free(result.plain);
    free(result.weighted);
}

/* Whether weights or scales that are no numbers were let through: then only refusals and bounds are checked. */
static int is_nonsense(const struct matrix *m, int32_t backend) {
    struct matrix checked = *m;
    checked.flags &= ~QUENCH_ALLOW_NONFINITE;
    struct result result = quantize(&checked, backend);
    drop(result);
    return result.status != QUENCH_OK;
}

static void compare(const struct matrix *m, struct result wanted, struct result found, int32_t backend) {
    if (found.status != wanted.status || found.report.row != wanted.report.row ||
        found.report.column != wanted.report.column) {
        differ("a refusal", m->type.number, backend, (size_t)found.status);
    }
    if (wanted.status != QUENCH_OK || ((m->flags & QUENCH_ALLOW_NONFINITE) && is_nonsense(m, reference_index()))) {
        return;
    }
    const size_t size = (size_t)(m->n_rows * (m->n_cols / m->type.weights)) * (size_t)m->type.bytes;
    for (size_t i = 0; i < size; i++) {
        if (found.blocks[i] != wanted.blocks[i]) {
            differ("a byte", m->type.number, backend, i);
        }
    }
    const size_t sums = 8 * (size_t)m->n_rows;
    if (memcmp(found.plain, wanted.plain, sums) != 0 || memcmp(found.weighted, wanted.weighted, sums) != 0) {
        differ("an error sum", m->type.number, backend, 0);
    }
}

/* A buffer of another size than the shape needs, and shapes whose size overflows: refused. */
static void lie(const struct matrix *m, struct input input) {
    const size_t size = take(&input), needed = (size_t)(m->n_rows * (m->n_cols / m->type.weights) * m->type.bytes);
    const int64_t n_rows = take64(&input), n_cols = take64(&input) | (int64_t)1 << 40;
    uint8_t *blocks = exactly(size);
    if (size != needed && quench_quantize(0, m->type.number, m->row_type, m->rows, m->stride, m->n_rows, m->n_cols,
                                          m->importance, m->flags, blocks, size, NULL, NULL, NULL) == QUENCH_OK) {
        abort();
    }
    if (n_rows != 0 && quench_quantize(0, m->type.number, m->row_type, m->rows, m->stride, n_rows, n_cols, NULL,
                                       m->flags, blocks, size, NULL, NULL, NULL) == QUENCH_OK) {
        abort();
    }
    free(blocks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const int32_t sources[] = {QUENCH_F32, QUENCH_F16, QUENCH_BF16};
    struct input input = {data, size};
    struct matrix m = {.type = type_at(take(&input)), .row_type = sources[take(&input) % 3]};
    const unsigned flags = take(&input), kind = take(&input) % 4;
    m.flags = (flags & ALLOW ? QUENCH_ALLOW_NONFINITE : 0u) | (flags & REFINED ? QUENCH_REFINED : 0u);
    m.n_rows = 1 + take(&input) % 5;
    m.n_cols = (1 + take(&input) % 12) * m.type.weights;
    const size_t item = m.row_type == QUENCH_F32 ? 4 : 2, width = item * (size_t)m.n_cols;
    const size_t gap = take(&input) % 16, shift = take(&input) % 8, apart = width + gap;
    const size_t bytes = apart * (size_t)(m.n_rows - 1) + width;

    uint8_t *memory = exactly(bytes + shift);
    fill_rows(memory + shift, bytes, input, m.row_type, kind);
    float *importance = flags & HAS_IMPORTANCE ? exactly(4 * (size_t)m.n_cols) : NULL;
    if (importance) {
        fill_importance(importance, (size_t)m.n_cols, input, flags & VALID_IMPORTANCE);
    }
    m.importance = importance;
    m.stride = flags & BACKWARDS ? -(int64_t)apart : (int64_t)apart;
    m.rows = memory + shift + (flags & BACKWARDS ? apart * (size_t)(m.n_rows - 1) : 0);

    const int32_t reference = reference_index();
    const struct result wanted = quantize(&m, reference);
    for (int32_t backend = 0; backend < reference; backend++) {
        const struct result found = quantize(&m, backend);
        compare(&m, wanted, found, backend);
        drop(found);
    }
    drop(wanted);
    if (flags & LIES) {
        lie(&m, input);
    }
    free(importance);
    free(memory);
    return 0;
}
