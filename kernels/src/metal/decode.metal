/* Decoders, a thread a weight. Scales are 16-bit floats and so multiples of 2^-24, products with integers are exact,
 * and differences of multiples of 2^-24 are such: nothing here can be subnormal. */

namespace quench {

inline float decode_min(device const uchar *scales, float scale_level, float low_level, uint code) {
    const float scale = product(load_half(scales), scale_level);
    const float low = product(load_half(scales + 2), low_level);
    const float scaled = product(scale, float(code));
    return scaled - low;
}

inline float decode_q2_k(device const uchar *block, uint i) {
    const uint levels = block[i / 16u];
    return decode_min(block + 80, float(levels & 15u), float(levels >> 4), load_code(CODES_Q2_K, block + 16, i));
}

inline float decode_q4_k(device const uchar *block, uint i) {
    return decode_min(block, float(scale_level_6(block + 4, i / 32u)), float(low_level_6(block + 4, i / 32u)),
                      load_code(CODES_Q4_K, block + 16, i));
}

inline float decode_q5_k(device const uchar *block, uint i) {
    return decode_min(block, float(scale_level_6(block + 4, i / 32u)), float(low_level_6(block + 4, i / 32u)),
                      load_code(CODES_Q4_K, block + 48, i) | load_code(HIGH_Q5_K, block + 16, i));
}

inline float decode_q3_k(device const uchar *block, uint i) {
    const uint level = load_code(LEVELS_Q3_K, block + 96, i / 16u) | load_code(LEVELS_HIGH_Q3_K, block + 104, i / 16u);
    const uint code = load_code(CODES_Q2_K, block + 32, i) | load_code(HIGH_Q3_K, block, i);
    return product(product(load_half(block + 108), float(int(level) - 32)), float(int(code) - MIDDLE_Q3_K));
}

inline float decode_q6_k(device const uchar *block, uint i) {
    const uint code = load_code(CODES_Q6_K, block, i) | load_code(HIGH_Q6_K, block + 128, i);
    const float step = product(load_half(block + 208), float(int(char(block[192u + i / 16u]))));
    return product(step, float(int(code) - MIDDLE_Q6_K));
}

inline float decode_q4_0(device const uchar *block, uint i) {
    return product(float(int(load_code(CODES_32, block + 2, i)) - 8), load_half(block));
}

inline float decode_q5_0(device const uchar *block, uint i) {
    const uint code = load_code(CODES_32, block + 6, i) | load_code(HIGH_32, block + 2, i);
    return product(float(int(code) - 16), load_half(block));
}

inline float decode_q4_1(device const uchar *block, uint i) {
    const float scaled = product(float(load_code(CODES_32, block + 4, i)), load_half(block));
    return scaled + load_half(block + 2);
}

inline float decode_q5_1(device const uchar *block, uint i) {
    const uint code = load_code(CODES_32, block + 8, i) | load_code(HIGH_32, block + 4, i);
    const float scaled = product(float(code), load_half(block));
    return scaled + load_half(block + 2);
}

inline float decode_q8_0(device const uchar *block, uint i) {
    return product(float(int(char(block[2u + i]))), load_half(block));
}

inline float decode_iq4_nl(device const uchar *block, uint i) {
    return product(load_half(block), VALUES_4_NL[load_code(CODES_32, block + 2, i)]);
}

inline float decode_iq4_xs(device const uchar *block, uint i) {
    const uint group = i / 32u;
    const uint low = (uint(block[4u + group / 2u]) >> (4u * (group % 2u))) & 15u;
    const uint high = (load16(block + 2) >> (2u * group)) & 3u;
    const float step = product(load_half(block), float(int(low | high << 4) - 32));
    return product(step, VALUES_4_NL[load_code(CODES_IQ4_XS, block + 8, i)]);
}

} // namespace quench

#define QUENCH_DECODER(name, weights, bytes)                                                                          \
    kernel void decode_##name(constant metal_job &job [[buffer(0)]], device const uchar *blocks [[buffer(1)]],        \
                              device float *out [[buffer(2)]], uint i [[thread_position_in_grid]]) {                  \
        if (i < job.count) {                                                                                          \
            out[i] = quench::decode_##name(blocks + ulong(i / weights) * bytes, i % weights);                         \
        }                                                                                                             \
    }

QUENCH_DECODER(q2_k, 256u, 84u)
QUENCH_DECODER(q3_k, 256u, 110u)
QUENCH_DECODER(q4_k, 256u, 144u)
QUENCH_DECODER(q5_k, 256u, 176u)
QUENCH_DECODER(q6_k, 256u, 210u)
QUENCH_DECODER(q4_0, 32u, 18u)
QUENCH_DECODER(q4_1, 32u, 20u)
QUENCH_DECODER(q5_0, 32u, 22u)
QUENCH_DECODER(q5_1, 32u, 24u)
QUENCH_DECODER(q8_0, 32u, 34u)
QUENCH_DECODER(iq4_nl, 32u, 18u)
QUENCH_DECODER(iq4_xs, 256u, 136u)
