/* What a backend provides, and what the dispatcher asks of it. A new instruction set adds a folder beside reference/
 * with one `struct backend`, and one line in dispatch.c's table. */
#ifndef QUENCH_BACKEND_H
#define QUENCH_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "quench_kernels.h"

/* The most weights that the dispatcher hands over at once: whole blocks, widened to float. Blocks of several rows come
 * together, so that vectors of blocks are full even when rows are short. */
enum { TILE = 8192 };

/* weights: finite; the dispatcher sends a tile that holds anything else to the reference, whatever the backend.
 * importance: for exactly these weights, or NULL. row_energy: mean square of the whole row, for the types that need it;
 * their blocks are never mixed with those of another row. */
typedef void encode_fn(const float *weights, const float *importance, float row_energy, uint8_t *blocks, size_t n);
typedef void decode_fn(const uint8_t *blocks, float *weights, size_t n);

/* Replaces those of the n encoded blocks for which it finds others with a smaller weighted error. */
typedef void refine_fn(const float *weights, const float *importance, uint8_t *blocks, size_t n);

struct codec {
    encode_fn *encode; /* none for types that are only read */
    decode_fn *decode;
    refine_fn *refine; /* none where nothing is known to be better */
};

/* The largest of the magnitudes' bit patterns: beyond 0x7f7fffff something is not finite. */
typedef uint32_t largest_fn(const float *x, size_t n);

/* Adds (x - y)^2 to plain[i % 8] and importance * (x - y)^2 to weighted[i % 8], in order, in double. The eight sums in
 * this order make the number the same from every backend. `weighted` is left alone without importance. */
typedef void distance_fn(const float *x, const float *y, const float *importance, size_t n, double *plain,
                         double *weighted);

/* The rows of a call, for a backend that encodes many blocks at once; as quench_quantize takes them. */
struct row_source {
    int32_t type, row_type;
    const uint8_t *rows;
    int64_t row_stride, n_rows, n_cols;
    const float *importance;
};

/* Encodes n blocks from the source's block `first` on, counted over all rows, as far as it can: left[i] is 1 for a block
 * that it left alone, else 0. What it leaves alone are at least all blocks of weights that are not finite, and those
 * whose 16-bit numbers overflow. Returns 0 if it left everything. */
typedef int encode_ahead_fn(const struct row_source *source, int64_t first, size_t n, uint8_t *blocks, uint8_t *left);

/* Decodes n blocks. Returns 0 if it did nothing. */
typedef int decode_ahead_fn(int32_t type, const uint8_t *blocks, size_t n, float *weights);

/* Of rows of logits; see rows.h for the arithmetic and its order. Columns of the weighing ones are multiples of 64.
 * above: the first of x[from .. n) that is greater than `than`, or n.
 * weigh: adds the weights of x to 16 sums.
 * weigh_pair: adds the weights of x, those of y, weights of x times x - y - centre and weights of y times the same to
 * four times 16 sums. Those are no use if a logit is infinite.
 * subtract: out[i] = x[i] - by, rounded once; any n; out may be x. */
struct row_scale;
typedef size_t above_fn(const float *x, size_t from, size_t n, float than);
typedef void weigh_fn(const float *x, size_t n, const struct row_scale *scale, double *sums);
typedef void weigh_pair_fn(const float *x, const float *y, size_t n, const struct row_scale *x_scale,
                           const struct row_scale *y_scale, double centre, double *sums);
typedef void subtract_fn(const float *x, size_t n, double by, float *out);

struct row_kernels {
    above_fn *above;
    weigh_fn *weigh;
    weigh_pair_fn *weigh_pair;
    subtract_fn *subtract;
};

/* Rounding with error feedback; see feedback.h.
 * settle: codes of a strip's columns, and its misses.
 * carry: x[row][column] = fused(misses[row][i], factor[i][column], x[row][column]) for i from 0 to inner - 1 in order;
 * strides are in floats, inner is at most FEEDBACK_PANEL, n_cols whole FEEDBACK_COLUMNS. */
