/* Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: blocks of 32, a thread a block; src/reference/legacy.c. */

namespace quench {

inline bool all_safe(thread const float *x) {
    bool safe = true;
    for (int i = 0; i < BLOCK; i++) {
        safe = safe && square_is_safe(x[i]);
    }
    return safe;
}

/* The energy is NaN for a row that is not safe, and then so are the weights, which no extent lets pass. */
inline void weigh_block(place at, device const float *energies, thread const float *x, thread float *weight,
                        thread bool &safe) {
    weigh<BLOCK>(at, 0u, energies[at.row_index], x, weight, safe);
}

inline bool write_or_leave(uint block, bool safe, device uchar *left) {
    left[block] = safe ? 0 : 1;
    return safe;
}

/* The code's byte is signed while it is capped. */
inline uchar capped(float value, int top) {
    const int code = int(char(truncated(value)));
    return uchar(code < top ? code : top);
}

inline float inverse_of(float scale, thread bool &safe) {
    const float inverse = scale != 0.0f ? quotient(1.0f, scale) : 0.0f;
    safe = safe && (is_zero(inverse) || in_range(inverse));
    return inverse;
}

/* ---- x ~ scale * (code - middle) ---- */

inline float encode_centred(constant metal_job &job, place at, device const float *energies, int middle,
                            thread const float *x, thread uchar *codes, thread bool &safe) {
    if (job.has_importance) {
        float weight[BLOCK];
        weigh_block(at, energies, x, weight, safe);
        return fit_symmetric<BLOCK>(middle, x, weight, codes, safe);
    }
    const float scale = quotient(extreme<BLOCK>(x), float(-middle));
    const float inverse = inverse_of(scale, safe);
    for (int i = 0; i < BLOCK; i++) {
        const float scaled = product(x[i], inverse);
        codes[i] = capped(scaled + (float(middle) + 0.5f), 2 * middle - 1);
    }
    return scale;
}

/* ---- x ~ scale * code + low ---- */

inline float encode_ranged(constant metal_job &job, place at, device const float *energies, int top,
                           thread const float *x, thread uchar *codes, thread float &low, thread bool &safe) {
    if (job.has_importance) {
        float weight[BLOCK];
        weigh_block(at, energies, x, weight, safe);
        const float scale = fit_range<BLOCK>(top, GRID_WITH_IMPORTANCE, x, weight, codes, low, safe);
        low = -low;
        return scale;
    }
    float least = 3.402823466e+38f, most = -3.402823466e+38f;
    for (int i = 0; i < BLOCK; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    const float scale = quotient(most - least, float(top));
    const float inverse = inverse_of(scale, safe);
    for (int i = 0; i < BLOCK; i++) {
        const float scaled = product(x[i] - least, inverse);
        const float value = scaled + 0.5f;
        codes[i] = top == 15 ? capped(value, top) : uchar(truncated(value));
    }
    low = least;
    return scale;
}

} // namespace quench

#define QUENCH_BLOCK_THREAD                                                                                           \
    using namespace quench;                                                                                           \
    if (block_index >= job.count) {                                                                                   \
        return;                                                                                                       \
    }                                                                                                                 \
    const place at = locate(job, rows, importance, block_index, uint(BLOCK));                                         \
    float x[BLOCK];                                                                                                   \
    load_weights<BLOCK>(at, 0u, x);                                                                                   \
    uchar codes[BLOCK];                                                                                               \
    thread const uchar *found = codes;                                                                                \
    bool safe = all_safe(x)

kernel void encode_q4_0(QUENCH_ENCODER_BUFFERS, uint block_index [[thread_position_in_grid]]) {
    QUENCH_BLOCK_THREAD;
    const uint scale = half_from_float(encode_centred(job, at, energies, 8, x, codes, safe));
    if (write_or_leave(block_index, safe && !half_overflows(scale), left)) {
        device uchar *block = blocks + ulong(block_index) * 18u;
        store16(block, scale);
        store_plane(CODES_32, found, block + 2, 0u, 1u);
    }
}

kernel void encode_q5_0(QUENCH_ENCODER_BUFFERS, uint block_index [[thread_position_in_grid]]) {
    QUENCH_BLOCK_THREAD;
    const uint scale = half_from_float(encode_centred(job, at, energies, 16, x, codes, safe));
    if (write_or_leave(block_index, safe && !half_overflows(scale), left)) {
        device uchar *block = blocks + ulong(block_index) * 22u;
        store16(block, scale);
        store_plane(HIGH_32, found, block + 2, 0u, 1u);
        store_plane(CODES_32, found, block + 6, 0u, 1u);
    }
}

kernel void encode_q4_1(QUENCH_ENCODER_BUFFERS, uint block_index [[thread_position_in_grid]]) {
    QUENCH_BLOCK_THREAD;
    float end;
    const uint scale = half_from_float(encode_ranged(job, at, energies, 15, x, codes, end, safe));
    const uint low = half_from_float(end);
    if (write_or_leave(block_index, safe && !half_overflows(scale) && !half_overflows(low), left)) {
        device uchar *block = blocks + ulong(block_index) * 20u;
        store16(block, scale);
        store16(block + 2, low);
        store_plane(CODES_32, found, block + 4, 0u, 1u);
    }
}

kernel void encode_q5_1(QUENCH_ENCODER_BUFFERS, uint block_index [[thread_position_in_grid]]) {
    QUENCH_BLOCK_THREAD;
    float end;
    const uint scale = half_from_float(encode_ranged(job, at, energies, 31, x, codes, end, safe));
    const uint low = half_from_float(end);
    if (write_or_leave(block_index, safe && !half_overflows(scale) && !half_overflows(low), left)) {
        device uchar *block = blocks + ulong(block_index) * 24u;
        store16(block, scale);
        store16(block + 2, low);
        store_plane(HIGH_32, found, block + 4, 0u, 1u);
        store_plane(CODES_32, found, block + 8, 0u, 1u);
    }
}

kernel void encode_q8_0(QUENCH_ENCODER_BUFFERS, uint block_index [[thread_position_in_grid]]) {
    QUENCH_BLOCK_THREAD;
    const float step = quotient(magnitude(extreme<BLOCK>(x)), 127.0f);
    const float inverse = inverse_of(step, safe);
    const uint scale = half_from_float(step);
    for (int i = 0; i < BLOCK; i++) {
        codes[i] = uchar(rounded_away(product(x[i], inverse)));
    }
    if (write_or_leave(block_index, safe && !half_overflows(scale), left)) {
        device uchar *block = blocks + ulong(block_index) * 34u;
        store16(block, scale);
        for (int i = 0; i < BLOCK; i++) {
            block[2 + i] = found[i];
        }
    }
}
