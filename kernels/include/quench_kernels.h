/* Quench kernels: the whole C ABI.
 *
 * Rows of weights become GGUF blocks and back. Every call is a pure function of its arguments: nothing is allocated,
 * no thread is started, no state is kept but what the processor can do (and by the Metal backend, whose device has
 * buffers and compiled shaders). Callers split rows over threads as they like; the bytes do not depend on it.
 *
 * Types are named by their GGUF numbers. Sizes are bytes, strides are bytes between the starts of two rows.
 * A call returns a status; on QUENCH_OK everything was written, on any other status nothing useful was.
 */
#ifndef QUENCH_KERNELS_H
#define QUENCH_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#  if defined(QUENCH_BUILD)
#    define QUENCH_API __declspec(dllexport)
#  else
#    define QUENCH_API __declspec(dllimport)
#  endif
#else
#  define QUENCH_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever a function's arguments or a number below change meaning. */
#define QUENCH_ABI 6

enum quench_type {
    QUENCH_F32 = 0,
    QUENCH_F16 = 1,
    QUENCH_Q4_0 = 2,
    QUENCH_Q4_1 = 3,
    QUENCH_Q5_0 = 6,
    QUENCH_Q5_1 = 7,
    QUENCH_Q8_0 = 8,
    QUENCH_Q2_K = 10,
    QUENCH_Q3_K = 11,
    QUENCH_Q4_K = 12,
    QUENCH_Q5_K = 13,
    QUENCH_Q6_K = 14,
    QUENCH_IQ2_XXS = 16,
    QUENCH_IQ2_XS = 17,
    QUENCH_IQ3_XXS = 18,
    QUENCH_IQ1_S = 19,
    QUENCH_IQ4_NL = 20,
    QUENCH_IQ3_S = 21,
    QUENCH_IQ2_S = 22,
    QUENCH_IQ4_XS = 23,
    QUENCH_IQ1_M = 29,
    QUENCH_BF16 = 30,
    QUENCH_TQ1_0 = 34,
    QUENCH_TQ2_0 = 35,
    QUENCH_MXFP4 = 39,
    QUENCH_NVFP4 = 40,
    QUENCH_Q1_0 = 41,
    QUENCH_Q2_0 = 42,
    QUENCH_TYPE_LIMIT = 43
};

enum quench_status {
    QUENCH_OK = 0,
    QUENCH_BAD_BACKEND = 1,    /* no such backend, or this processor cannot run it */
    QUENCH_BAD_TYPE = 2,       /* no such block type, or no such row type */
    QUENCH_BAD_SHAPE = 3,      /* negative or overflowing counts, or columns that are not whole blocks */
    QUENCH_BAD_BUFFER = 4,     /* a null pointer, or a buffer of another size than the shape needs */
    QUENCH_BAD_IMPORTANCE = 5, /* importance that is negative or not finite; the report has the column */
    QUENCH_BAD_FLAGS = 6,
    QUENCH_NOT_FINITE = 7,     /* a weight is NaN or infinite; the report has row and column */
    QUENCH_OVERFLOW = 8,       /* weights too large for the type's 16-bit scale; the report has row and first column */
    QUENCH_BAD_TARGET = 9      /* a target that is no column; the report has row and target */
};

/* Write blocks that hold NaN or infinity instead of refusing them. The sign of such a NaN is the processor's own:
 * these are the only bytes that may differ between machines. */
#define QUENCH_ALLOW_NONFINITE 1u
/* After the exact search, look for a block of the same format with a smaller error, and keep it if there is one. Types
 * without such a search are written as they are. */
#define QUENCH_REFINED 2u

typedef struct quench_report {
    int64_t row;
    int64_t column;
} quench_report;

QUENCH_API int32_t quench_abi(void);

/* Backends that this processor can run, best first, from 0; NULL behind the last one. The reference is always last. */
QUENCH_API const char *quench_backend(int32_t index);

/* Why a backend that this library was built with does not compute here, as a sentence; NULL if there is nothing to say.
 * May try the backend's device first, which takes a second. */
QUENCH_API const char *quench_note(void);