struct feedback_grid;
struct feedback_strip;
typedef void settle_fn(const struct feedback_grid *grid, const struct feedback_strip *strip);
typedef void carry_fn(const float *misses, size_t misses_stride, const float *factor, size_t factor_stride,
                      size_t inner, float *x, size_t x_stride, size_t n_rows, size_t n_cols);

struct feedback_kernels {
    settle_fn *settle;
    carry_fn *carry;
};

/* Quantizes 256 finite floats as Q8_K and returns their scale. */
typedef float encode_q8_k_fn(const float *x, int8_t *codes);

/* Adds row[i] * x[i] to sums[i % 32], in order. */
typedef void dot_floats_fn(const float *row, const float *x, size_t n, float *sums);

/* Dot products of rows with one prepared vector: see dot.h. */
struct activations;
typedef void dot_fn(const uint8_t *rows, size_t n_rows, size_t n_blocks, const struct activations *x, float *out);
struct dots {
    uint64_t features; /* needed beside the backend's own */
    dot_fn *types[QUENCH_TYPE_LIMIT];
};

struct backend {
    const char *name;
    uint64_t features; /* all of these CPU features are needed */
    /* For a backend with a device: the table to use, or NULL if the device is not there. Else NULL. */
    const struct backend *(*find)(void);
    /* In all of these an empty entry falls back to the reference. */
    struct codec codecs[QUENCH_TYPE_LIMIT];
    largest_fn *largest;
    distance_fn *distance;
    /* NULL where blocks are encoded and decoded tile by tile alone. */
    encode_ahead_fn *encode_ahead;
    decode_ahead_fn *decode_ahead;
    struct row_kernels rows; /* all or none */
    struct feedback_kernels feedback;
    encode_q8_k_fn *encode_q8_k;
    dot_floats_fn *dot_floats;
    const struct dots *dots[2]; /* the first that the processor can run and that knows the type */
};

extern const struct backend quench_reference;
#if defined(QUENCH_HAS_AVX2)
extern const struct backend quench_avx2;
#endif
#if defined(QUENCH_HAS_AVX512)
extern const struct backend quench_avx512;
#endif
#if defined(QUENCH_HAS_NEON)
extern const struct backend quench_neon;
#endif

#if defined(QUENCH_HAS_METAL)
extern const struct backend quench_metal;
/* Why it is not what computes; NULL if it is. */
const char *quench_metal_note(void);
#endif

/* The backend of that index among those that this processor can run; NULL if there is none. */
const struct backend *quench_backend_at(int32_t index);

/* Its functions for a type, the reference's where it has none. */
struct codec quench_codec(const struct backend *backend, int32_t type);

struct layout {
    int weights, bytes; /* of a block; 0 for a type that does not exist */
    int halves[2];      /* where the block's 16-bit floats are; -1 for none */
    int row_energy;     /* with importance, the encoder needs the mean square of the whole row */
};

/* NULL for a type that does not exist. */
const struct layout *quench_layout(int32_t type);

/* Bytes of a row of whole blocks. Returns 0 when the shape is impossible or when all rows together overflow a size. */
int quench_row_size(const struct layout *layout, int64_t n_rows, int64_t n_cols, size_t *size);

enum cpu_feature {
    CPU_AVX2 = 1 << 0,
    CPU_F16C = 1 << 1,
    CPU_FMA = 1 << 2,
    CPU_AVX512 = 1 << 3, /* F, BW, DQ and VL together */
    CPU_AVX512_VNNI = 1 << 4,
    CPU_NEON = 1 << 5,
    CPU_DOTPROD = 1 << 6
};

/* Features that both the processor and the operating system support. */
uint64_t quench_cpu_features(void);

/* The kernels need IEEE arithmetic: denormals kept, rounding to nearest. Other code in the process may have changed
 * the thread's floating-point mode, so a call sets it and gives it back. */
uint64_t quench_enter_ieee(void);
void quench_leave_ieee(uint64_t saved);

#endif
