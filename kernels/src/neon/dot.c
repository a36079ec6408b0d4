#include "../dot.h"
const struct dots quench_neon_dots = {0};
