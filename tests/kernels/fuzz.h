/* What both fuzz targets are made of: the input taken apart, exact buffers, and the verdict. */
#ifndef QUENCH_FUZZ_H
#define QUENCH_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quench_kernels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t size;
};

/* The next byte; 0 behind the end. */
static inline unsigned take(struct input *input) {
    if (input->size == 0) {
        return 0;
    }
    input->size--;
    return *input->data++;
}

static inline int64_t take64(struct input *input) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) {
        value = value << 8 | take(input);
    }
    return (int64_t)value;
}

struct type {
    int32_t number, weights, bytes;
};

/* The n-th of the types that the library knows, counted around. */
static inline struct type type_at(unsigned n) {
    static struct type types[256];
    static unsigned count, asked;
    for (int32_t number = 0; !asked && number < 256; number++) {
        struct type type = {number, 0, 0};
        if (quench_block(number, &type.weights, &type.bytes) == QUENCH_OK) {
            types[count++] = type;
        }
    }
    asked = 1;
    return types[n % count];
}

/* Never freed by the callee; of exactly this size, so that a step over its end is seen. */
static inline void *exactly(size_t size) {
    void *memory = malloc(size ? size : 1);
    if (!memory) {
        abort();
    }
    return memory;
}

static inline void differ(const char *what, int32_t type, int32_t backend, size_t place) {
    fprintf(stderr, "%s of type %d differs between %s and the reference at %zu\n", what, type, quench_backend(backend),
            place);
    abort();
}

/* The reference is the last backend. */
static inline int32_t reference_index(void) {
    int32_t index = 0;
    while (quench_backend(index + 1)) {
        index++;
    }
    return index;
}

#endif
