/* Q3_K, Q6_K: super-blocks in groups of 16, x ~ scale * level * (code - middle); src/reference/k_symmetric.c. */

namespace quench {

enum : int { GROUP = 16, GROUPS = 16, MIDDLE_Q3_K = 4, MIDDLE_Q6_K = 32 };

/* Codes for the step as it is stored: a 16-bit float times an integer. */
template <int N> inline void recode_symmetric(int middle, float step, thread const float *x, thread uchar *codes) {
    if (step == 0.0f) {
        return;
    }
    for (int i = 0; i < N; i++) {
        codes[i] = uchar(bounded(nearest(quotient(x[i], step)), -middle, middle - 1) + middle);
    }
}

/* ---- Q3_K: levels are stored as level + 32 ---- */

inline float fit_own_q3_k(constant metal_job &job, place at, seat own, thread const float *x, thread uchar *codes,
                          thread float &weight_sum, thread bool &safe) {
    weight_sum = 0.0f;
    if (!job.has_importance) {
        return descend_symmetric<GROUP>(MIDDLE_Q3_K, x, codes, safe);
    }
    float weight[GROUP];
    const float energy = quotient(product(2.0f, super_block_energy(at, safe)), float(SUPER_BLOCK));
    weigh<GROUP>(at, own.group * uint(GROUP), energy, x, weight, safe);
    for (int i = 0; i < GROUP; i++) {
        weight_sum += weight[i];
    }
    return fit_symmetric<GROUP>(MIDDLE_Q3_K, x, weight, codes, safe);
}

inline float fit_levels_q3_k(constant metal_job &job, threadgroup workspace *shared, seat own, thread uchar *levels,
                             thread bool &safe) {
    float scales[GROUPS], weights[GROUPS];
    take<GROUPS>(shared->scales, own, scales);
    if (job.has_importance) {
        take<GROUPS>(shared->weights, own, weights);
        return fit_symmetric<GROUPS>(32, scales, weights, levels, safe);
    }
    const float peak = extreme<GROUPS>(scales);
    if (peak == 0.0f) {
        for (int i = 0; i < GROUPS; i++) {
            levels[i] = 0;
        }
        return 0.0f;
    }
    const float inverse = quotient(-32.0f, peak);
    safe = safe && in_range(inverse);
    for (int i = 0; i < GROUPS; i++) {
        /* Kept in a signed byte before the clamp. */
        levels[i] = uchar(bounded(int(char(nearest(product(inverse, scales[i])))), -32, 31) + 32);
    }
    return quotient(1.0f, inverse);
}

/* ---- Q6_K: levels are signed bytes ---- */

inline float fit_own_q6_k(constant metal_job &job, place at, seat own, thread const float *x, thread uchar *codes,
                          thread bool &safe) {
    float weight[GROUP];
    for (int i = 0; i < GROUP; i++) {
        safe = safe && square_is_safe(x[i]);
        weight[i] = job.has_importance ? load_importance(at, own.group * uint(GROUP) + uint(i)) : product(x[i], x[i]);
    }
    return fit_symmetric<GROUP>(MIDDLE_Q6_K, x, weight, codes, safe);
}

/* False for a super-block of zeros, which is stored as zeros altogether. */
inline bool fit_levels_q6_k(threadgroup workspace *shared, seat own, thread uint &scale, thread uchar *levels,
                            thread bool &safe) {
    float scales[GROUPS];
    take<GROUPS>(shared->scales, own, scales);
    const float peak = extreme<GROUPS>(scales);
    if (magnitude(peak) < ZERO_GROUP) {
        return false;
    }
    const float inverse = quotient(-128.0f, peak);
    safe = safe && in_range(inverse);
    scale = half_from_float(quotient(1.0f, inverse));
    for (int i = 0; i < GROUPS; i++) {
        const int level = nearest(product(inverse, scales[i]));
        levels[i] = uchar(level < 127 ? level : 127);
    }
    safe = safe && !half_overflows(scale);
    return true;
}

} // namespace quench

kernel void encode_q3_k(QUENCH_ENCODER_BUFFERS, QUENCH_SEAT) {
    using namespace quench;
    const seat own = take_seat<GROUPS>(job, thread_index, group_index);
    const place at = locate(job, rows, importance, own.block, SUPER_BLOCK);
    float x[GROUP], weight_sum;
    uchar codes[GROUP], levels[GROUPS];
    bool safe = true;
    load_weights<GROUP>(at, own.group * uint(GROUP), x);
    const float own_scale = fit_own_q3_k(job, at, own, x, codes, weight_sum, safe);
    offer(shared, own, own_scale, 0.0f, weight_sum);
    const uint scale = half_from_float(fit_levels_q3_k(job, shared, own, levels, safe));
    safe = safe && !half_overflows(scale);
    const int level = int(uint(levels[own.group]) & 63u) - 32;
    recode_symmetric<GROUP>(MIDDLE_Q3_K, product(float_from_half(scale), float(level)), x, codes);
    if (!agree<GROUP>(shared, own, codes, safe, left)) {
        return;
    }
    device uchar *block = blocks + ulong(own.block) * 110u;
    store_codes<GROUP>(HIGH_Q3_K, shared, own, block);
    store_codes<GROUP>(CODES_Q2_K, shared, own, block + 32);
    if (own.group == 0) {
        thread const uchar *stored = levels;
        store_plane(LEVELS_Q3_K, stored, block + 96, 0u, 1u);
        store_plane(LEVELS_HIGH_Q3_K, stored, block + 104, 0u, 1u);
        store16(block + 108, scale);
    }
}

kernel void encode_q6_k(QUENCH_ENCODER_BUFFERS, QUENCH_SEAT) {
    using namespace quench;
    const seat own = take_seat<GROUPS>(job, thread_index, group_index);
    const place at = locate(job, rows, importance, own.block, SUPER_BLOCK);
    float x[GROUP];
    uchar codes[GROUP], levels[GROUPS];
    uint scale = 0;
    bool safe = true;
    load_weights<GROUP>(at, own.group * uint(GROUP), x);
    const float own_scale = fit_own_q6_k(job, at, own, x, codes, safe);
    offer(shared, own, own_scale, 0.0f, 0.0f);
    if (fit_levels_q6_k(shared, own, scale, levels, safe)) {
        const int level = int(char(levels[own.group]));
        recode_symmetric<GROUP>(MIDDLE_Q6_K, product(float_from_half(scale), float(level)), x, codes);
    } else {
        for (int i = 0; i < GROUPS; i++) {
            codes[i] = 0;
            levels[i] = 0;
        }
    }
    if (!agree<GROUP>(shared, own, codes, safe, left)) {
        return;
    }
    device uchar *block = blocks + ulong(own.block) * 210u;
    store_codes<GROUP>(CODES_Q6_K, shared, own, block);
    store_codes<GROUP>(HIGH_Q6_K, shared, own, block + 128);
    block[192 + own.group] = levels[own.group];
    if (own.group == 0) {
        store16(block + 208, scale);
    }
}
