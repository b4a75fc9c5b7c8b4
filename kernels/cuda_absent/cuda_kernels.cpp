// Stands for the CUDA backend in a build without it.

#include "core/error.hpp"
#include "kernels/kernels.hpp"

namespace ringscan {

bool has_cuda_backend() {
  return false;
}

int count_cuda_devices() {
  return 0;
}

std::unique_ptr<Kernels> make_cuda_kernels(int) {
  throw bad_input("backend = cuda: this build has no CUDA backend; use backend = cpu");
}

}  // namespace ringscan
