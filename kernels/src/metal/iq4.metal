/* IQ4_NL and IQ4_XS: blocks of 32, x ~ scale * value[code]; IQ4_XS makes its scales of 6-bit levels, eight in a
 * super-block; src/reference/iq4.c. */

namespace quench {

enum : int { VALUES = 16, TRIES = 7 };

constant float VALUES_4_NL[VALUES] = {-127.0f, -104.0f, -83.0f, -65.0f, -49.0f, -35.0f, -22.0f, -10.0f,
                                      1.0f,    13.0f,   25.0f,  38.0f,  53.0f,  69.0f,  89.0f,  113.0f};

inline uint closest(float x) {
    if (x <= VALUES_4_NL[0]) {
        return 0;
    }
    if (x >= VALUES_4_NL[VALUES - 1]) {
        return VALUES - 1;
    }
    uint above = 1;
    while (above < uint(VALUES) - 1u && !(x < VALUES_4_NL[above])) {
        above++;
    }
    return x - VALUES_4_NL[above - 1u] < VALUES_4_NL[above] - x ? above - 1u : above;
}

inline products explain_values(float inverse, thread const float *x, thread const float *weight) {
    products sum = {0.0f, 0.0f};
    for (int i = 0; i < BLOCK; i++) {
        const float value = VALUES_4_NL[closest(product(inverse, x[i]))];
        const float weighted = product(weight[i], value);
        const float vx = product(weighted, x[i]), vv = product(weighted, value);
        sum.lx += vx;
        sum.ll += vv;
    }
    return sum;
}

inline float fit_values(thread const float *x, thread const float *weight, thread bool &safe) {
    const float peak = extreme<BLOCK>(x);
    safe = safe && products_are_safe(extent_of<BLOCK>(weight), extent_of<BLOCK>(x));
    if (magnitude(peak) < ZERO_GROUP) {
        return 0.0f;
    }
    const float start = quotient(-peak, VALUES_4_NL[0]);
    products sum = explain_values(inverse_of(start, safe), x, weight);
    float scale = sum.ll > 0.0f ? over(sum.lx, sum.ll, safe) : 0.0f;
    float best = times(scale, sum.lx, safe);
    for (int attempt = -TRIES; attempt <= TRIES; attempt++) {
        sum = explain_values(quotient(float(attempt) + VALUES_4_NL[0], peak), x, weight);
        if (explains_more(sum, best, safe)) {
            scale = over(sum.lx, sum.ll, safe);
            best = times(scale, sum.lx, safe);
        }
    }
    return scale;
}

/* The error weights of 32 weights, and their scale. `energy` counts with importance only. */
inline float fit_block(constant metal_job &job, place at, uint first, float energy, thread const float *x,
                       thread bool &safe) {
    float weight[BLOCK];
    if (job.has_importance) {
        weigh<BLOCK>(at, first, energy, x, weight, safe);
    } else {
        squares<BLOCK>(x, weight);
    }
    return fit_values(x, weight, safe);
}

inline void code_values(float scale, thread const float *x, thread uchar *codes, thread bool &safe) {
    const float inverse = inverse_of(scale, safe);
    for (int i = 0; i < BLOCK; i++) {
        codes[i] = uchar(closest(product(inverse, x[i])));
    }
}

/* ---- IQ4_XS ---- */

enum : int { BLOCKS_XS = SUPER_BLOCK / BLOCK };

/* Levels -32 to 31 of the super-block's scales; the largest one becomes -32. Returns what they are multiplied by. */
inline float fit_signed_levels(threadgroup const workspace *shared, seat own, thread int *levels, thread bool &safe) {
    float scales[BLOCKS_XS];
    take<BLOCKS_XS>(shared->scales, own, scales);
    const float scale = quotient(-extreme<BLOCKS_XS>(scales), 32.0f);
    const float inverse = inverse_of(scale, safe);
    for (int i = 0; i < BLOCKS_XS; i++) {
        levels[i] = bounded(nearest(product(inverse, scales[i])), -32, 31);
    }
    return scale;
}

inline void store_head_xs(uint scale, thread const int *levels, device uchar *out) {
    uint high = 0;
    for (int i = 0; i < BLOCKS_XS; i++) {
        high |= (uint(levels[i] + 32) >> 4) << (2 * i);
    }
    store16(out, scale);
    store16(out + 2, high);
    for (int i = 0; i < BLOCKS_XS / 2; i++) {
        out[4 + i] = uchar((uint(levels[2 * i] + 32) & 15u) | (uint(levels[2 * i + 1] + 32) & 15u) << 4);
    }
}

} // namespace quench

kernel void encode_iq4_nl(QUENCH_ENCODER_BUFFERS, uint block_index [[thread_position_in_grid]]) {
    QUENCH_BLOCK_THREAD;
    float energy = 0.0f;
    for (int i = 0; i < BLOCK; i++) {
        const float square = product(x[i], x[i]);
        energy += square;
    }
    const float step = fit_block(job, at, 0u, product(energy, 2.0f / float(BLOCK)), x, safe);
    const uint scale = half_from_float(step);
    code_values(step, x, codes, safe);
    if (write_or_leave(block_index, safe && !half_overflows(scale), left)) {
        device uchar *block = blocks + ulong(block_index) * 18u;
        store16(block, scale);
        store_plane(CODES_32, found, block + 2, 0u, 1u);
    }
}

kernel void encode_iq4_xs(QUENCH_ENCODER_BUFFERS, QUENCH_SEAT) {
    using namespace quench;
    const seat own = take_seat<BLOCKS_XS>(job, thread_index, group_index);
    const place at = locate(job, rows, importance, own.block, uint(SUPER_BLOCK));
    const uint first = own.group * uint(BLOCK);
    float x[BLOCK], energy = 0.0f;
    int levels[BLOCKS_XS];
    uchar codes[BLOCK];
    load_weights<BLOCK>(at, first, x);
    bool safe = all_safe(x);
    if (job.has_importance) {
        energy = product(super_block_energy(at, safe), 2.0f / float(SUPER_BLOCK));
    }
    offer(shared, own, fit_block(job, at, first, energy, x, safe), 0.0f, 0.0f);
    const float step = fit_signed_levels(shared, own, levels, safe);
    const uint scale = half_from_float(step);
    safe = safe && !half_overflows(scale);
    code_values(product(step, float(levels[own.group])), x, codes, safe);
    if (!agree<BLOCK>(shared, own, codes, safe, left)) {
        return;
    }
    device uchar *block = blocks + ulong(own.block) * 136u;
    store_codes<BLOCK>(CODES_IQ4_XS, shared, own, block + 8);
    if (own.group == 0) {
        store_head_xs(scale, levels, block);
    }
}
