/* In place of the compiler's immintrin.h: AVX-512 by SIMDe (simde/x86/avx512.h), so that its kernels run on a processor
 * that has none. For gcc and clang, compiled for the ABI floor.
 *
 * Below is what SIMDe 0.7.4 lacks; what it does not compute as the instruction does (fused products in two steps); what
 * it makes kinder than it is (the upper part of a vector that was cast from a narrower one is undefined: here it is
 * noise); and what it is slow at, lane by lane. Meanings are those of the instructions in volume 2 of Intel's Software
 * Developer's Manual, with exceptions masked, rounding to nearest and subnormal numbers kept. An immediate operand that
 * is not needed does not compile. */
#ifndef QUENCH_AVX512_SHIM_H
#define QUENCH_AVX512_SHIM_H

#if defined(__AVX__)
#  error "the emulation is compiled for the ABI floor"
#endif

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <math.h>
#include <simde/x86/avx512.h>
#include <stdint.h>

#define __mmask16 simde__mmask16
#define _MM_FROUND_NO_EXC 8
#define _MM_PERM_BADC 0x4e

/* Lanes by their bytes. A comparison gives -1 where it is true, else 0. */
#define SHIM_LANES(name, type, bytes) typedef type name __attribute__((vector_size(bytes), may_alias))
SHIM_LANES(shim_f32, float, 64);
SHIM_LANES(shim_f64, double, 64);
SHIM_LANES(shim_s32, int32_t, 64);
SHIM_LANES(shim_u32, uint32_t, 64);
SHIM_LANES(shim_u64, uint64_t, 64);
SHIM_LANES(shim_s16, int16_t, 64);
SHIM_LANES(shim_u16, uint16_t, 64);
SHIM_LANES(shim_u8, uint8_t, 64);
SHIM_LANES(shim_half_f32, float, 32);
SHIM_LANES(shim_half_u16, uint16_t, 32);
SHIM_LANES(shim_quarter_s8, int8_t, 16);
SHIM_LANES(shim_quarter_u8, uint8_t, 16);
SHIM_LANES(shim_quarter_s32, int32_t, 16);

/* Short ones in place, long ones once a file. */
#define SHIM static inline __attribute__((always_inline))
#define SHIM_CALL static __attribute__((noinline, unused))

SHIM shim_u32 shim_pick(shim_s32 mask, shim_u32 a, shim_u32 b) {
    return (a & (shim_u32)mask) | (b & ~(shim_u32)mask);
}

/* ---- masks of sixteen lanes ---- */

