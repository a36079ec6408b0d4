#include "../dot.h"
const struct dots quench_avx2_dots = {0};
