#include "kernels/cuda/math_libraries.hpp"

#include <dlfcn.h>

#include <string>

#include "core/error.hpp"

namespace ringscan::cuda {
namespace {

/// A library of this CUDA version, wherever the loader looks or where toolkits stand. Stays loaded.
void* open_library(const std::string& name, int major) {
  const std::string file = "lib" + name + ".so." + std::to_string(major);
  for (const std::string& path : {file, "/usr/local/cuda/lib64/" + file, "/usr/local/cuda/lib/" + file}) {
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  }
  throw bad_input("backend = cuda: mamba and chela need " + file + ", which this machine lacks; use backend = cpu");
}

template <typename Function>
void load(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) throw failure(std::string("a library of CUDA has no ") + name);
}

MathLibraries load_all() {
  MathLibraries libraries;
  void* const cublas = open_library("cublas", CUBLAS_VER_MAJOR);
  load(cublas, "cublasCreate_v2", libraries.cublas_create);
  load(cublas, "cublasDestroy_v2", libraries.cublas_destroy);
  load(cublas, "cublasSetStream_v2", libraries.cublas_set_stream);
  load(cublas, "cublasSgemm_v2_64", libraries.cublas_sgemm);
  void* const cufft = open_library("cufft", CUFFT_VER_MAJOR);
  load(cufft, "cufftCreate", libraries.cufft_create);
  load(cufft, "cufftSetAutoAllocation", libraries.cufft_set_auto_allocation);
  load(cufft, "cufftMakePlanMany", libraries.cufft_make_plan_many);
  load(cufft, "cufftSetWorkArea", libraries.cufft_set_work_area);
  load(cufft, "cufftSetStream", libraries.cufft_set_stream);
  load(cufft, "cufftExecR2C", libraries.cufft_forward);
  load(cufft, "cufftExecC2R", libraries.cufft_backward);
  load(cufft, "cufftDestroy", libraries.cufft_destroy);
  return libraries;
}

}  // namespace

const MathLibraries& math_libraries() {
  static const MathLibraries libraries = load_all();
  return libraries;
}

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw failure(std::string("cuBLAS: ") + what + " failed with status " + std::to_string(static_cast<int>(status)));
}

void check(cufftResult status, const char* what) {
  if (status == CUFFT_SUCCESS) return;
  throw failure(std::string("cuFFT: ") + what + " failed with status " + std::to_string(static_cast<int>(status)));
}

}  // namespace ringscan::cuda