SHIM shim_s32 shim_mask_bits(void) {
    return (shim_s32){1 << 0, 1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                      1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
}

SHIM __mmask16 shim_mask(shim_s32 lanes) {
    union {
        shim_s32 all;
        shim_quarter_s32 quarters[4];
    } own = {lanes & shim_mask_bits()};
    const shim_quarter_s32 any = (own.quarters[0] | own.quarters[1]) | (own.quarters[2] | own.quarters[3]);
    return (__mmask16)(any[0] | any[1] | any[2] | any[3]);
}

SHIM shim_s32 shim_lanes(__mmask16 mask) {
    return (shim_mask_bits() & (int32_t)mask) != 0;
}

SHIM __mmask16 shim_compare(shim_f32 a, shim_f32 b, int how) {
    return shim_mask(how == _CMP_LT_OQ   ? a < b
                     : how == _CMP_LE_OQ ? a <= b
                     : how == _CMP_GT_OQ ? a > b
                     : how == _CMP_GE_OQ ? a >= b
                                         : a == b);
}

/* ---- floats and integers ---- */

/* To nearest, ties to even. From 2^23 on every float is an integer; a zero keeps its sign, a NaN stays one. */
SHIM shim_f32 shim_round(shim_f32 a) {
    const shim_u32 sign = (shim_u32)a & 0x80000000u;
    const shim_f32 size = (shim_f32)((shim_u32)a ^ sign), whole = (size + 0x1p23f) - 0x1p23f;
    return (shim_f32)shim_pick(size < 0x1p23f, (shim_u32)whole | sign, (shim_u32)(a + 0.0f));
}

/* What does not fit becomes the "integer indefinite". */
SHIM shim_s32 shim_truncated(shim_f32 a) {
    const shim_s32 fits = (a >= -0x1p31f) & (a < 0x1p31f);
    const shim_s32 whole = __builtin_convertvector((shim_f32)((shim_s32)a & fits), shim_s32);
    return (shim_s32)shim_pick(fits, (shim_u32)whole, (shim_u32){0} + 0x80000000u);
}

/* ---- 16-bit floats, in lanes of 32 bits ---- */

/* A NaN keeps the upper part of its payload and becomes quiet. Below 2^-14 the last place is 2^-24, as that of 0.5. */
SHIM_CALL shim_u32 shim_to_half(shim_f32 a) {
    const shim_u32 sign = ((shim_u32)a >> 16) & 0x8000u, size = (shim_u32)a & 0x7fffffffu;
    const shim_u32 rebiased = size - (112u << 23), normal = (rebiased + 0xfffu + ((rebiased >> 13) & 1u)) >> 13;
    const shim_u32 subnormal = (shim_u32)((shim_f32)size + 0.5f) - 0x3f000000u;
    const shim_u32 infinite = (shim_u32){0} + 0x7c00u, nan = 0x7e00u | ((size >> 13) & 0x3ffu);
    const shim_u32 finite = shim_pick((shim_s32)size < 0x38800000, subnormal, normal);
    const shim_u32 special = shim_pick((shim_s32)size > 0x7f800000, nan, infinite);
    return sign | shim_pick((shim_s32)size < 0x47800000, finite, special);
}

SHIM_CALL shim_f32 shim_from_half(shim_u32 half) {
    const shim_u32 sign = (half & 0x8000u) << 16, rest = half & 0x7fffu, normal = (rest << 13) + (112u << 23);
    const shim_u32 subnormal = (shim_u32)(__builtin_convertvector((shim_s32)rest, shim_f32) * 0x1p-24f);
    const shim_u32 quiet = (shim_u32)((shim_s32)rest > 0x7c00) & 0x400000u;
    const shim_u32 special = 0x7f800000u | (rest & 0x3ffu) << 13 | quiet;
    const shim_u32 finite = shim_pick((shim_s32)rest < 0x400, subnormal, normal);
    return (shim_f32)(sign | shim_pick((shim_s32)rest < 0x7c00, finite, special));
}

/* As many as the result has lanes. */
#define SHIM_HALVES(name, result, halves, n)                                                                          \
    SHIM result name(halves vector) {                                                                                 \
        union {                                                                                                       \
            halves own;                                                                                               \
            uint16_t lanes[n];                                                                                        \
        } from = {vector};                                                                                            \
        union {                                                                                                       \
            shim_f32 all;                                                                                             \
            result part;                                                                                              \
        } to;                                                                                                         \
        shim_u32 wide = {0};                                                                                          \
        for (int i = 0; i < n; i++) {                                                                                 \
            wide[i] = from.lanes[i];                                                                                  \
        }                                                                                                             \
        to.all = shim_from_half(wide);                                                                                \
        return to.part;                                                                                               \
    }

SHIM_HALVES(shim_cvtph_ps_256, simde__m256, simde__m128i, 8)
SHIM_HALVES(shim_cvtph_ps_128, simde__m128, simde__m128i, 4)

/* ---- fused products ---- */

SHIM_CALL shim_f32 shim_fused(shim_f32 a, shim_f32 b, shim_f32 c) {
    for (int i = 0; i < 16; i++) {
        a[i] = fmaf(a[i], b[i], c[i]);
    }
    return a;
}

SHIM_CALL shim_f64 shim_fused_wide(shim_f64 a, shim_f64 b, shim_f64 c) {
    for (int i = 0; i < 8; i++) {
        a[i] = fma(a[i], b[i], c[i]);
    }
    return a;
}

/* ---- integers ---- */

SHIM shim_s32 shim_madd(shim_s32 a, shim_s32 b) {
    const shim_s32 low_a = (shim_s32)((shim_u32)a << 16) >> 16, low_b = (shim_s32)((shim_u32)b << 16) >> 16;
    return (shim_s32)((shim_u32)(low_a * low_b) + (shim_u32)((a >> 16) * (b >> 16)));
}

SHIM_CALL shim_s32 shim_maddubs(shim_u16 a, shim_s16 b) {
    const shim_s16 low = (shim_s16)(a & 0xffu) * ((shim_s16)((shim_u16)b << 8) >> 8);
    const shim_s16 high = (shim_s16)(a >> 8) * (b >> 8);
    union {
        shim_s16 all;
        simde__m128i quarters[4];
    } one = {low}, other = {high};
    for (int i = 0; i < 4; i++) {
        one.quarters[i] = simde_mm_adds_epi16(one.quarters[i], other.quarters[i]);
    }
    return (shim_s32)one.all;
}

/* Of 16-bit lanes: (product / 2^14 + 1) / 2, each division rounded down. */
SHIM_CALL shim_s32 shim_mulhrs(shim_s32 a, shim_s32 b) {
    const shim_s32 low_a = (shim_s32)((shim_u32)a << 16) >> 16, low_b = (shim_s32)((shim_u32)b << 16) >> 16;
    const shim_s32 low = (((low_a * low_b) >> 14) + 1) >> 1, high = ((((a >> 16) * (b >> 16)) >> 14) + 1) >> 1;
    return (low & 0xffff) | (shim_s32)((shim_u32)high << 16);
}

/* ---- parts and places ---- */

SHIM shim_s32 shim_shuffle_32(shim_s32 a, int order) {
    shim_s32 out;
    for (int i = 0; i < 16; i++) {
        out[i] = a[i / 4 * 4 + ((order >> (i % 4 * 2)) & 3)];
    }
    return out;
}

/* Two quarters of the first, then two of the second. */
SHIM simde__m512i shim_shuffle_quarters(simde__m512i a, simde__m512i b, int order) {
    const simde__m512i_private first = simde__m512i_to_private(a), second = simde__m512i_to_private(b);
    simde__m512i_private out;
    for (int i = 0; i < 4; i++) {
        out.m128i[i] = (i < 2 ? first : second).m128i[(order >> (2 * i)) & 3];
    }
    return simde__m512i_from_private(out);
}

SHIM_CALL shim_u8 shim_shuffle_bytes(shim_u8 a, shim_u8 index) {
    shim_u8 out;
    for (int i = 0; i < 64; i++) {
        out[i] = index[i] & 0x80 ? 0 : a[i / 16 * 16 + (index[i] & 15)];
    }
    return out;
}

/* Entries of one vector, or of two behind each other, by the low bits of the indices. */
SHIM_CALL shim_u16 shim_permute_16(shim_u16 a, shim_u16 index, shim_u16 b) {
    shim_u16 out;
    for (int i = 0; i < 32; i++) {
        out[i] = index[i] & 32 ? b[index[i] & 31] : a[index[i] & 31];
    }
    return out;
}

SHIM_CALL shim_u32 shim_permute_32(shim_u32 a, shim_u32 index, shim_u32 b) {
    shim_u32 out;
    for (int i = 0; i < 16; i++) {
        out[i] = index[i] & 16 ? b[index[i] & 15] : a[index[i] & 15];
    }
    return out;
}

SHIM_CALL shim_u64 shim_permute_64(shim_u64 a, shim_u64 index) {
    shim_u64 out;
    for (int i = 0; i < 8; i++) {
        out[i] = a[index[i] & 7];
    }
    return out;
}

SHIM_CALL shim_u32 shim_rotate_32(shim_u32 a, shim_u32 right) {
    return (a >> (right & 31u)) | (a << (-right & 31u));
}

SHIM_CALL shim_u64 shim_rotate_64(shim_u64 a, shim_u64 right) {
    return (a >> (right & 63u)) | (a << (-right & 63u));
}

SHIM simde__m512i shim_zero_behind(simde__m256i a) {
    simde__m512i_private out = {0};
    out.m256i[0] = a;
    return simde__m512i_from_private(out);
}

/* The rest of a vector that is cast from a narrower one. */
#define SHIM_CAST(name, kind, narrow)                                                                                 \
    SHIM simde__##kind name(simde__##narrow a) {                                                                      \
        union {                                                                                                       \
            shim_u32 noise;                                                                                           \
            simde__##kind all;                                                                                        \
            simde__##narrow lowest;                                                                                   \
        } out = {(shim_u32)shim_mask_bits() * 0x9e3779b1u};                                                           \
        out.lowest = a;                                                                                               \
        return out.all;                                                                                               \
    }

