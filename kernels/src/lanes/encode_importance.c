/* Floats to Q4_0, Q4_1, Q5_0, Q5_1 with importance: the K-quants' searches, one block of 32 a lane. Then every block is
 * coded along its weights with what its lane found. Blocks that leave the searches' ordinary range, and empty ones, go to
 * the reference. */
#define QUENCH_DEPTH 32

#include "../reference/codecs.h"
#include "lanes.h"
#include "pack.h"
#include "range_search.h"
#include "symmetric.h"

enum { BATCH = ABREAST * W };

/* What the lanes of a batch found, block by block. */
struct found {
    uint8_t half[2 * BATCH], low_half[2 * BATCH];
    float inverse[BATCH], start[BATCH];
    uint8_t odd[BATCH];
};

struct batch {
    _Alignas(64) float x[BLOCK * BATCH];
    _Alignas(64) float weight[BLOCK * BATCH];
    _Alignas(64) float codes[BLOCK * BATCH];
};

/* importance * sqrt(energy + x * x) of W blocks. */
QUENCH_INLINE void weigh(const float *importance, float row_energy, const float *x, float *weight) {
    load_columns(importance, BLOCK, weight);
    for (int i = 0; i < BLOCK; i++) {
        const vf value = vf_load(x + i * W);
        const vf size = vf_sqrt(vf_add(vf_set(row_energy), vf_mul(value, value)));
        vf_store(weight + i * W, vf_mul(vf_load(weight + i * W), size));
    }
}

QUENCH_INLINE void mark(uint8_t *odd, vm lanes) {
    const uint32_t bits = vm_bits(lanes);
    for (int lane = 0; lane < W; lane++) {
        odd[lane] = bits >> lane & 1u;
    }
}

/* ---- Q4_0, Q5_0 ---- */

QUENCH_INLINE void find_centred(int half, const float *x, const float *importance, float row_energy,
                                struct found *found) {
    for (int group = 0; group < ABREAST; group++) {
        struct columns columns;
        load_columns(x + group * W * BLOCK, BLOCK, columns.x);
        weigh(importance + group * W * BLOCK, row_energy, columns.x, columns.weight);
        weigh_columns(&columns);
        const vf peak = extreme_of(columns.x);
        const struct fit fit = fit_columns(half, &columns, peak);
        vf_store_halves(found->half + 2 * group * W, fit.scale);
        vf_store(found->inverse + group * W, fit.inverse);
        mark(found->odd + group * W, vf_lt(vf_abs(peak), vf_set(QUENCH_ZERO_GROUP)));
    }
}

QUENCH_INLINE void code_centred(int half, float inverse, const float *x, vi *codes) {
    const vi low = vi_set(-half), high = vi_set(half - 1);
    for (int k = 0; k < VECTORS; k++) {
        const vi code = vi_nearest(vf_mul(vf_set(inverse), vf_load(x + k * W)));
        codes[k] = vi_add(vi_most(vi_least(code, high), low), vi_set(half));
    }
}

/* ---- Q4_1, Q5_1 ---- */

QUENCH_INLINE void find_ranged(int top, const float *x, const float *importance, float row_energy,
                               struct found *found) {
    static const struct range_grid grid = {-0.9f, 0.05f, 36, 0};
    struct batch batch;
    struct ranges ranges;
    for (int group = 0; group < ABREAST; group++) {
        _Alignas(64) float columns[BLOCK * W], weight[BLOCK * W];
        const int start = group * W * BLOCK;
        load_columns(x + start, BLOCK, columns);
        weigh(importance + start, row_energy, columns, weight);
        for (int i = 0; i < BLOCK; i++) { /* the search wants the groups' vectors side by side */
            vf_store(batch.x + (i * ABREAST + group) * W, vf_load(columns + i * W));
            vf_store(batch.weight + (i * ABREAST + group) * W, vf_load(weight + i * W));
        }
    }
    fit_ranges(BLOCK, top, grid, batch.x, batch.weight, batch.codes, &ranges);
    for (int group = 0; group < ABREAST; group++) {
        vf_store_halves(found->half + 2 * group * W, ranges.scale[group]);
        vf_store_halves(found->low_half + 2 * group * W, vf_neg(ranges.low[group]));
        vf_store(found->inverse + group * W, ranges.inverse[group]);
        vf_store(found->start + group * W, ranges.start[group]);
        mark(found->odd + group * W, ranges.wraps);
    }
}

