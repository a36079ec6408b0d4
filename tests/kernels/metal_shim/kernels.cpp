/* The shaders as C++, and one way to call each of them. */
#include "driver.h"

#define __METAL_VERSION__ 0
#include "job.h"

#include "numeric.metal"
#include "rows.metal"
#include "search.metal"
#include "super_blocks.metal"
#include "k_min.metal"
#include "k_symmetric.metal"
#include "blocks_32.metal"
#include "iq4.metal"
#include "decode.metal"

#define ENCODER_SPANS *at.job, at.in(0), (const float *)at.in(1), (const float *)at.in(2), at.out(3), at.out(4)
#define SUPER_BLOCK_ENCODER(name)                                                                                     \
    {"encode_" #name, true, [](const binding &at) {                                                                   \
         encode_##name(ENCODER_SPANS, (quench::workspace *)at.shared, at.thread_index, at.group_index);               \
     }}
#define BLOCK_ENCODER(name)                                                                                           \
    {"encode_" #name, false, [](const binding &at) { encode_##name(ENCODER_SPANS, at.grid_index()); }}
#define DECODER(name)                                                                                                 \
    {"decode_" #name, false,                                                                                          \
     [](const binding &at) { decode_##name(*at.job, at.in(0), (float *)at.out(1), at.grid_index()); }}

const named_kernel shim_kernels[] = {
    SUPER_BLOCK_ENCODER(q2_k),
    SUPER_BLOCK_ENCODER(q3_k),
    SUPER_BLOCK_ENCODER(q4_k),
    SUPER_BLOCK_ENCODER(q5_k),
    SUPER_BLOCK_ENCODER(q6_k),
    SUPER_BLOCK_ENCODER(iq4_xs),
    BLOCK_ENCODER(q4_0),
    BLOCK_ENCODER(q4_1),
    BLOCK_ENCODER(q5_0),
    BLOCK_ENCODER(q5_1),
    BLOCK_ENCODER(q8_0),
    BLOCK_ENCODER(iq4_nl),
    DECODER(q2_k),
    DECODER(q3_k),
    DECODER(q4_k),
    DECODER(q5_k),
    DECODER(q6_k),
    DECODER(q4_0),
    DECODER(q4_1),
    DECODER(q5_0),
    DECODER(q5_1),
    DECODER(q8_0),
    DECODER(iq4_nl),
    DECODER(iq4_xs),
    {"row_energies", false,
     [](const binding &at) { row_energies(*at.job, at.in(0), (float *)at.out(1), at.grid_index()); }},
    {"probe_arithmetic", false,
     [](const binding &at) {
         probe_arithmetic(*at.job, (const float *)at.in(0), (float *)at.out(1), at.grid_index());
     }},
};

const int shim_kernel_count = sizeof shim_kernels / sizeof *shim_kernels;