SHIM_CAST(shim_cast_quarter, m512i, m128i)
SHIM_CAST(shim_cast_half, m512i, m256i)
SHIM_CAST(shim_cast_half_ps, m512, m256)

/* ---- all of this under its own names ---- */

#define SHIM_ONLY(condition, value) __extension__({ _Static_assert(condition, "not emulated"); value; })
#define SHIM_NEAREST(rounding, value) SHIM_ONLY(((rounding) & ~_MM_FROUND_NO_EXC) == 0, value)
#define SHIM_TWO(result, lanes, a, operator, b) ((result)((lanes)(a) operator (lanes)(b)))
#define SHIM_PICK(result, mask, a, b) ((result)shim_pick(mask, (shim_u32)(a), (shim_u32)(b)))

#undef _mm512_add_epi8
#undef _mm512_add_epi16
#undef _mm512_add_epi32
#undef _mm512_sub_epi8
#undef _mm512_sub_epi16
#undef _mm512_sub_epi32
#undef _mm512_mullo_epi32
#undef _mm512_min_ps
#undef _mm512_max_ps
#undef _mm512_min_epi32
#undef _mm512_max_epi32
#undef _mm512_min_epi16
#undef _mm512_max_epi16
#undef _mm512_cmp_ps_mask
#undef _mm512_cmpeq_epi32_mask
#undef _mm512_cmpgt_epi32_mask
#undef _mm512_mask_blend_ps
#undef _mm512_mask_blend_epi32
#undef _mm512_roundscale_ps
#undef _mm512_fmadd_ps
#undef _mm512_fmadd_pd
#undef _mm512_madd_epi16
#undef _mm512_maddubs_epi16
#undef _mm512_mulhrs_epi16
#undef _mm512_ternarylogic_epi32
#undef _mm512_rorv_epi32
#undef _mm512_rorv_epi64
#undef _mm512_shuffle_epi8
#undef _mm512_permutexvar_epi16
#undef _mm512_permutexvar_epi32
#undef _mm512_permutexvar_epi64
#undef _mm512_permutexvar_ps
#undef _mm512_permutex2var_epi16
#undef _mm512_permutex2var_ps
#undef _mm512_castsi128_si512
#undef _mm512_castsi256_si512
#undef _mm512_castps256_ps512

