# The AVX-512 backend over tests/kernels/avx512_shim in place of the compiler's intrinsics: any processor can run it.
# What the real processor has is not asked; the shim answers for the one that is emulated.
set(shim ${CMAKE_CURRENT_SOURCE_DIR}/../tests/kernels/avx512_shim)

quench_backend(avx512)
quench_dots(avx512 vnni)
target_sources(quench_avx512 PRIVATE src/avx2/dot_32.c)
foreach(target quench_avx512 quench_vnni)
  target_include_directories(${target} BEFORE PRIVATE ${shim})
  target_compile_options(${target} PRIVATE -Wno-psabi)
endforeach()
target_precompile_headers(quench_avx512 PRIVATE <immintrin.h>)

target_sources(quench_kernels PRIVATE ${shim}/processor.c)
set_source_files_properties(src/cpu.c PROPERTIES COMPILE_DEFINITIONS quench_cpu_features=quench_real_cpu_features)
