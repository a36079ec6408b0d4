/* What the files of lanes/ define, for the backend that they are compiled for. */
#ifndef QUENCH_LANES_H
#define QUENCH_LANES_H

#include "../backend.h"
#include "vec.h"

largest_fn LANES(largest);
distance_fn LANES(distance);

above_fn LANES(above);
weigh_fn LANES(weigh);
weigh_pair_fn LANES(weigh_pair);
subtract_fn LANES(subtract);

#endif
