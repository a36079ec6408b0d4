/* narrow.h for NEON. */
QUENCH_INLINE uint8x8_t four_bytes(const uint8_t *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return vcreate_u8(word);
}
QUENCH_INLINE vi vi_from_bytes(const uint8_t *p) {
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four_bytes(p)))));
}
QUENCH_INLINE vi vi_from_signed_bytes(const uint8_t *p) {
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(four_bytes(p)))));
}
QUENCH_INLINE vi vi_from_words(const uint8_t *p) {
    return vreinterpretq_s32_u32(vmovl_u16(vreinterpret_u16_u8(vld1_u8(p))));
}
QUENCH_INLINE void vi_store_words(uint8_t *p, vi a) { vst1_u8(p, vreinterpret_u8_s16(vmovn_s32(a))); }
QUENCH_INLINE void vi_store_block(uint8_t *p, const vi *a) {
    for (int i = 0; i < 8; i += 4) {
        const int16x8_t first = vcombine_s16(vmovn_s32(a[i]), vmovn_s32(a[i + 1]));
        const int16x8_t second = vcombine_s16(vmovn_s32(a[i + 2]), vmovn_s32(a[i + 3]));
        vst1q_u8(p + 4 * i, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(first), vmovn_s16(second))));
    }
}

QUENCH_INLINE vf vf_from_halves(const uint8_t *p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
QUENCH_INLINE void vf_store_halves(uint8_t *p, vf a) { vst1_u8(p, vreinterpret_u8_f16(vcvt_f16_f32(a))); }
QUENCH_INLINE float half_at(const uint8_t *p) {
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(load16(p)))), 0);
}

QUENCH_INLINE vi vi_truncated(vf a) { return vcvtq_s32_f32(a); }
QUENCH_INLINE vi vi_down(vi a, int count) {
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-count)));
}
QUENCH_INLINE vm vm_of_bits(uint32_t bits) {
    static const uint32_t place[4] = {1, 2, 4, 8};
    return vtstq_u32(vdupq_n_u32(bits), vld1q_u32(place));
}

typedef uint8x16x4_t vtable;
QUENCH_INLINE vtable vtable_load(const float *p) {
    vtable table;
    for (int i = 0; i < 4; i++) {
        table.val[i] = vreinterpretq_u8_f32(vld1q_f32(p + 4 * i));
    }
    return table;
}
QUENCH_INLINE vf vtable_at(vtable table, vi index) {
    /* The four bytes of entry i are bytes 4 i to 4 i + 3 of the table. */
    const uint32x4_t places = vmlaq_n_u32(vdupq_n_u32(0x03020100u), vreinterpretq_u32_s32(index), 0x04040404u);
    return vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(places)));
}

typedef struct {
    float64x2_t part[4];
} v8d;
QUENCH_INLINE v8d v8d_load(const double *p) {
    v8d a;
    for (int i = 0; i < 4; i++) {
        a.part[i] = vld1q_f64(p + 2 * i);
    }
    return a;
}
QUENCH_INLINE void v8d_store(double *p, v8d a) {
    for (int i = 0; i < 4; i++) {
        vst1q_f64(p + 2 * i, a.part[i]);
    }
}
QUENCH_INLINE v8d v8d_from_floats(const float *p) {
    v8d a;
    for (int i = 0; i < 4; i++) {
        a.part[i] = vcvt_f64_f32(vld1_f32(p + 2 * i));
    }
    return a;
}
QUENCH_INLINE v8d v8d_add(v8d a, v8d b) {
    for (int i = 0; i < 4; i++) {
        a.part[i] = vaddq_f64(a.part[i], b.part[i]);
    }
    return a;
}
QUENCH_INLINE v8d v8d_sub(v8d a, v8d b) {
    for (int i = 0; i < 4; i++) {
        a.part[i] = vsubq_f64(a.part[i], b.part[i]);
    }
    return a;
}
QUENCH_INLINE v8d v8d_mul(v8d a, v8d b) {
    for (int i = 0; i < 4; i++) {
        a.part[i] = vmulq_f64(a.part[i], b.part[i]);
    }
    return a;
}
