/* Four lanes. What is not in the table comes from the reference. */
#include "../backend.h"
#include "../lanes/lanes.h"

const struct backend quench_neon = {
    .name = "neon",
    .features = CPU_NEON,
    .codecs =
        {
            [QUENCH_F16] = {LANES(encode_f16), LANES(decode_f16), NULL},
            [QUENCH_BF16] = {LANES(encode_bf16), LANES(decode_bf16), NULL},
            [QUENCH_Q8_0] = {LANES(encode_q8_0), LANES(decode_q8_0), NULL},
            [QUENCH_Q4_0] = {LANES(encode_q4_0), LANES(decode_q4_0), NULL},
            [QUENCH_Q4_1] = {LANES(encode_q4_1), LANES(decode_q4_1), NULL},
            [QUENCH_Q5_0] = {LANES(encode_q5_0), LANES(decode_q5_0), NULL},
            [QUENCH_Q5_1] = {LANES(encode_q5_1), LANES(decode_q5_1), NULL},
            [QUENCH_Q2_K] = {NULL, LANES(decode_q2_k), NULL},
            [QUENCH_Q3_K] = {NULL, LANES(decode_q3_k), NULL},
            [QUENCH_Q4_K] = {NULL, LANES(decode_q4_k), NULL},
            [QUENCH_Q5_K] = {NULL, LANES(decode_q5_k), NULL},
            [QUENCH_Q6_K] = {NULL, LANES(decode_q6_k), NULL},
            [QUENCH_IQ4_NL] = {LANES(encode_iq4_nl), LANES(decode_iq4_nl), NULL},
            [QUENCH_IQ4_XS] = {LANES(encode_iq4_xs), LANES(decode_iq4_xs), NULL},
        },
    .largest = LANES(largest),
    .distance = LANES(distance),
};
