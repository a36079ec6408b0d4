/* Q2_K, Q4_K, Q5_K: super-blocks whose groups are x ~ scale * code - low; src/reference/k_min.c. */

namespace quench {

struct k_min_format {
    int top, level_top;
    range_grid plain;
    int plain_rms;
    float energy_factor;
    int cap_plain, cap_fitted;
};

constant k_min_format FORMAT_Q2_K = {3, 15, {-0.5f, 0.1f, 15, 1}, 0, 1.0f, 0, 0};
constant k_min_format FORMAT_Q4_K = {15, 63, {-1.0f, 0.1f, 20, 0}, 1, 2.0f, 1, 0};
constant k_min_format FORMAT_Q5_K = {31, 63, {-0.5f, 0.1f, 15, 0}, 1, 2.0f, 1, 1};

struct min_head {
    uint scale, low; /* 16 bits */
    uchar levels[16]; /* as the block has them: 16 bytes in Q2_K, 12 in the others */
};

/* Products with the largest value: smaller ones may vanish on the way to nearest(). */
template <int GROUPS>
inline float round_levels(int top, thread const float *values, thread uchar *levels, thread bool &safe) {
    float most = 0.0f;
    for (int i = 0; i < GROUPS; i++) {
        most = values[i] > most ? values[i] : most;
    }
    const float inverse = most > 0.0f ? quotient(float(top), most) : 0.0f;
    safe = safe && (is_zero(inverse) || in_range(inverse));
    for (int i = 0; i < GROUPS; i++) {
        levels[i] = uchar(nearest(product(inverse, values[i])));
    }
    return quotient(most, float(top));
}

template <int GROUPS> inline void cap_levels(int top, thread uchar *levels) {
    for (int i = 0; i < GROUPS; i++) {
        levels[i] = uchar(bounded(int(levels[i]), 0, top));
    }
}

/* Errors weigh |x|, or the group's root mean square more. */
template <int N>
inline void weigh_plain(constant k_min_format &format, thread const float *x, thread float *weight,
                        thread bool &safe) {
    float base = 0.0f;
    if (format.plain_rms) {
        float sum = 0.0f;
        for (int i = 0; i < N; i++) {
            const float square = product(x[i], x[i]);
            safe = safe && square_is_safe(x[i]);
            sum += square;
        }
        base = root(quotient(sum, float(N)));
    }
    for (int i = 0; i < N; i++) {
        weight[i] = base + magnitude(x[i]);
    }
}

/* Scale, low and codes of the thread's own group, and the sum of the error weights. */
template <int N>
inline float fit_own(constant k_min_format &format, constant metal_job &job, place at, seat own, thread const float *x,
                     thread uchar *codes, thread float &low, thread float &weight_sum, thread bool &safe) {
    float weight[N];
    const uint first = own.group * uint(N);
    weight_sum = 0.0f;
    if (!job.has_importance) {
        weigh_plain<N>(format, x, weight, safe);
        return fit_range<N>(format.top, format.plain, x, weight, codes, low, safe);
    }
    const float energy =
        quotient(product(format.energy_factor, super_block_energy(at, safe)), float(SUPER_BLOCK));
    weigh<N>(at, first, energy, x, weight, safe);
    for (int i = 0; i < N; i++) {
        weight_sum += weight[i];
    }
    return fit_range<N>(format.top, GRID_WITH_IMPORTANCE, x, weight, codes, low, safe);
}

/* ---- levels in bytes; a level beyond the format's bits spills over as it does in the reference ---- */

inline void pack_levels_4(thread const uchar *scales, thread const uchar *lows, thread uchar *out) {
    for (int i = 0; i < 16; i++) {
        out[i] = uchar(uint(scales[i]) | uint(lows[i]) << 4);
    }
}

inline void pack_levels_6(thread const uchar *scales, thread const uchar *lows, thread uchar *out) {
    for (int i = 0; i < 4; i++) {
        const uint scale = scales[i], low = lows[i], late_scale = scales[i + 4], late_low = lows[i + 4];
        out[i] = uchar(scale | (late_scale >> 4) << 6);
        out[i + 4] = uchar(low | (late_low >> 4) << 6);
        out[i + 8] = uchar((late_scale & 15u) | (late_low & 15u) << 4);
    }
}

template <typename Bytes> inline uint scale_level_6(Bytes levels, uint group) {
    return group < 4u ? uint(levels[group]) & 63u
                      : (uint(levels[group + 4u]) & 15u) | (uint(levels[group - 4u]) >> 6) << 4;
}

template <typename Bytes> inline uint low_level_6(Bytes levels, uint group) {
    return group < 4u ? uint(levels[group + 4u]) & 63u
                      : uint(levels[group + 4u]) >> 4 | (uint(levels[group]) >> 6) << 4;
}

/* The head of the block, and the thread's own scale and low as they will be decoded. */
template <int GROUPS>
inline void fit_head(constant k_min_format &format, constant metal_job &job, threadgroup const workspace *shared,
                     seat own, thread min_head &head, thread float &own_scale, thread float &own_low,
                     thread bool &safe) {
    float scales[GROUPS], lows[GROUPS], weights[GROUPS], scale, low;
    uchar scale_levels[GROUPS], low_levels[GROUPS];
    take<GROUPS>(shared->scales, own, scales);
    take<GROUPS>(shared->lows, own, lows);
    take<GROUPS>(shared->weights, own, weights);
    if (job.has_importance) {
        scale = fit_levels<GROUPS>(format.level_top, scales, weights, scale_levels, safe);
        low = fit_levels<GROUPS>(format.level_top, lows, weights, low_levels, safe);
    } else {
        scale = round_levels<GROUPS>(format.level_top, scales, scale_levels, safe);
        low = round_levels<GROUPS>(format.level_top, lows, low_levels, safe);
    }
    if (job.has_importance ? format.cap_fitted : format.cap_plain) {
        cap_levels<GROUPS>(format.level_top, scale_levels);
        cap_levels<GROUPS>(format.level_top, low_levels);
    }
    head.scale = half_from_float(scale);
    head.low = half_from_float(low);
    safe = safe && !half_overflows(head.scale) && !half_overflows(head.low);

    thread const uchar *levels = head.levels;
    uint scale_level, low_level;
    if (GROUPS == 16) {
        pack_levels_4(scale_levels, low_levels, head.levels);
        scale_level = uint(levels[own.group]) & 15u;
        low_level = uint(levels[own.group]) >> 4;
    } else {
        pack_levels_6(scale_levels, low_levels, head.levels);
        scale_level = scale_level_6(levels, own.group);
        low_level = low_level_6(levels, own.group);
    }
    own_scale = product(float_from_half(head.scale), float(scale_level));
    own_low = product(float_from_half(head.low), float(low_level));
}

/* Codes for the scales as they are stored: 16-bit floats times integers below 64, exact, and multiples of 2^-24. The
 * sum with x is a multiple of the smaller one's last place; x has an exponent of at least -40 if it is not zero. */
template <int N>
inline void recode_range(int top, float scale, float low, thread const float *x, thread uchar *codes) {
    if (scale == 0.0f) {
        return;
    }
    for (int i = 0; i < N; i++) {
        codes[i] = uchar(bounded(nearest(quotient(x[i] + low, scale)), 0, top));
    }
}

/* Everything up to the codes in threadgroup memory. True if this thread's super-block is to be written. */
template <int N>
inline bool encode_k_min(constant k_min_format &format, constant metal_job &job, device const uchar *rows,
                         device const float *importance, device uchar *left, threadgroup workspace *shared, seat own,
                         thread min_head &head) {
    const place at = locate(job, rows, importance, own.block, SUPER_BLOCK);
    float x[N], low, weight_sum, own_scale, own_low;
    uchar codes[N];
    bool safe = true;
    load_weights<N>(at, own.group * uint(N), x);
    const float scale = fit_own<N>(format, job, at, own, x, codes, low, weight_sum, safe);
    offer(shared, own, scale, low, weight_sum);
    fit_head<SUPER_BLOCK / N>(format, job, shared, own, head, own_scale, own_low, safe);
    recode_range<N>(format.top, own_scale, own_low, x, codes);
    return agree<N>(shared, own, codes, safe, left);
}

/* Q4_K, Q5_K: the first 16 bytes. */
inline void store_head(thread const min_head &head, device uchar *out) {
    store16(out, head.scale);
    store16(out + 2, head.low);
    for (int i = 0; i < 12; i++) {
        out[4 + i] = head.levels[i];
    }
}

} // namespace quench

