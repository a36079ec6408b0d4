/* Plain C, every type: what the other backends are held to. */
#include "codecs.h"

const struct backend quench_reference = {
    .name = "reference",
    .features = 0,
    .codecs =
        {
            [QUENCH_F32] = {quench_encode_f32, quench_decode_f32, NULL},
            [QUENCH_F16] = {quench_encode_f16, quench_decode_f16, NULL},
            [QUENCH_BF16] = {quench_encode_bf16, quench_decode_bf16, NULL},
            [QUENCH_Q4_0] = {quench_encode_q4_0, quench_decode_q4_0, NULL},
            [QUENCH_Q4_1] = {quench_encode_q4_1, quench_decode_q4_1, NULL},
            [QUENCH_Q5_0] = {quench_encode_q5_0, quench_decode_q5_0, NULL},
            [QUENCH_Q5_1] = {quench_encode_q5_1, quench_decode_q5_1, NULL},
            [QUENCH_Q8_0] = {quench_encode_q8_0, quench_decode_q8_0, NULL},
            [QUENCH_Q2_K] = {quench_encode_q2_k, quench_decode_q2_k, NULL},
            [QUENCH_Q3_K] = {quench_encode_q3_k, quench_decode_q3_k, NULL},
            [QUENCH_Q4_K] = {quench_encode_q4_k, quench_decode_q4_k, NULL},
            [QUENCH_Q5_K] = {quench_encode_q5_k, quench_decode_q5_k, NULL},
            [QUENCH_Q6_K] = {quench_encode_q6_k, quench_decode_q6_k, NULL},
            [QUENCH_IQ4_NL] = {quench_encode_iq4_nl, quench_decode_iq4_nl, NULL},
        },
    .largest = quench_largest,
    .distance = quench_distance,
    .rows = {quench_above, quench_weigh, quench_weigh_pair, quench_subtract},
};
