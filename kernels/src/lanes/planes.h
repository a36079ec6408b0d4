/* The bit planes of blocks.h, many bytes at a time. For planes whose width is whole vectors of bytes. */
#ifndef QUENCH_PLANES_H
#define QUENCH_PLANES_H

#include "../blocks.h"
#include "vec.h"

/* BYTES bytes. bytes_shift: by a count that is left if positive; bits of the neighbours may come in. */
#if defined(QUENCH_LANES_NEON)
enum { BYTES = 16 };
typedef uint8x16_t vb;
QUENCH_INLINE vb bytes_load(const uint8_t *p) { return vld1q_u8(p); }
QUENCH_INLINE void bytes_store(uint8_t *p, vb a) { vst1q_u8(p, a); }
QUENCH_INLINE vb bytes_set(unsigned a) { return vdupq_n_u8((uint8_t)a); }
QUENCH_INLINE vb bytes_and(vb a, vb b) { return vandq_u8(a, b); }
QUENCH_INLINE vb bytes_or(vb a, vb b) { return vorrq_u8(a, b); }
QUENCH_INLINE vb bytes_shift(vb a, int count) { return vshlq_u8(a, vdupq_n_s8((int8_t)count)); }
#else
enum { BYTES = 32 };
typedef __m256i vb;
QUENCH_INLINE vb bytes_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
QUENCH_INLINE void bytes_store(uint8_t *p, vb a) { _mm256_storeu_si256((__m256i *)(void *)p, a); }
QUENCH_INLINE vb bytes_set(unsigned a) { return _mm256_set1_epi8((char)a); }
QUENCH_INLINE vb bytes_and(vb a, vb b) { return _mm256_and_si256(a, b); }
QUENCH_INLINE vb bytes_or(vb a, vb b) { return _mm256_or_si256(a, b); }
QUENCH_INLINE vb bytes_shift(vb a, int count) {
    return count < 0 ? _mm256_srli_epi16(a, -count) : _mm256_slli_epi16(a, count);
}
#endif

QUENCH_INLINE void pack_wide(struct plane plane, const uint8_t *codes, uint8_t *out) {
    const int per_byte = 8 / plane.bits;
    const unsigned mask = (1u << plane.bits) - 1u;
    for (int group = 0; group < plane.bytes / plane.width; group++) {
        const uint8_t *first = codes + group * plane.width * per_byte;
        for (int byte = 0; byte < plane.width; byte += BYTES) {
            vb packed = bytes_set(0);
            for (int part = 0; part < per_byte; part++) {
                const vb moved =
                    bytes_shift(bytes_load(first + part * plane.width + byte), part * plane.bits - plane.shift);
                packed = bytes_or(packed, bytes_and(moved, bytes_set(mask << (part * plane.bits))));
            }
            bytes_store(out + group * plane.width + byte, packed);
        }
    }
}

/* begun: the plane's bits are added to those of other planes. */
QUENCH_INLINE void unpack_wide(struct plane plane, int begun, const uint8_t *in, uint8_t *codes) {
    const int per_byte = 8 / plane.bits;
    const unsigned mask = (1u << plane.bits) - 1u;
    for (int group = 0; group < plane.bytes / plane.width; group++) {
        uint8_t *first = codes + group * plane.width * per_byte;
        for (int byte = 0; byte < plane.width; byte += BYTES) {
            const vb packed = bytes_load(in + group * plane.width + byte);
            for (int part = 0; part < per_byte; part++) {
                uint8_t *place = first + part * plane.width + byte;
                const vb moved = bytes_shift(packed, plane.shift - part * plane.bits);
                const vb bits = bytes_and(moved, bytes_set(mask << plane.shift));
                bytes_store(place, begun ? bytes_or(bytes_load(place), bits) : bits);
            }
        }
    }
}

#endif
