/* Codes of a block of 32, in the order of the weights, to bits. */
#ifndef QUENCH_PACK_H
#define QUENCH_PACK_H

#include "../blocks.h"
#include "narrow.h"

enum { VECTORS = BLOCK / W };

/* Sixteen codes in the low and sixteen in the high halves of the bytes; fifth bits in four more bytes. */
QUENCH_INLINE void pack(const vi *codes, uint8_t *low_bits, uint8_t *high_bits) {
    for (int k = 0; k < VECTORS / 2; k++) {
        const vi low = codes[k], high = codes[k + VECTORS / 2];
        const vi both = high_bits ? vi_or(vi_and(low, vi_set(15)), vi_left(high, 4)) : vi_or(low, vi_left(high, 4));
        vi_store_bytes(low_bits + k * W, both);
    }
    if (high_bits) {
        uint32_t fives = 0;
        for (int k = 0; k < VECTORS; k++) {
            fives |= vm_bits(vi_gt(codes[k], vi_set(15))) << (k * W);
        }
        memcpy(high_bits, &fives, sizeof fives);
    }
}

#endif
