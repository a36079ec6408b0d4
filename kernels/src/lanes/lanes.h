/* What the files of lanes/ define, for the backend that they are compiled for. */
#ifndef QUENCH_LANES_H
#define QUENCH_LANES_H

#include "../backend.h"
#include "vec.h"

largest_fn LANES(largest);
distance_fn LANES(distance);
encode_q8_k_fn LANES(encode_q8_k);
dot_floats_fn LANES(dot_floats);

encode_fn LANES(encode_q2_k), LANES(encode_q4_k), LANES(encode_q5_k);
encode_fn LANES(encode_q3_k), LANES(encode_q6_k);
refine_fn LANES(refine_q3_k), LANES(refine_q6_k);
refine_fn LANES(refine_q2_k), LANES(refine_q4_k), LANES(refine_q5_k);
encode_fn LANES(encode_f16), LANES(encode_bf16);
encode_fn LANES(encode_q8_0), LANES(encode_q4_0), LANES(encode_q4_1), LANES(encode_q5_0), LANES(encode_q5_1);
encode_fn LANES(encode_q4_0_by_importance), LANES(encode_q4_1_by_importance);
encode_fn LANES(encode_q5_0_by_importance), LANES(encode_q5_1_by_importance);
encode_fn LANES(encode_iq4_nl), LANES(encode_iq4_xs);
decode_fn LANES(decode_f16), LANES(decode_bf16);
decode_fn LANES(decode_q8_0), LANES(decode_q4_0), LANES(decode_q4_1), LANES(decode_q5_0), LANES(decode_q5_1);
decode_fn LANES(decode_q2_k), LANES(decode_q3_k), LANES(decode_q4_k), LANES(decode_q5_k), LANES(decode_q6_k);
decode_fn LANES(decode_iq4_nl), LANES(decode_iq4_xs);
above_fn LANES(above);
weigh_fn LANES(weigh);
weigh_pair_fn LANES(weigh_pair);
subtract_fn LANES(subtract);
settle_fn LANES(settle);
carry_fn LANES(carry);

/* What every backend with lanes has in its table. */
#define LANES_KERNELS                                                                                                 \
    .codecs =                                                                                                         \
        {                                                                                                             \
            [QUENCH_F16] = {.encode = LANES(encode_f16), .decode = LANES(decode_f16)},                                \
            [QUENCH_BF16] = {.encode = LANES(encode_bf16), .decode = LANES(decode_bf16)},                             \
            [QUENCH_Q8_0] = {.encode = LANES(encode_q8_0), .decode = LANES(decode_q8_0)},                             \
            [QUENCH_Q6_K] = {LANES(encode_q6_k), LANES(decode_q6_k), LANES(refine_q6_k)},                             \
            [QUENCH_Q5_K] = {LANES(encode_q5_k), LANES(decode_q5_k), LANES(refine_q5_k)},                             \
            [QUENCH_Q5_1] = {.encode = LANES(encode_q5_1), .decode = LANES(decode_q5_1)},                             \
            [QUENCH_Q5_0] = {.encode = LANES(encode_q5_0), .decode = LANES(decode_q5_0)},                             \
            [QUENCH_Q4_K] = {LANES(encode_q4_k), LANES(decode_q4_k), LANES(refine_q4_k)},                             \
            [QUENCH_Q4_1] = {.encode = LANES(encode_q4_1), .decode = LANES(decode_q4_1)},                             \
            [QUENCH_Q4_0] = {.encode = LANES(encode_q4_0), .decode = LANES(decode_q4_0)},                             \
            [QUENCH_IQ4_XS] = {.encode = LANES(encode_iq4_xs), .decode = LANES(decode_iq4_xs)},                       \
            [QUENCH_IQ4_NL] = {.encode = LANES(encode_iq4_nl), .decode = LANES(decode_iq4_nl)},                       \
            [QUENCH_Q3_K] = {LANES(encode_q3_k), LANES(decode_q3_k), LANES(refine_q3_k)},                             \
            [QUENCH_Q2_K] = {LANES(encode_q2_k), LANES(decode_q2_k), LANES(refine_q2_k)},                             \
        },                                                                                                            \
    .largest = LANES(largest), .distance = LANES(distance),                                                           \
    .rows = {LANES(above), LANES(weigh), LANES(weigh_pair), LANES(subtract)},                                         \
    .feedback = {LANES(settle), LANES(carry)}, .encode_q8_k = LANES(encode_q8_k), .dot_floats = LANES(dot_floats)

#endif
