/* The table of backends and the table of types. */
#include <stddef.h>
#include <stdint.h>

#include "backend.h"
#include "blocks.h"

/* Best first. A backend beyond the processor's features is passed over. */
static const struct backend *const backends[] = {
#if defined(QUENCH_HAS_AVX512)
    &quench_avx512,
#endif
#if defined(QUENCH_HAS_AVX2)
    &quench_avx2,
#endif
#if defined(QUENCH_HAS_NEON)
    &quench_neon,
#endif
#if defined(QUENCH_HAS_METAL)
    &quench_metal, /* behind NEON as long as nobody has measured it */
#endif
    &quench_reference,
};

#define NO_HALVES {-1, -1}

static const struct layout layouts[QUENCH_TYPE_LIMIT] = {
    [QUENCH_F32] = {1, 4, NO_HALVES, 0},
    [QUENCH_F16] = {1, 2, {0, -1}, 0},
    [QUENCH_BF16] = {1, 2, NO_HALVES, 0},
    [QUENCH_Q4_0] = {BLOCK, sizeof(struct block_q4_0), {offsetof(struct block_q4_0, scale), -1}, 1},
    [QUENCH_Q4_1] = {BLOCK, sizeof(struct block_q4_1),
                     {offsetof(struct block_q4_1, scale), offsetof(struct block_q4_1, low)}, 1},
    [QUENCH_Q5_0] = {BLOCK, sizeof(struct block_q5_0), {offsetof(struct block_q5_0, scale), -1}, 1},
    [QUENCH_Q5_1] = {BLOCK, sizeof(struct block_q5_1),
                     {offsetof(struct block_q5_1, scale), offsetof(struct block_q5_1, low)}, 1},
    [QUENCH_Q8_0] = {BLOCK, sizeof(struct block_q8_0), {offsetof(struct block_q8_0, scale), -1}, 0},
    [QUENCH_IQ4_NL] = {BLOCK, sizeof(struct block_q4_0), {offsetof(struct block_q4_0, scale), -1}, 0},
    [QUENCH_IQ4_XS] = {SUPER_BLOCK, sizeof(struct block_iq4_xs), {offsetof(struct block_iq4_xs, scale), -1}, 0},
    [QUENCH_Q2_K] = {SUPER_BLOCK, sizeof(struct block_q2_k),
                     {offsetof(struct block_q2_k, scale), offsetof(struct block_q2_k, low)}, 0},
    [QUENCH_Q3_K] = {SUPER_BLOCK, sizeof(struct block_q3_k), {offsetof(struct block_q3_k, scale), -1}, 0},
    [QUENCH_Q4_K] = {SUPER_BLOCK, sizeof(struct block_q4_k),
                     {offsetof(struct block_q4_k, scale), offsetof(struct block_q4_k, low)}, 0},
    [QUENCH_Q5_K] = {SUPER_BLOCK, sizeof(struct block_q5_k),
                     {offsetof(struct block_q5_k, scale), offsetof(struct block_q5_k, low)}, 0},
    [QUENCH_Q6_K] = {SUPER_BLOCK, sizeof(struct block_q6_k), {offsetof(struct block_q6_k, scale), -1}, 0},
    /* Only read: nothing asks where their scales are. */
    [QUENCH_IQ1_S] = {SUPER_BLOCK, sizeof(struct block_iq1_s), NO_HALVES, 0},
    [QUENCH_IQ1_M] = {SUPER_BLOCK, sizeof(struct block_iq1_m), NO_HALVES, 0},
    [QUENCH_IQ2_XXS] = {SUPER_BLOCK, sizeof(struct block_iq2_xxs), NO_HALVES, 0},
    [QUENCH_IQ2_XS] = {SUPER_BLOCK, sizeof(struct block_iq2_xs), NO_HALVES, 0},
    [QUENCH_IQ2_S] = {SUPER_BLOCK, sizeof(struct block_iq2_s), NO_HALVES, 0},
    [QUENCH_IQ3_XXS] = {SUPER_BLOCK, sizeof(struct block_iq3_xxs), NO_HALVES, 0},
    [QUENCH_IQ3_S] = {SUPER_BLOCK, sizeof(struct block_iq3_s), NO_HALVES, 0},
    [QUENCH_TQ1_0] = {SUPER_BLOCK, sizeof(struct block_tq1_0), NO_HALVES, 0},
    [QUENCH_TQ2_0] = {SUPER_BLOCK, sizeof(struct block_tq2_0), NO_HALVES, 0},
    [QUENCH_MXFP4] = {BLOCK, sizeof(struct block_mxfp4), NO_HALVES, 0},
    [QUENCH_NVFP4] = {64, sizeof(struct block_nvfp4), NO_HALVES, 0},
    [QUENCH_Q1_0] = {128, sizeof(struct block_q1_0), NO_HALVES, 0},
    [QUENCH_Q2_0] = {64, sizeof(struct block_q2_0), NO_HALVES, 0},
};

const struct layout *quench_layout(int32_t type) {
    return type >= 0 && type < QUENCH_TYPE_LIMIT && layouts[type].weights ? &layouts[type] : NULL;
}

const struct backend *quench_backend_at(int32_t index) {
    for (size_t i = 0; index >= 0 && i < sizeof backends / sizeof *backends; i++) {
        const uint64_t needs = backends[i]->features;
        if (needs != 0 && (needs & ~quench_cpu_features()) != 0) {
            continue;
        }
        const struct backend *backend = backends[i]->find ? backends[i]->find() : backends[i];
        if (backend && index-- == 0) {
            return backend;
        }
    }
    return NULL;
}

struct codec quench_codec(const struct backend *backend, int32_t type) {
    const struct codec *reference = &quench_reference.codecs[type];
    struct codec codec = backend->codecs[type];
    codec.encode = codec.encode ? codec.encode : reference->encode;
    codec.decode = codec.decode ? codec.decode : reference->decode;
    codec.refine = codec.refine ? codec.refine : reference->refine;
    return codec;
}

int quench_row_size(const struct layout *layout, int64_t n_rows, int64_t n_cols, size_t *size) {
    if (n_rows < 0 || n_cols <= 0 || n_cols % layout->weights != 0 || n_cols > INT64_MAX / 8) {
        return 0;
    }
    uint64_t bytes = (uint64_t)(n_cols / layout->weights) * (uint64_t)layout->bytes;
    uint64_t largest = bytes > 4 * (uint64_t)n_cols ? bytes : 4 * (uint64_t)n_cols;
    if (n_rows > 0 && largest > (uint64_t)INT64_MAX / (uint64_t)n_rows) {
        return 0;
    }
    *size = (size_t)bytes;
    return 1;
}

int32_t quench_abi(void) {
    return QUENCH_ABI;
}

const char *quench_backend(int32_t index) {
    const struct backend *backend = quench_backend_at(index);
    return backend ? backend->name : NULL;
}

const char *quench_note(void) {
#if defined(QUENCH_HAS_METAL)
    return quench_metal_note();
#else
    return NULL;
#endif
}

int32_t quench_block(int32_t type, int32_t *weights, int32_t *bytes) {
    const struct layout *layout = quench_layout(type);
    if (!layout) {
        return QUENCH_BAD_TYPE;
    }
    if (!weights || !bytes) {
        return QUENCH_BAD_BUFFER;
    }
    *weights = layout->weights;
    *bytes = layout->bytes;
    return QUENCH_OK;
}
