/* What the files of lanes/ define, for the backend that they are compiled for. */
#ifndef QUENCH_LANES_H
#define QUENCH_LANES_H

#include "../backend.h"
#include "vec.h"

largest_fn LANES(largest);
distance_fn LANES(distance);

encode_fn LANES(encode_q3_k);
encode_fn LANES(encode_q6_k);

#endif
