// Catch2's main for tests that need a GPU: without one they are skipped, and say so.
#include <cuda_runtime_api.h>

#include <cstdio>

#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

int main(int argc, char* argv[]) {
  constexpr int kSkipped = 77;  // ctest's SKIP_RETURN_CODE
  int num_devices = 0;
  if (cudaGetDeviceCount(&num_devices) != cudaSuccess || num_devices == 0) {
    std::puts("SKIPPED: no CUDA device");
    return kSkipped;
  }
  int major = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess || major != 9) {
    std::printf("SKIPPED: no Hopper device (compute capability %d.x, wanted 9.0)\n", major);
    return kSkipped;
  }
  return Catch::Session().run(argc, argv);
}