/* Processor name and the instruction sets that matter here, cut to `size` bytes with the final zero. */
QUENCH_API int32_t quench_cpu(char *text, size_t size);

/* Weights and bytes of one block. */
QUENCH_API int32_t quench_block(int32_t type, int32_t *weights, int32_t *bytes);

/* Quantize `n_rows` rows of `n_cols` weights of `row_type` (F32, F16 or BF16) into contiguous blocks of `type`.
 *
 * importance: n_cols non-negative weights of the squared error, or NULL.
 * squared_error: n_rows sums of (weight - decoded weight)^2 in double, or NULL.
 * weighted_error: n_rows sums of importance * (weight - decoded weight)^2 in double, or NULL; without importance the
 * same as squared_error. Neither depends on the backend.
 * report: where the first offending value is, or NULL. Other blocks may have been written, never its own.
 */
QUENCH_API int32_t quench_quantize(int32_t backend, int32_t type, int32_t row_type, const void *rows,
                                   int64_t row_stride, int64_t n_rows, int64_t n_cols, const float *importance,
                                   uint32_t flags, void *blocks, size_t blocks_size, double *squared_error,
                                   double *weighted_error, quench_report *report);

/* energy[row] = sum of importance * weight^2 over the row, in double (importance NULL: 1): what quench_quantize's
 * weighted_error is a part of. Rows and importance as there; the numbers do not depend on the backend. */
QUENCH_API int32_t quench_energy(int32_t backend, int32_t row_type, const void *rows, int64_t row_stride,
                                 int64_t n_rows, int64_t n_cols, const float *importance, double *energy);

/* Quantize rows with error feedback: what a column misses is made up for by the columns behind it, as far as the inputs
 * that they are multiplied with go together (Frantar et al. 2022, arXiv 2210.17323, "GPTQ"). Types Q4_0 to Q8_0 and
 * Q2_K to Q6_K.
 *
 * rows, importance, blocks: as for quench_quantize; importance is needed. Each block is encoded as there, from weights
 * that are corrected by the misses so far; its scales stay, and its codes are rounded anew, column by column.
 * factor: n_cols x n_cols floats in rows, of factor_size bytes: what the miss of the row's column, that is its
 * corrected weight less the decoded one, adds to the weight of each column behind it. Only what is above the diagonal
 * is read. For a covariance H whose inverse is U^T U with upper triangular U it is -U[i][j] / U[i][i].
 * scales: n_cols doubles, 1 / U[i][i]^2.
 * work: n_rows x n_cols floats of work_size bytes, in which it is computed.
 * squared_error: n_rows sums of (weight - decoded weight)^2; feedback_error: n_rows sums of scale * miss^2, which for
 * such factors is error H error^T. In double.
 * Nothing depends on the backend, and rows not on each other. QUENCH_NOT_FINITE is also what infinite factors give. */
QUENCH_API int32_t quench_feedback(int32_t backend, int32_t type, int32_t row_type, const void *rows,
                                   int64_t row_stride, int64_t n_rows, int64_t n_cols, const float *importance,
                                   const float *factor, size_t factor_size, const double *scales, float *work,
                                   size_t work_size, void *blocks, size_t blocks_size, double *squared_error,
                                   double *feedback_error, quench_report *report);

/* Codes of blocks that were made from these rows, moved to where error H error^T is least while all others stay: column
 * after column, `sweeps` times or until nothing moves. Scales stay. Never worse than before but for rounding
 * (coordinate descent, as in Behdin et al. 2023, arXiv 2309.01885).
 *
 * The same types as for quench_feedback; blocks are read and written. covariance: H, n_cols x n_cols floats in rows,
 * symmetric, of covariance_size bytes. work: at least 64 x n_cols floats, of work_size bytes. squared_error and
 * feedback_error: as there. Nothing depends on the backend, and rows not on each other. Rows or a covariance that are
 * not finite leave codes where they are. */
QUENCH_API int32_t quench_polish(int32_t backend, int32_t type, int32_t row_type, const void *rows,
                                 int64_t row_stride, int64_t n_rows, int64_t n_cols, const float *covariance,
                                 size_t covariance_size, int32_t sweeps, float *work, size_t work_size, void *blocks,
                                 size_t blocks_size, double *squared_error, double *feedback_error);