/* Sums that wrap: lanes without sign, because a signed overflow is undefined. */
#define _mm512_add_epi8(a, b) SHIM_TWO(__m512i, shim_u8, a, +, b)
#define _mm512_add_epi16(a, b) SHIM_TWO(__m512i, shim_u16, a, +, b)
#define _mm512_add_epi32(a, b) SHIM_TWO(__m512i, shim_u32, a, +, b)
#define _mm512_sub_epi8(a, b) SHIM_TWO(__m512i, shim_u8, a, -, b)
#define _mm512_sub_epi16(a, b) SHIM_TWO(__m512i, shim_u16, a, -, b)
#define _mm512_sub_epi32(a, b) SHIM_TWO(__m512i, shim_u32, a, -, b)
#define _mm512_mullo_epi32(a, b) SHIM_TWO(__m512i, shim_u32, a, *, b)
#define _mm512_madd_epi16(a, b) ((__m512i)shim_madd((shim_s32)(a), (shim_s32)(b)))
#define _mm512_maddubs_epi16(a, b) ((__m512i)shim_maddubs((shim_u16)(a), (shim_s16)(b)))
#define _mm512_mulhrs_epi16(a, b) ((__m512i)shim_mulhrs((shim_s32)(a), (shim_s32)(b)))

/* The second operand where one is a NaN, and of two zeros. */
#define _mm512_min_ps(a, b) SHIM_PICK(__m512, (shim_f32)(a) < (shim_f32)(b), a, b)
#define _mm512_max_ps(a, b) SHIM_PICK(__m512, (shim_f32)(a) > (shim_f32)(b), a, b)
#define _mm512_min_epi32(a, b) SHIM_PICK(__m512i, (shim_s32)(a) < (shim_s32)(b), a, b)
#define _mm512_max_epi32(a, b) SHIM_PICK(__m512i, (shim_s32)(a) > (shim_s32)(b), a, b)
#define _mm512_min_epi16(a, b) SHIM_PICK(__m512i, (shim_s32)((shim_s16)(a) < (shim_s16)(b)), a, b)
#define _mm512_max_epi16(a, b) SHIM_PICK(__m512i, (shim_s32)((shim_s16)(a) > (shim_s16)(b)), a, b)

#define _mm512_cmp_ps_mask(a, b, how)                                                                                 \
    SHIM_ONLY((how) == _CMP_LT_OQ || (how) == _CMP_LE_OQ || (how) == _CMP_GT_OQ || (how) == _CMP_GE_OQ ||             \
                  (how) == _CMP_EQ_OQ,                                                                                \
              shim_compare((shim_f32)(a), (shim_f32)(b), how))
#define _mm512_cmpeq_epi32_mask(a, b) shim_mask((shim_s32)(a) == (shim_s32)(b))
#define _mm512_cmpgt_epi32_mask(a, b) shim_mask((shim_s32)(a) > (shim_s32)(b))
#define _mm512_mask_blend_ps(mask, a, b) SHIM_PICK(__m512, shim_lanes(mask), b, a)
#define _mm512_mask_blend_epi32(mask, a, b) SHIM_PICK(__m512i, shim_lanes(mask), b, a)
/* Where a bit of a is set that of b, else of c. */
#define _mm512_ternarylogic_epi32(a, b, c, table)                                                                     \
    SHIM_ONLY((table) == 0xca, SHIM_PICK(__m512i, (shim_s32)(a), b, c))

