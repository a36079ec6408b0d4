/* The emulated instructions that round or saturate, over arrays: numpy knows what they have to give. */
#include <immintrin.h>

/* Each vector's `taken` numbers make `made` results. */
#define OPERATION(name, from, taken, to, made, store)                                                                 \
    void name(const from *a, const from *b, const from *c, to *out, int vectors);                                     \
    void name(const from *a, const from *b, const from *c, to *out, int vectors) {                                    \
        (void)b, (void)c;                                                                                             \
        for (; vectors > 0; vectors--, a += taken, b += taken, c += taken, out += made) {                             \
            store;                                                                                                    \
        }                                                                                                             \
    }
#define FLOATS(name, result) OPERATION(name, float, 16, float, 16, _mm512_storeu_ps(out, result))
#define INTEGERS(name, from, taken, to, made, result)                                                                 \
    OPERATION(name, from, taken, to, made, _mm512_storeu_si512(out, result))
#define X _mm512_loadu_ps(a)
#define Y _mm512_loadu_ps(b)
#define M _mm512_loadu_si512(a)
#define N _mm512_loadu_si512(b)

FLOATS(rounded, _mm512_roundscale_ps(X, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
FLOATS(least, _mm512_min_ps(X, Y))
FLOATS(most, _mm512_max_ps(X, Y))
FLOATS(root, _mm512_sqrt_ps(X))
FLOATS(quotient, _mm512_div_ps(X, Y))
FLOATS(fused, _mm512_fmadd_ps(X, Y, _mm512_loadu_ps(c)))
OPERATION(fused_wide, double, 8, double, 8,
          _mm512_storeu_pd(out, _mm512_fmadd_pd(_mm512_loadu_pd(a), _mm512_loadu_pd(b), _mm512_loadu_pd(c))))
OPERATION(narrowed, double, 8, float, 8, _mm256_storeu_ps(out, _mm512_cvtpd_ps(_mm512_loadu_pd(a))))
INTEGERS(nearest, float, 16, int32_t, 16, _mm512_cvtps_epi32(X))
INTEGERS(truncated, float, 16, int32_t, 16, _mm512_cvttps_epi32(X))
OPERATION(from_integers, int32_t, 16, float, 16, _mm512_storeu_ps(out, _mm512_cvtepi32_ps(M)))

OPERATION(to_half, float, 16, uint16_t, 16,
          _mm256_storeu_si256((void *)out, _mm512_cvtps_ph(X, _MM_FROUND_TO_NEAREST_INT)))
OPERATION(from_half, uint16_t, 16, float, 16,
          _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)a))))
OPERATION(from_eight_halves, uint16_t, 8, float, 8,
          _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128((const void *)a))))

INTEGERS(word_pairs, int16_t, 32, int32_t, 16, _mm512_madd_epi16(M, N))
INTEGERS(byte_pairs, int8_t, 64, int16_t, 32, _mm512_maddubs_epi16(M, N))
INTEGERS(scaled_words, int16_t, 32, int16_t, 32, _mm512_mulhrs_epi16(M, N))
