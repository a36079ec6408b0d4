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
#include "decode.metal"

#define SUPER(name)                                                                                                   \
    {"encode_" #name, [](const binding &at) {                                                                         \
         encode_##name(*at.job, at.in(0), (const float *)at.in(1), (const float *)at.in(2), at.out(3), at.out(4),      \
                       (quench::workspace *)at.shared, at.thread_index, at.group_index);                              \
     }}
#define FLAT(name)                                                                                                    \
    {"encode_" #name, [](const binding &at) {                                                                         \
         encode_##name(*at.job, at.in(0), (const float *)at.in(1), (const float *)at.in(2), at.out(3), at.out(4),      \
                       at.grid_index());                                                                              \
     }}
#define DECODER(name)                                                                                                 \
    {"decode_" #name,                                                                                                 \
     [](const binding &at) { decode_##name(*at.job, at.in(0), (float *)at.out(1), at.grid_index()); }}

const named_kernel shim_kernels[] = {
    SUPER(q2_k), SUPER(q3_k), SUPER(q4_k), SUPER(q5_k), SUPER(q6_k),
    FLAT(q4_0), FLAT(q4_1), FLAT(q5_0), FLAT(q5_1), FLAT(q8_0), FLAT(iq4_nl),
    DECODER(q2_k), DECODER(q3_k), DECODER(q4_k), DECODER(q5_k), DECODER(q6_k),
    DECODER(q4_0), DECODER(q4_1), DECODER(q5_0), DECODER(q5_1), DECODER(q8_0), DECODER(iq4_nl),
    {"row_energies", [](const binding &at) { row_energies(*at.job, at.in(0), (float *)at.out(1), at.grid_index()); }},
    {"probe_arithmetic",
     [](const binding &at) {
         probe_arithmetic(*at.job, (const float *)at.in(0), (float *)at.out(1), at.grid_index());
     }},
};

const int shim_kernel_count = sizeof shim_kernels / sizeof *shim_kernels;
