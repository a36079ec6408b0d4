# In the order in which they make one text.
set(QUENCH_SHADERS
  job.h
  numeric.metal
  rows.metal
  search.metal
  super_blocks.metal
  k_min.metal
  k_symmetric.metal
  blocks_32.metal
  iq4.metal
  decode.metal
)
