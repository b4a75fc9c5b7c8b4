# One INTERFACE target carries the language level and the flags of our own code.
set(RINGSCAN_SANITIZE "" CACHE STRING "Sanitizers to build with, as -fsanitize takes them")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
# -O3 without -march: a binary runs on any machine of its kind; kernels/cpu picks its instructions at run time.
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")

find_program(RINGSCAN_CCACHE ccache)
if(RINGSCAN_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${RINGSCAN_CCACHE}")
endif()

add_library(ringscan_flags INTERFACE)
target_compile_features(ringscan_flags INTERFACE cxx_std_20)
target_include_directories(ringscan_flags INTERFACE "${PROJECT_SOURCE_DIR}/src" "${PROJECT_SOURCE_DIR}")
target_compile_options(ringscan_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
                                                -Werror -fno-math-errno)
# GCC 12 sees overlapping copies in std::string's own operators at -O3 (GCC bug 105651).
target_compile_options(ringscan_flags INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
target_compile_definitions(ringscan_flags INTERFACE RINGSCAN_VERSION="${PROJECT_VERSION}")
if(RINGSCAN_SANITIZE)
  # GCC takes minutes over an instrumented SIMD source at -O2 with full debug data; line numbers are all that reports need.
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1")
  target_compile_options(ringscan_flags INTERFACE -fsanitize=${RINGSCAN_SANITIZE} -fno-omit-frame-pointer
                                                  -fno-sanitize-recover=all)
  # Instrumented code brings GCC to false warnings; the release build is their judge.
  target_compile_options(ringscan_flags INTERFACE -Wno-error)
  target_link_options(ringscan_flags INTERFACE -fsanitize=${RINGSCAN_SANITIZE})
endif()
