/* Number formats and roundings. Everything here is exact and the same on every processor. */
#ifndef QUENCH_NUMERIC_H
#define QUENCH_NUMERIC_H

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#  error "GGUF is little-endian and F32, F16 and BF16 rows are copied as they are"
#endif

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float magnitude(float value) {
    return float_of(bits_of(value) & 0x7fffffffu);
}

static inline int is_finite(float value) {
    return (bits_of(value) & 0x7f800000u) != 0x7f800000u;
}

/* Nearest integer, ties to even, for |value| < 2^22. Outside of that range the low 23 bits of the shifted float decide;
 * the wrap is part of the format's definition, because searches on extreme weights run into it. */
static inline int32_t nearest(float value) {
    return (int32_t)(bits_of(value + 12582912.0f) & 0x007fffffu) - 0x00400000;
}

static inline int32_t clamp(int32_t value, int32_t low, int32_t high) {
    return value < low ? low : value > high ? high : value;
}

/* float -> int32 toward zero; what does not fit becomes INT32_MIN on every processor (C leaves it undefined). */
static inline int32_t truncated(float value) {
    return value > -2147483904.0f && value < 2147483648.0f ? (int32_t)value : INT32_MIN;
}

/* Nearest integer, ties away from zero. The fraction of a float is exact, so one comparison decides. */
static inline int32_t rounded_away(float value) {
    if (!(magnitude(value) < 8388608.0f)) {
        return truncated(value);
    }
    int32_t whole = (int32_t)value;
    float fraction = value - (float)whole;
    return whole + (fraction >= 0.5f) - (fraction <= -0.5f);
}

/* IEEE binary16, ties to even; NaN becomes the quiet NaN without payload. */
static inline uint16_t half_from_float(float value) {
    uint32_t bits = bits_of(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t size = bits & 0x7fffffffu;
    /* Below 2^-14: adding 0.5 lets the adder round to the subnormal grid, whose step is 0.5's last place. */
    uint32_t small = bits_of(float_of(size) + 0.5f) - 0x3f000000u;
    uint32_t normal = (size + 0x0fffu + ((size >> 13) & 1u) - 0x38000000u) >> 13;
    uint32_t result = size < 0x38800000u ? small : normal;
    result = size >= 0x47800000u ? 0x7c00u : result;
    result = size > 0x7f800000u ? 0x7e00u : result;
    return (uint16_t)(sign | result);
}

static inline float float_from_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t size = half & 0x7fffu;
    uint32_t normal = (size << 13) + 0x38000000u;
    uint32_t small = bits_of((float)(int32_t)size * 0x1p-24f);
    uint32_t result = size < 0x0400u ? small : normal;
    result = size >= 0x7c00u ? (size << 13) | 0x7f800000u | (size > 0x7c00u ? 0x00400000u : 0u) : result;
    return float_of(sign | result);
}

/* bfloat16, ties to even; NaN stays NaN and becomes quiet. */
static inline uint16_t brain_from_float(float value) {
    uint32_t bits = bits_of(value);
    uint32_t kept = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t nan = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : kept);
}

static inline float float_from_brain(uint16_t brain) {
    return float_of((uint32_t)brain << 16);
}

/* Of a + b, whose nearest double is `sum`: that if it is exact or odd, else the odd double on the other side. No second
 * rounding takes it for a tie (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", IEEE Transactions on
 * Computers 57(4), 2008). */
static inline double to_odd(double a, double b, double sum) {
    const double added = sum - a, error = (a - (sum - added)) + (b - added);
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    if (bits % 2 == 0 && (error > 0.0 || error < 0.0)) {
        bits += (error > 0.0) == (sum > 0.0) ? 1 : UINT64_MAX;
    }
    memcpy(&sum, &bits, sizeof sum);
    return sum;
}

/* a * b + c, rounded once; not by fmaf(), which some C libraries round twice. The product is exact as a double. The sum is
 * rounded, which shows only where it falls halfway between floats, as far as those are normal. */
static inline float fused(float a, float b, float c) {
    const double product = (double)a * (double)b, sum = product + (double)c;
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    const int halfway = (bits & 0x1fffffffu) == 0x10000000u, small = sum > -0x1p-125 && sum < 0x1p-125;
    return (float)(halfway || small ? to_odd(product, (double)c, sum) : sum);
}

/* Blocks are byte arrays: GGUF is little-endian and a block may start at any address. */
static inline void store16(uint8_t *bytes, uint16_t value) {
    bytes[0] = (uint8_t)value;
    bytes[1] = (uint8_t)(value >> 8);
}

static inline uint16_t load16(const uint8_t *bytes) {
    return (uint16_t)(bytes[0] | (uint16_t)(bytes[1] << 8));
}

static inline void store_half(uint8_t *bytes, float value) {
    store16(bytes, half_from_float(value));
}

static inline float load_half(const uint8_t *bytes) {
    return float_from_half(load16(bytes));
}

#endif
