/* Inside the Metal backend: what runs on the device, before anybody trusts it. */
#ifndef QUENCH_METAL_H
#define QUENCH_METAL_H

#include "../backend.h"
#include "device.h"

/* As encode_ahead and decode_ahead of `struct backend`, whatever the size and without asking for trust. */
encode_ahead_fn quench_metal_encode;
decode_ahead_fn quench_metal_decode;

/* Whose codecs are beside the device, and what it is compared with. */
#if defined(QUENCH_HAS_NEON)
#  define QUENCH_METAL_PROCESSOR quench_neon
#else
#  define QUENCH_METAL_PROCESSOR quench_reference
#endif

/* Whether the shaders know the type. */
int quench_metal_knows(int32_t type);

/* Whether the device computes what the processor computes: single operations, and blocks of every type. */
int quench_metal_probe(void);

#endif
