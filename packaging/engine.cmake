# Read by CMake after llama.cpp's own project() line. The engine's package asks for the library that llama.cpp's command
# line tools share, and uses nothing of it: that is more than half of the build.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "Not used by the engine" FORCE)
