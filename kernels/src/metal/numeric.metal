/* Number formats, roundings and checked arithmetic of the Metal kernels.
 *
 * The kernels write the bytes that the reference (src/reference, plain C) writes. What that takes on a GPU:
 *
 * - No contraction: a fused a * b + c rounds once. Math mode "safe" alone still contracts within a statement, so there
 *   is the pragma, products are calls of their own, and the host probes the device before it trusts it (src/metal/
 *   bulk.c).
 * - Correct rounding of quotients and roots: the precise functions, never the operators.
 * - Subnormals: the GPU reads and writes them as zeros. So each kernel proves for its own data that no operation whose
 *   result counts can have a subnormal operand or result, and leaves the blocks where it cannot: the host encodes those
 *   on the processor. Left as well: what is not finite and what overflows 16 bits, which the host reports.
 *
 * The proofs are about exponents. A float v with 2^e <= |v| < 2^(e+1) has exponent e and is a multiple of 2^(e-23). So
 *   (product)     exponents a and b: zero or an exponent of at least a + b;
 *   (sum)         terms that are zero or have exponents of at least a: a multiple of 2^(a-23), hence zero or an
 *                 exponent of at least a - 23, however much cancels; rounding does not change that;
 *   (nonnegative) a sum of nonnegative terms: zero or an exponent of at least the least of the terms'.
 * An exponent of at least -126 is what every device computes alike. Operations in the inner loops are proven by these
 * rules from the exponents of the data (`extent`); the few outside check their result instead (`times`, `minus`,
 * `over`), which lets far more data pass. A quotient or product that only goes into nearest() may vanish: it is added
 * to 1.5 * 2^23, and anything below 2^-2 in size gives the same integer. Infinities are IEEE's own and the same
 * everywhere; they and NaN are kept from nearest() by in_range() on the factors.
 *
 * The language is C++14 with address spaces; tests compile it as C++ too, and run it with flushing switched on. */
#include <metal_stdlib>

/* Of the Metal compilers that are around, each knows some of these; what it does not know it passes over. */
#pragma METAL fp math_mode(safe)
#pragma METAL fp contract(off)
#pragma clang fp contract(off)

using namespace metal;

namespace quench {

enum : int { BLOCK = 32, SUPER_BLOCK = 256 };
enum : uint { ROW_F32 = 0, ROW_F16 = 1, ROW_BF16 = 30 };

/* Below this a group counts as zeros. */
constant float ZERO_GROUP = 1e-15f;
/* Twice the smallest normal number, 2^-125: results from here on are safe whichever way tininess is detected. */
constant float TINY = 2.350988701644575e-38f;

/* ---- bits ---- */

inline uint bits_of(float value) {
    return as_type<uint>(value);
}

inline float float_of(uint bits) {
    return as_type<float>(bits);
}

inline float magnitude(float value) {
    return float_of(bits_of(value) & 0x7fffffffu);
}

/* See above; -127 for zeros and subnormals, 128 for infinities and NaN. */
inline int exponent_of(float value) {
    return int((bits_of(value) >> 23) & 255u) - 127;
}

inline bool is_zero(float value) {
    return (bits_of(value) & 0x7fffffffu) == 0u;
}

inline bool in_range(float value) {
    const int exponent = exponent_of(value);
    return exponent >= -100 && exponent <= 100;
}

/* ---- arithmetic ---- */

/* A product as a call, so that no statement holds both a product and a sum. */
inline float product(float a, float b) {
    return a * b;
}

inline float quotient(float a, float b) {
    return metal::precise::divide(a, b);
}

inline float root(float value) {
    return metal::precise::sqrt(value);
}

/* a * b, a - b and a / b of normal numbers and zeros; `safe` falls when the result may be subnormal. */
inline float times(float a, float b, thread bool &safe) {
    const float result = a * b;
    safe = safe && (magnitude(result) >= TINY || is_zero(a) || is_zero(b));
    return result;
}

inline float minus(float a, float b, thread bool &safe) {
    const float result = a - b;
    safe = safe && (magnitude(result) >= TINY || a == b);
    return result;
}

inline float over(float a, float b, thread bool &safe) {
    const float result = quotient(a, b);
    safe = safe && (magnitude(result) >= TINY || is_zero(a));
    return result;
}

/* Exponents of the smallest and the largest number that is not zero; `low` is NONE if all are. */
struct extent {
    int low, high;
};

enum : int { NONE = 1000 };

template <int N> inline extent extent_of(thread const float *values) {
    extent found = {NONE, -NONE};
    for (int i = 0; i < N; i++) {
        if (!is_zero(values[i])) {
            const int exponent = exponent_of(values[i]);
            found.low = exponent < found.low ? exponent : found.low;
            found.high = exponent > found.high ? exponent : found.high;
        }
    }
    return found;
}

/* ---- roundings ---- */

/* Nearest integer, ties to even; wraps outside of +-2^22 as the reference does. */
inline int nearest(float value) {
    return int(bits_of(value + 12582912.0f) & 0x007fffffu) - 0x00400000;
}

inline int bounded(int value, int low, int high) {
    return value < low ? low : value > high ? high : value;
}

/* Toward zero; what does not fit becomes the least integer. */
inline int truncated(float value) {
    return value > -2147483904.0f && value < 2147483648.0f ? int(value) : -2147483647 - 1;
}

/* Nearest integer, ties away from zero. */
inline int rounded_away(float value) {
    if (!(magnitude(value) < 8388608.0f)) {
        return truncated(value);
    }
    const int whole = int(value);
    const float fraction = value - float(whole);
    return whole + int(fraction >= 0.5f) - int(fraction <= -0.5f);
}

/* ---- 16 bits ---- */

inline uint half_from_float(float value) {
    const uint sign = (bits_of(value) >> 16) & 0x8000u;
    const uint size = bits_of(value) & 0x7fffffffu;
    const uint small = bits_of(float_of(size) + 0.5f) - 0x3f000000u;
    const uint normal = (size + 0x0fffu + ((size >> 13) & 1u) - 0x38000000u) >> 13;
    uint result = size < 0x38800000u ? small : normal;
    result = size >= 0x47800000u ? 0x7c00u : result;
    result = size > 0x7f800000u ? 0x7e00u : result;
    return sign | result;
}

inline float float_from_half(uint value) {
    const uint sign = (value & 0x8000u) << 16;
    const uint size = value & 0x7fffu;
    const uint normal = (size << 13) + 0x38000000u;
    const uint small = bits_of(float(int(size)) * 5.9604644775390625e-8f); /* 2^-24 */
    uint result = size < 0x0400u ? small : normal;
    result = size >= 0x7c00u ? (size << 13) | 0x7f800000u | (size > 0x7c00u ? 0x00400000u : 0u) : result;
    return float_of(sign | result);
}

/* Infinite or NaN. */
inline bool half_overflows(uint value) {
    return (value & 0x7c00u) == 0x7c00u;
}

inline uint load16(device const uchar *bytes) {
    return uint(bytes[0]) | uint(bytes[1]) << 8;
}

inline void store16(device uchar *bytes, uint value) {
    bytes[0] = uchar(value);
    bytes[1] = uchar(value >> 8);
}

inline float load_half(device const uchar *bytes) {
    return float_from_half(load16(bytes));
}

} // namespace quench
