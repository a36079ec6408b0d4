/* The reference's codecs by family. */
#ifndef QUENCH_CODECS_H
#define QUENCH_CODECS_H

#include "../backend.h"

encode_fn quench_encode_f32, quench_encode_f16, quench_encode_bf16;
decode_fn quench_decode_f32, quench_decode_f16, quench_decode_bf16;

encode_fn quench_encode_q4_0, quench_encode_q4_1, quench_encode_q5_0, quench_encode_q5_1, quench_encode_q8_0;
decode_fn quench_decode_q4_0, quench_decode_q4_1, quench_decode_q5_0, quench_decode_q5_1, quench_decode_q8_0;

encode_fn quench_encode_q2_k, quench_encode_q4_k, quench_encode_q5_k;
decode_fn quench_decode_q2_k, quench_decode_q4_k, quench_decode_q5_k;

encode_fn quench_encode_q3_k, quench_encode_q6_k;
decode_fn quench_decode_q3_k, quench_decode_q6_k;
refine_fn quench_refine_q3_k, quench_refine_q6_k;

encode_fn quench_encode_iq4_nl, quench_encode_iq4_xs;
decode_fn quench_decode_iq4_nl, quench_decode_iq4_xs;

decode_fn quench_decode_iq1_s, quench_decode_iq1_m, quench_decode_iq2_xxs, quench_decode_iq2_xs, quench_decode_iq2_s;
decode_fn quench_decode_iq3_xxs, quench_decode_iq3_s;
decode_fn quench_decode_q1_0, quench_decode_q2_0, quench_decode_tq1_0, quench_decode_tq2_0;
decode_fn quench_decode_mxfp4, quench_decode_nvfp4;

refine_fn quench_refine_q2_k, quench_refine_q4_k, quench_refine_q5_k;

largest_fn quench_largest;
distance_fn quench_distance;

above_fn quench_above;
weigh_fn quench_weigh;
weigh_pair_fn quench_weigh_pair;
subtract_fn quench_subtract;

settle_fn quench_settle;
carry_fn quench_carry;

encode_q8_k_fn quench_encode_q8_k;
dot_floats_fn quench_dot_floats;

#endif