#define _mm512_roundscale_ps(a, how) SHIM_NEAREST(how, (__m512)shim_round((shim_f32)(a)))
#define _mm512_cvtps_epi32(a) ((__m512i)shim_truncated(shim_round((shim_f32)(a))))
#define _mm512_cvttps_epi32(a) ((__m512i)shim_truncated((shim_f32)(a)))
#define _mm512_cvtepi32_ps(a) ((__m512)__builtin_convertvector((shim_s32)(a), shim_f32))
#define _mm512_cvtps_pd(a) ((__m512d)__builtin_convertvector((shim_half_f32)(a), shim_f64))
#define _mm512_cvtpd_ps(a) ((__m256)__builtin_convertvector((shim_f64)(a), shim_half_f32))
#define _mm512_fmadd_ps(a, b, c) ((__m512)shim_fused((shim_f32)(a), (shim_f32)(b), (shim_f32)(c)))
#define _mm512_fmadd_pd(a, b, c) ((__m512d)shim_fused_wide((shim_f64)(a), (shim_f64)(b), (shim_f64)(c)))

#define _mm512_cvtps_ph(a, how)                                                                                       \
    SHIM_NEAREST(how, (__m256i)__builtin_convertvector(shim_to_half((shim_f32)(a)), shim_half_u16))
#define _mm512_cvtph_ps(a) ((__m512)shim_from_half(__builtin_convertvector((shim_half_u16)(a), shim_u32)))
#define _mm256_cvtph_ps(a) shim_cvtph_ps_256(a)
#define _mm_cvtph_ps(a) shim_cvtph_ps_128(a)

#define _mm512_cvtepi32_epi16(a) ((__m256i)__builtin_convertvector((shim_u32)(a), shim_half_u16))
#define _mm512_cvtepi32_epi8(a) ((__m128i)__builtin_convertvector((shim_u32)(a), shim_quarter_u8))
#define _mm512_cvtepi8_epi32(a) ((__m512i)__builtin_convertvector((shim_quarter_s8)(a), shim_s32))
#define _mm512_cvtepu8_epi32(a) ((__m512i)__builtin_convertvector((shim_quarter_u8)(a), shim_u32))
#define _mm512_cvtepu16_epi32(a) ((__m512i)__builtin_convertvector((shim_half_u16)(a), shim_u32))
#define _mm512_srai_epi32(a, count) ((__m512i)((shim_s32)(a) >> ((count) > 31 ? 31 : (count))))
#define _mm512_rorv_epi32(a, right) ((__m512i)shim_rotate_32((shim_u32)(a), (shim_u32)(right)))
#define _mm512_rorv_epi64(a, right) ((__m512i)shim_rotate_64((shim_u64)(a), (shim_u64)(right)))

#define _mm512_shuffle_epi8(a, index) ((__m512i)shim_shuffle_bytes((shim_u8)(a), (shim_u8)(index)))
#define _mm512_shuffle_epi32(a, order) ((__m512i)shim_shuffle_32((shim_s32)(a), order))
#define _mm512_shuffle_i64x2(a, b, order) shim_shuffle_quarters(a, b, order)
#define _mm512_permutex2var_epi16(a, index, b)                                                                        \
    ((__m512i)shim_permute_16((shim_u16)(a), (shim_u16)(index), (shim_u16)(b)))
#define _mm512_permutexvar_epi16(index, a) _mm512_permutex2var_epi16(a, index, a)
#define _mm512_permutex2var_ps(a, index, b)                                                                           \
    ((__m512)shim_permute_32((shim_u32)(a), (shim_u32)(index), (shim_u32)(b)))
#define _mm512_permutexvar_ps(index, a) _mm512_permutex2var_ps(a, index, a)
#define _mm512_permutexvar_epi32(index, a)                                                                            \
    ((__m512i)shim_permute_32((shim_u32)(a), (shim_u32)(index), (shim_u32)(a)))
#define _mm512_permutexvar_epi64(index, a) ((__m512i)shim_permute_64((shim_u64)(a), (shim_u64)(index)))
#define _mm512_extractf32x8_ps(a, part)                                                                               \
    SHIM_ONLY((part) == 0 || (part) == 1, simde__m512_to_private(a).m256[part])
#define _mm512_zextsi256_si512(a) shim_zero_behind(a)
#define _mm512_castsi128_si512(a) shim_cast_quarter(a)
#define _mm512_castsi256_si512(a) shim_cast_half(a)
#define _mm512_castps256_ps512(a) shim_cast_half_ps(a)

#endif
