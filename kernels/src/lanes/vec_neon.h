/* Four lanes: NEON of 64-bit ARM. */
#include <arm_neon.h>

enum { W = 4 };
#define QUENCH_W 4

typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint32x4_t vm;

QUENCH_INLINE vf vf_load(const float *p) { return vld1q_f32(p); }
QUENCH_INLINE void vf_store(float *p, vf a) { vst1q_f32(p, a); }
QUENCH_INLINE vf vf_set(float a) { return vdupq_n_f32(a); }
QUENCH_INLINE vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
QUENCH_INLINE vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
QUENCH_INLINE vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
QUENCH_INLINE vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
QUENCH_INLINE vf vf_sqrt(vf a) { return vsqrtq_f32(a); }
QUENCH_INLINE vf vf_least(vf a, vf b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
QUENCH_INLINE vf vf_most(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
QUENCH_INLINE vf vf_abs(vf a) { return vabsq_f32(a); }
QUENCH_INLINE vf vf_neg(vf a) { return vnegq_f32(a); }
QUENCH_INLINE vf vf_round(vf a) { return vrndnq_f32(a); }
QUENCH_INLINE vf vf_pick(vm m, vf a, vf b) { return vbslq_f32(m, a, b); }

QUENCH_INLINE vm vf_lt(vf a, vf b) { return vcltq_f32(a, b); }
QUENCH_INLINE vm vf_le(vf a, vf b) { return vcleq_f32(a, b); }
QUENCH_INLINE vm vf_gt(vf a, vf b) { return vcgtq_f32(a, b); }
QUENCH_INLINE vm vf_ge(vf a, vf b) { return vcgeq_f32(a, b); }
QUENCH_INLINE vm vf_eq(vf a, vf b) { return vceqq_f32(a, b); }

QUENCH_INLINE vm vm_and(vm a, vm b) { return vandq_u32(a, b); }
QUENCH_INLINE vm vm_or(vm a, vm b) { return vorrq_u32(a, b); }
QUENCH_INLINE vm vm_not(vm a) { return vmvnq_u32(a); }
QUENCH_INLINE vm vm_none(void) { return vdupq_n_u32(0); }
QUENCH_INLINE vm vm_all(void) { return vdupq_n_u32(0xffffffffu); }
QUENCH_INLINE uint32_t vm_bits(vm a) {
    static const uint32_t place[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(a, vld1q_u32(place)));
}
QUENCH_INLINE int vm_any(vm a) { return vmaxvq_u32(a) != 0; }

QUENCH_INLINE vi vi_load(const int32_t *p) { return vld1q_s32(p); }
QUENCH_INLINE void vi_store(int32_t *p, vi a) { vst1q_s32(p, a); }
QUENCH_INLINE vi vi_set(int32_t a) { return vdupq_n_s32(a); }
QUENCH_INLINE vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
QUENCH_INLINE vi vi_sub(vi a, vi b) { return vsubq_s32(a, b); }
QUENCH_INLINE vi vi_mul(vi a, vi b) { return vmulq_s32(a, b); }
QUENCH_INLINE vi vi_and(vi a, vi b) { return vandq_s32(a, b); }
QUENCH_INLINE vi vi_or(vi a, vi b) { return vorrq_s32(a, b); }
QUENCH_INLINE vi vi_least(vi a, vi b) { return vminq_s32(a, b); }
QUENCH_INLINE vi vi_most(vi a, vi b) { return vmaxq_s32(a, b); }
QUENCH_INLINE vi vi_pick(vm m, vi a, vi b) { return vbslq_s32(m, a, b); }
QUENCH_INLINE vm vi_eq(vi a, vi b) { return vceqq_s32(a, b); }
QUENCH_INLINE vm vi_gt(vi a, vi b) { return vcgtq_s32(a, b); }
#define vi_left(a, count) vshlq_n_s32(a, count)
#define vi_right(a, count) vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), count)) /* zeros come in */
#define vi_right_signed(a, count) vshrq_n_s32(a, count)                                        /* the sign comes in */

QUENCH_INLINE vi vi_of_bits(vf a) { return vreinterpretq_s32_f32(a); }
QUENCH_INLINE vf vf_of_bits(vi a) { return vreinterpretq_f32_s32(a); }
QUENCH_INLINE vf vf_from_vi(vi a) { return vcvtq_f32_s32(a); }
QUENCH_INLINE vi vi_nearest(vf a) { return vcvtnq_s32_f32(a); }
QUENCH_INLINE vi vi_half(vf a) {
    return vreinterpretq_s32_u32(vmovl_u16(vreinterpret_u16_f16(vcvt_f16_f32(a))));
}
QUENCH_INLINE vf vf_from_half(vi a) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(vreinterpretq_u32_s32(a))));
}
QUENCH_INLINE void vi_store_bytes(uint8_t *p, vi a) {
    uint16x4_t pairs = vmovn_u32(vreinterpretq_u32_s32(a));
    uint8x8_t bytes = vmovn_u16(vcombine_u16(pairs, pairs));
    uint32_t four = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(four >> (8 * i));
    }
}


/* out[i] = the i-th floats of W rows that are `stride` floats apart; for i from 0 to 7. */
QUENCH_INLINE void vf_transpose8(const float *p, size_t stride, vf out[8]) {
    for (int half = 0; half < 8; half += 4) {
        vf a = vld1q_f32(p + half), b = vld1q_f32(p + stride + half);
        vf c = vld1q_f32(p + 2 * stride + half), d = vld1q_f32(p + 3 * stride + half);
        float32x4x2_t ab = vtrnq_f32(a, b), cd = vtrnq_f32(c, d);
        out[half] = vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
        out[half + 1] = vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
        out[half + 2] = vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
        out[half + 3] = vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
    }
}
