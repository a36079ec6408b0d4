/* Eight lanes and F16C. What is not in the table comes from the reference. */
#include "../backend.h"
#include "../dot.h"
#include "../lanes/lanes.h"

const struct backend quench_avx2 = {
    .name = "avx2",
    .features = CPU_AVX2 | CPU_F16C,
    .codecs =
        {
            [QUENCH_F16] = {.encode = LANES(encode_f16), .decode = LANES(decode_f16)},
            [QUENCH_BF16] = {.encode = LANES(encode_bf16), .decode = LANES(decode_bf16)},
            [QUENCH_Q8_0] = {.encode = LANES(encode_q8_0), .decode = LANES(decode_q8_0)},
            [QUENCH_Q6_K] = {LANES(encode_q6_k), LANES(decode_q6_k), LANES(refine_q6_k)},
            [QUENCH_Q5_K] = {LANES(encode_q5_k), LANES(decode_q5_k), LANES(refine_q5_k)},
            [QUENCH_Q5_1] = {.encode = LANES(encode_q5_1), .decode = LANES(decode_q5_1)},
            [QUENCH_Q5_0] = {.encode = LANES(encode_q5_0), .decode = LANES(decode_q5_0)},
            [QUENCH_Q4_K] = {LANES(encode_q4_k), LANES(decode_q4_k), LANES(refine_q4_k)},
            [QUENCH_Q4_1] = {.encode = LANES(encode_q4_1), .decode = LANES(decode_q4_1)},
            [QUENCH_Q4_0] = {.encode = LANES(encode_q4_0), .decode = LANES(decode_q4_0)},
            [QUENCH_IQ4_XS] = {.encode = LANES(encode_iq4_xs), .decode = LANES(decode_iq4_xs)},
            [QUENCH_IQ4_NL] = {.encode = LANES(encode_iq4_nl), .decode = LANES(decode_iq4_nl)},
            [QUENCH_Q3_K] = {LANES(encode_q3_k), LANES(decode_q3_k), LANES(refine_q3_k)},
            [QUENCH_Q2_K] = {LANES(encode_q2_k), LANES(decode_q2_k), LANES(refine_q2_k)},
        },
    .largest = LANES(largest),
    .distance = LANES(distance),
    .rows = {LANES(above), LANES(weigh), LANES(weigh_pair), LANES(subtract)},
    .encode_q8_k = LANES(encode_q8_k),
    .dot_floats = LANES(dot_floats),
    .dots = {&quench_avx2_dots},
};