/* Decode contiguous blocks of `type` into n_rows * n_cols contiguous floats. Any bytes are valid blocks. */
QUENCH_API int32_t quench_dequantize(int32_t backend, int32_t type, const void *blocks, size_t blocks_size,
                                     int64_t n_rows, int64_t n_cols, float *out, size_t out_size);

/* The most of a row's largest logits that can be asked for. */
#define QUENCH_TOP_LIMIT 128

typedef struct quench_row_score {
    double log_sum; /* ln(sum(exp(logits))) */
    double nll;     /* log_sum - the target's logit: -ln of its probability; NaN without targets */
} quench_row_score;

/* Of reference p and candidate q; in pairs the reference is first. In nats. */
typedef struct quench_row_divergence {
    double kl;         /* sum(p (ln p - ln q)) */
    double reverse_kl; /* sum(q (ln q - ln p)) */
    double log_sum[2]; /* as quench_score_rows, the same bits */
    double nll[2];
    int32_t top[2]; /* the column of the largest logit */
    int32_t shared; /* how many of the top_k largest of both are the same columns */
    int32_t reserved;
} quench_row_divergence;

/* Rows of logits of n_cols tokens; their softmax is a distribution. -infinity is an impossible token. A row with NaN,
 * with a logit above 2^100, or without one above -2^100 is no distribution: its numbers are NaN and its columns -1.
 * All bits are the same from every backend. Pointers and strides are multiples of 4.
 *
 * targets: n_rows columns, or NULL.
 * top: for each row the top_k largest columns, the largest first, of equals the lower one first. 1 <= top_k <= n_cols.
 * log_probabilities: n_rows * n_cols contiguous floats that receive logit - log_sum, or NULL; they may be the logits.
 * report: for QUENCH_BAD_TARGET, or NULL. */
QUENCH_API int32_t quench_score_rows(int32_t backend, const float *logits, int64_t row_stride, int64_t n_rows,
                                     int64_t n_cols, const int32_t *targets, int32_t top_k, quench_row_score *scores,
                                     size_t scores_size, int32_t *top, size_t top_size, float *log_probabilities,
                                     size_t log_probabilities_size, quench_report *report);

/* The same positions by two models. A divergence is infinite if it would divide a possible token by an impossible one.
 * What rounding leaves below zero is zero; equal rows give exactly zero. If either row is no distribution, divergences
 * are NaN and `shared` is 0. */
QUENCH_API int32_t quench_compare_rows(int32_t backend, const float *reference, int64_t reference_stride,
                                       const float *candidate, int64_t candidate_stride, int64_t n_rows,
                                       int64_t n_cols, const int32_t *targets, int32_t top_k,
                                       quench_row_divergence *divergences, size_t divergences_size,
                                       quench_report *report);

/* Bytes that quench_activations writes for a vector of n_cols floats that rows of `type` will be multiplied with. */
QUENCH_API int32_t quench_activations_size(int32_t type, int64_t n_cols, size_t *size);

/* Prepare a vector of finite floats, once for any number of rows: quantized as the engine does for rows of this type
 * (Q8_K, Q8_0 or Q8_1), in planes whose layout is in src/dot.h and may change; for F32, F16 and BF16 as floats.
 * They do not depend on the backend.
 *
 * activations: aligned to 64 bytes. report: the column of the first value that is not finite, or NULL.
 */
QUENCH_API int32_t quench_activations(int32_t backend, int32_t type, const float *x, int64_t n_cols, void *activations,
                                      size_t size, quench_report *report);

/* out[row] = dot product of each of n_rows contiguous rows of blocks with a vector prepared for that type and length.
 * The floats do not depend on the backend; infinite or NaN scales of a block make a row NaN or infinite. */
QUENCH_API int32_t quench_dot(int32_t backend, int32_t type, const void *blocks, size_t blocks_size, int64_t n_rows,
                              int64_t n_cols, const void *activations, size_t activations_size, float *out,
                              size_t out_size);

#ifdef __cplusplus
}
#endif
#endif