kernel void encode_q2_k(QUENCH_ENCODER_BUFFERS, QUENCH_SEAT) {
    using namespace quench;
    const seat own = take_seat<16>(job, thread_index, group_index);
    min_head head;
    if (!encode_k_min<16>(FORMAT_Q2_K, job, rows, importance, left, shared, own, head)) {
        return;
    }
    device uchar *block = blocks + ulong(own.block) * 84u;
    block[own.group] = head.levels[own.group];
    store_codes<16>(CODES_Q2_K, shared, own, block + 16);
    if (own.group == 0) {
        store16(block + 80, head.scale);
        store16(block + 82, head.low);
    }
}

kernel void encode_q4_k(QUENCH_ENCODER_BUFFERS, QUENCH_SEAT) {
    using namespace quench;
    const seat own = take_seat<8>(job, thread_index, group_index);
    min_head head;
    if (!encode_k_min<32>(FORMAT_Q4_K, job, rows, importance, left, shared, own, head)) {
        return;
    }
    device uchar *block = blocks + ulong(own.block) * 144u;
    store_codes<32>(CODES_Q4_K, shared, own, block + 16);
    if (own.group == 0) {
        store_head(head, block);
    }
}

kernel void encode_q5_k(QUENCH_ENCODER_BUFFERS, QUENCH_SEAT) {
    using namespace quench;
    const seat own = take_seat<8>(job, thread_index, group_index);
    min_head head;
    if (!encode_k_min<32>(FORMAT_Q5_K, job, rows, importance, left, shared, own, head)) {
        return;
    }
    device uchar *block = blocks + ulong(own.block) * 176u;
    store_codes<32>(HIGH_Q5_K, shared, own, block + 16);
    store_codes<32>(CODES_Q4_K, shared, own, block + 48);
    if (own.group == 0) {
        store_head(head, block);
    }
}
