/* Rows of weights, bit planes of codes, and what the encoders of one format share with all others. */

namespace quench {

/* ---- planes ---- */

/* As in src/blocks.h: groups of `width` bytes, 8 / bits codes in a byte, and those lie `width` apart in the block. */
struct plane {
    uint bits, shift, width, bytes;
};

constant plane CODES_32 = {4, 0, 16, 16};
constant plane HIGH_32 = {1, 4, 1, 4};
constant plane CODES_Q2_K = {2, 0, 32, 64};
constant plane CODES_Q4_K = {4, 0, 32, 128};
constant plane CODES_IQ4_XS = {4, 0, 16, 128};
constant plane CODES_Q6_K = {4, 0, 64, 128};
constant plane HIGH_Q3_K = {1, 2, 32, 32};
constant plane HIGH_Q5_K = {1, 4, 32, 32};
constant plane HIGH_Q6_K = {2, 4, 32, 64};
constant plane LEVELS_Q3_K = {4, 0, 8, 8};
constant plane LEVELS_HIGH_Q3_K = {2, 4, 4, 4};

/* Bytes begin, begin + step, ... of the plane. `Codes` is a pointer into thread or threadgroup memory. */
template <typename Codes>
inline void store_plane(plane layout, Codes codes, device uchar *out, uint begin, uint step) {
    const uint per_byte = 8u / layout.bits, mask = (1u << layout.bits) - 1u;
    for (uint i = begin; i < layout.bytes; i += step) {
        const uint first = i / layout.width * layout.width * per_byte + i % layout.width;
        uint packed = 0;
        for (uint part = 0; part < per_byte; part++) {
            packed |= ((uint(codes[first + part * layout.width]) >> layout.shift) & mask) << (part * layout.bits);
        }
        out[i] = uchar(packed);
    }
}

/* The plane's part of code i. */
inline uint load_code(plane layout, device const uchar *in, uint i) {
    const uint per_byte = 8u / layout.bits, mask = (1u << layout.bits) - 1u;
    const uint group = i / (layout.width * per_byte), rest = i % (layout.width * per_byte);
    const uint packed = in[group * layout.width + rest % layout.width];
    return ((packed >> (rest / layout.width * layout.bits)) & mask) << layout.shift;
}

/* ---- weights ---- */

inline float load_weight(device const uchar *row, uint row_type, uint i) {
    switch (row_type) {
    case ROW_F16:
        return float_from_half(((device const ushort *)row)[i]);
    case ROW_BF16:
        return float_of(uint(((device const ushort *)row)[i]) << 16);
    default:
        return float_of(((device const uint *)row)[i]); /* as bits: a load must not flush either */
    }
}

/* Where a block of the work lies. */
struct place {
    device const uchar *row;
    device const float *importance; /* of the block's columns; only to be read if there is importance */
    uint row_index, row_type, column;
};

inline place locate(constant metal_job &job, device const uchar *rows, device const float *importance, uint block,
                    uint weights) {
    const uint at = job.first_block + block, row = at / job.row_blocks;
    const uint column = (at - row * job.row_blocks) * weights;
    place found = {rows + ulong(row) * job.row_stride, importance + (job.has_importance ? column : 0u), row,
                   job.row_type, column};
    return found;
}

template <int N> inline void load_weights(place at, uint first, thread float *x) {
    for (int i = 0; i < N; i++) {
        x[i] = load_weight(at.row, at.row_type, at.column + first + uint(i));
    }
}

inline float load_importance(place at, uint i) {
    return float_of(((device const uint *)at.importance)[i]);
}

/* A weight whose square and whose square over 256 are normal. */
inline bool square_is_safe(float x) {
    return is_zero(x) || (exponent_of(x) >= -50 && exponent_of(x) <= 62);
}

/* Weights of the squared error with importance: importance * sqrt(energy + x^2). The squares and energies that go in
 * are the caller's to check; here the products. */
template <int N>
inline void weigh(place at, uint first, float energy, thread const float *x, thread float *weight, thread bool &safe) {
    for (int i = 0; i < N; i++) {
        const float importance = load_importance(at, first + uint(i)), square = product(x[i], x[i]);
        safe = safe && (is_zero(importance) || exponent_of(importance) >= -126);
        weight[i] = times(importance, root(energy + square), safe);
    }
}

/* ---- sums of squares ---- */

/* In order, over the super-block: nonnegative terms. */
inline float super_block_energy(place at, thread bool &safe) {
    float sum = 0.0f;
    for (int i = 0; i < SUPER_BLOCK; i++) {
        const float x = load_weight(at.row, at.row_type, at.column + uint(i));
        safe = safe && square_is_safe(x);
        const float square = product(x, x);
        sum += square;
    }
    return sum;
}

} // namespace quench

/* Mean squares of whole rows, a thread a row; NaN for a row whose squares are not safe, which no row's mean can be. */
kernel void row_energies(constant metal_job &job [[buffer(0)]], device const uchar *rows [[buffer(1)]],
                         device float *energies [[buffer(2)]], uint row [[thread_position_in_grid]]) {
    if (row >= job.count) {
        return;
    }
    device const uchar *own = rows + ulong(row) * job.row_stride;
    bool safe = true;
    float sum = 0.0f;
    for (uint i = 0; i < job.row_weights; i++) {
        const float x = quench::load_weight(own, job.row_type, i);
        safe = safe && (quench::is_zero(x) || (quench::exponent_of(x) >= -40 && quench::exponent_of(x) <= 40));
        const float square = quench::product(x, x);
        sum += square;
    }
    energies[row] = safe ? quench::quotient(sum, float(job.row_weights)) : quench::float_of(0x7fc00000u);
}

/* Three sums, quotients and roots of three numbers, for the host to compare with its own. */
kernel void probe_arithmetic(constant metal_job &job [[buffer(0)]], device const float *in [[buffer(1)]],
                             device float *out [[buffer(2)]], uint i [[thread_position_in_grid]]) {
    if (i >= job.count) {
        return;
    }
    const float a = in[3 * i], b = in[3 * i + 1], c = in[3 * i + 2];
    out[3 * i] = a * b + c;
    out[3 * i + 1] = quench::quotient(a, b);
    out[3 * i + 2] = quench::root(quench::magnitude(c));
}
