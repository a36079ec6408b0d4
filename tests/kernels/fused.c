/* The one-rounding product-sum of the row kernels against the C library's fmaf, which this processor's instruction is:
 * over ordinary numbers, sums a hair beside or exactly on the middle of two floats, and subnormal results.
 * Prints how many cases of each were compared; ends with 1 and the first case that differs. */
#include <math.h>
#include <stdio.h>

#include "rows.h"

static uint64_t state = 1;

static uint32_t random_bits(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

/* A float with this exponent and any sign and mantissa. */
static float any(uint32_t exponent) {
    return float_of((random_bits() & 0x807fffffu) | exponent << 23);
}

static float ordinary(void) {
    return any(100 + random_bits() % 50);
}

static int differs(float a, float b, float c) {
    /* volatile: the library's answer, not the compiler's */
    volatile float x = a, y = b, z = c;
    const float found = fused(a, b, c), right = fmaf(x, y, z);
    if (bits_of(found) == bits_of(right)) {
        return 0;
    }
    printf("%a * %a + %a is %a, not %a\n", (double)a, (double)b, (double)c, (double)right, (double)found);
    return 1;
}

enum { CASES = 2000000 };

int main(void) {
    for (int i = 0; i < CASES; i++) {
        if (differs(ordinary(), ordinary(), ordinary())) {
            return 1;
        }
    }
    for (int i = 0; i < CASES; i++) {
        /* c is a multiple of 2, the product 1 or a little beside it: the double's sum is a tie. */
        const float c = (float)((random_bits() & 0x7fffffu) | 0x800000u) * 2.0f, sign = random_bits() & 1 ? 1.0f : -1.0f;
        const float little = (float)((int32_t)(random_bits() % 3) - 1) * 0x1p-23f;
        const float a = sign * (1.0f + little), b = random_bits() & 1 ? 1.0f - little : 1.0f + 0x1p-23f;
        /* The same where a subnormal float has its middle. */
        const float low_c = float_of((random_bits() & 0x807fffffu) | 0x400000u);
        if (differs(a, b, c) || differs(a, b, -c) || differs(a * 0x1p-75f, b * 0x1p-75f, low_c)) {
            return 1;
        }
    }
    for (int i = 0; i < CASES; i++) {
        const float a = any(64 + random_bits() % 20), b = any(20 + random_bits() % 50), c = any(random_bits() % 4);
        if (differs(a, b, c) || differs(a, b, 0.0f) || differs(any(0), 1.0f, c)) {
            return 1;
        }
    }
    printf("%d ordinary, %d at ties, %d subnormal\n", CASES, 3 * CASES, 3 * CASES);
    return 0;
}
