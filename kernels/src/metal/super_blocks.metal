/* How a SIMD group works on super-blocks: a thread a group of weights, 8 or 16 threads a super-block, so 4 or 2
 * super-blocks at a time. Each thread searches its own group; then they exchange scales, lows and weights; then every
 * thread of a super-block computes the same levels (one could do it, but the others would wait as long), recodes its
 * own group, and packs every 8th or 16th byte of the block. */

namespace quench {

struct workspace {
    float scales[QUENCH_METAL_ENCODE_THREADS], lows[QUENCH_METAL_ENCODE_THREADS];
    float weights[QUENCH_METAL_ENCODE_THREADS];
    uchar codes[QUENCH_METAL_ENCODE_THREADS * BLOCK];
    uchar left[QUENCH_METAL_ENCODE_THREADS];
};

static_assert(sizeof(workspace) <= QUENCH_METAL_SHARED_BYTES, "the host reserves this much");

/* What a thread has to do with the threads around it. */
struct seat {
    uint block; /* of the work; the last one again for threads beyond it, which take part and write nothing */
    uint first; /* thread of the super-block */
    uint group; /* own group of weights */
    bool writes;
};

template <int GROUPS> inline seat take_seat(constant metal_job &job, uint thread_index, uint group_index) {
    const uint blocks = QUENCH_METAL_ENCODE_THREADS / uint(GROUPS);
    const uint block = group_index * blocks + thread_index / uint(GROUPS);
    seat own = {block < job.count ? block : job.count - 1u, thread_index / uint(GROUPS) * uint(GROUPS),
                thread_index % uint(GROUPS), block < job.count};
    return own;
}

inline void meet() {
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
}

inline void offer(threadgroup workspace *shared, seat own, float scale, float low, float weight) {
    shared->scales[own.first + own.group] = scale;
    shared->lows[own.first + own.group] = low;
    shared->weights[own.first + own.group] = weight;
    meet();
}

template <int GROUPS> inline void take(threadgroup const float *values, seat own, thread float *out) {
    for (int i = 0; i < GROUPS; i++) {
        out[i] = values[own.first + uint(i)];
    }
}

/* Shows own codes to the others. True if the super-block is to be written: that takes all its threads. */
template <int N>
inline bool agree(threadgroup workspace *shared, seat own, thread const uchar *codes, bool safe, device uchar *left) {
    const uint groups = uint(SUPER_BLOCK / N);
    for (int i = 0; i < N; i++) {
        shared->codes[own.first * uint(N) + own.group * uint(N) + uint(i)] = codes[i];
    }
    shared->left[own.first + own.group] = safe ? 0 : 1;
    meet();
    uint any = 0;
    for (uint i = 0; i < groups; i++) {
        any |= uint(shared->left[own.first + i]);
    }
    if (own.writes && own.group == 0) {
        left[own.block] = uchar(any);
    }
    return own.writes && any == 0;
}

template <int N>
inline void store_codes(plane layout, threadgroup workspace *shared, seat own, device uchar *out) {
    threadgroup const uchar *codes = shared->codes + own.first * uint(N);
    store_plane(layout, codes, out, own.group, uint(SUPER_BLOCK / N));
}

} // namespace quench

#define QUENCH_ENCODER_BUFFERS                                                                                        \
    constant metal_job &job [[buffer(0)]], device const uchar *rows [[buffer(1)]],                                    \
        device const float *importance [[buffer(2)]], device const float *energies [[buffer(3)]],                     \
        device uchar *blocks [[buffer(4)]], device uchar *left [[buffer(5)]]

/* Where `threadgroup` is a macro (tests/kernels/metal_shim), the attribute of that name has to be one too. */
#if !defined(QUENCH_SHARED_SLOT)
#  define QUENCH_SHARED_SLOT [[threadgroup(0)]]
#endif

#define QUENCH_SEAT                                                                                                   \
    threadgroup quench::workspace *shared QUENCH_SHARED_SLOT, uint thread_index [[thread_index_in_threadgroup]],      \
        uint group_index [[threadgroup_position_in_grid]]
