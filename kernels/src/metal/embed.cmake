# SOURCES, one after the other, as `const char quench_metal_shaders[]` in OUTPUT.
set(bytes "")
foreach(source IN LISTS SOURCES)
  file(READ ${source} hex HEX)
  string(APPEND bytes ${hex})
endforeach()
string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
string(REGEX REPLACE "((0x..,){20})" "\\1\n" bytes "${bytes}")
file(WRITE ${OUTPUT} "extern const char quench_metal_shaders[];\nconst char quench_metal_shaders[] = {\n${bytes}0};\n")