QUENCH_INLINE void code_ranged(int top, float inverse, float start, const float *x, vi *codes) {
    const vi top_bits = vi_of_bits(vf_set((float)top));
    for (int k = 0; k < VECTORS; k++) {
        const vf exact = vf_mul(vf_set(inverse), vf_sub(vf_load(x + k * W), vf_set(start)));
        codes[k] = vi_nearest(vf_cut(exact, top_bits));
    }
}

/* ---- batches ---- */

struct type {
    encode_fn *reference;
    int size, half, top, low_at, high_at, codes_at; /* half or top; places in the block, -1 for none */
};

static const struct type q4_0 = {quench_encode_q4_0, sizeof(struct block_q4_0), 8, 0, -1, -1, 2};
static const struct type q5_0 = {quench_encode_q5_0, sizeof(struct block_q5_0), 16, 0, -1, 2, 6};
static const struct type q4_1 = {quench_encode_q4_1, sizeof(struct block_q4_1), 0, 15, 2, -1, 4};
static const struct type q5_1 = {quench_encode_q5_1, sizeof(struct block_q5_1), 0, 31, 2, 4, 8};

QUENCH_INLINE void encode_batch(const struct type *type, const float *x, const float *importance, float row_energy,
                                uint8_t *blocks, int n) {
    struct found found;
    if (type->half) {
        find_centred(type->half, x, importance, row_energy, &found);
    } else {
        find_ranged(type->top, x, importance, row_energy, &found);
    }
    for (int i = 0; i < n; i++) {
        uint8_t *block = blocks + i * type->size;
        const float *own = x + i * BLOCK;
        vi codes[VECTORS];
        if (found.odd[i]) {
            type->reference(own, importance + i * BLOCK, row_energy, block, 1);
            continue;
        }
        memcpy(block, found.half + 2 * i, 2);
        if (type->half) {
            code_centred(type->half, found.inverse[i], own, codes);
        } else {
            memcpy(block + type->low_at, found.low_half + 2 * i, 2);
            code_ranged(type->top, found.inverse[i], found.start[i], own, codes);
        }
        pack(codes, block + type->codes_at, type->high_at < 0 ? NULL : block + type->high_at);
    }
}

/* The last blocks are filled up with zeros. */
QUENCH_INLINE void in_batches(const struct type *type, const float *x, const float *importance, float row_energy,
                              uint8_t *blocks, size_t n) {
    for (; n >= BATCH; n -= BATCH, x += BATCH * BLOCK, importance += BATCH * BLOCK, blocks += BATCH * type->size) {
        encode_batch(type, x, importance, row_energy, blocks, BATCH);
    }
    if (n > 0) {
        float filled[BATCH * BLOCK], filled_importance[BATCH * BLOCK];
        memset(filled, 0, sizeof filled);
        memset(filled_importance, 0, sizeof filled_importance);
        memcpy(filled, x, n * BLOCK * sizeof *x);
        memcpy(filled_importance, importance, n * BLOCK * sizeof *importance);
        encode_batch(type, filled, filled_importance, row_energy, blocks, (int)n);
    }
}

void LANES(encode_q4_0_by_importance)(const float *x, const float *importance, float row_energy, uint8_t *blocks,
                                      size_t n) {
    in_batches(&q4_0, x, importance, row_energy, blocks, n);
}

void LANES(encode_q5_0_by_importance)(const float *x, const float *importance, float row_energy, uint8_t *blocks,
                                      size_t n) {
    in_batches(&q5_0, x, importance, row_energy, blocks, n);
}

void LANES(encode_q4_1_by_importance)(const float *x, const float *importance, float row_energy, uint8_t *blocks,
                                      size_t n) {
    in_batches(&q4_1, x, importance, row_energy, blocks, n);
}

void LANES(encode_q5_1_by_importance)(const float *x, const float *importance, float row_energy, uint8_t *blocks,
                                      size_t n) {
    in_batches(&q5_1, x, importance, row_energy, blocks, n);
}
