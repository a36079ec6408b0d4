# The Metal backend with tests/kernels/metal_shim as its device: the shaders compiled as C++ and run by the processor.
# Calls of any size go there, so that the small shapes of the tests do.
enable_language(CXX)
find_package(Threads REQUIRED)
set(shim ${CMAKE_CURRENT_SOURCE_DIR}/../tests/kernels/metal_shim)

add_library(quench_metal_shim OBJECT ${shim}/driver.cpp ${shim}/kernels.cpp)
set_target_properties(quench_metal_shim PROPERTIES
  CXX_STANDARD 14 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
target_include_directories(quench_metal_shim PRIVATE ${shim} ${CMAKE_CURRENT_LIST_DIR})
target_compile_options(quench_metal_shim PRIVATE
  -O2 -ffp-contract=off -fno-strict-aliasing -fno-trapping-math -Wall -Wextra -Wno-attributes -Wno-unknown-pragmas
  -Wno-unused-parameter)

target_sources(quench_kernels PRIVATE
  src/metal/backend.c src/metal/probe.c $<TARGET_OBJECTS:quench_metal_shim>)
target_compile_definitions(quench_kernels PRIVATE
  QUENCH_HAS_METAL QUENCH_METAL_LEAST_ENCODED=1 QUENCH_METAL_LEAST_DECODED=1)
target_link_libraries(quench_kernels PRIVATE Threads::Threads)
set_target_properties(quench_kernels PROPERTIES LINKER_LANGUAGE CXX)
