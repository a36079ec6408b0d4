# The Metal backend, on Apple silicon. The shaders travel in the library as text and are compiled by the system at first
# use: that needs no Xcode, and the compiler is always the one of the machine that runs them.
enable_language(OBJC)
find_library(QUENCH_METAL Metal REQUIRED)
find_library(QUENCH_FOUNDATION Foundation REQUIRED)
# Without it, programs without a window are given no default device.
find_library(QUENCH_CORE_GRAPHICS CoreGraphics REQUIRED)
include(${CMAKE_CURRENT_LIST_DIR}/shaders.cmake)

list(TRANSFORM QUENCH_SHADERS PREPEND ${CMAKE_CURRENT_LIST_DIR}/ OUTPUT_VARIABLE shader_paths)
set(embedded ${CMAKE_CURRENT_BINARY_DIR}/metal_shaders.c)
add_custom_command(
  OUTPUT ${embedded}
  COMMAND ${CMAKE_COMMAND} "-DSOURCES=${shader_paths}" -DOUTPUT=${embedded} -P ${CMAKE_CURRENT_LIST_DIR}/embed.cmake
  DEPENDS ${shader_paths} ${CMAKE_CURRENT_LIST_DIR}/embed.cmake
  VERBATIM)

target_sources(quench_kernels PRIVATE src/metal/backend.c src/metal/probe.c src/metal/device.m ${embedded})
set_source_files_properties(src/metal/device.m PROPERTIES COMPILE_OPTIONS "-fobjc-arc")
target_compile_definitions(quench_kernels PRIVATE QUENCH_HAS_METAL)
target_link_libraries(quench_kernels PRIVATE ${QUENCH_METAL} ${QUENCH_FOUNDATION} ${QUENCH_CORE_GRAPHICS})
