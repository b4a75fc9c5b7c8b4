#pragma once
// cuBLAS and cuFFT, loaded when a job first asks for them: most need neither, and cuBLAS takes a while to load.

#include <cublas_v2.h>
#include <cufft.h>

namespace ringscan::cuda {

/// Their functions as declared in their headers.
struct MathLibraries {
  decltype(&cublasCreate_v2) cublas_create = nullptr;
  decltype(&cublasDestroy_v2) cublas_destroy = nullptr;
  decltype(&cublasSetStream_v2) cublas_set_stream = nullptr;
  decltype(&cublasSgemm_v2_64) cublas_sgemm = nullptr;
  decltype(&cufftCreate) cufft_create = nullptr;
  decltype(&cufftSetAutoAllocation) cufft_set_auto_allocation = nullptr;
  decltype(&cufftMakePlanMany) cufft_make_plan_many = nullptr;
  decltype(&cufftSetWorkArea) cufft_set_work_area = nullptr;
  decltype(&cufftSetStream) cufft_set_stream = nullptr;
  decltype(&cufftExecR2C) cufft_forward = nullptr;
  decltype(&cufftExecC2R) cufft_backward = nullptr;
  decltype(&cufftDestroy) cufft_destroy = nullptr;
};

/// @throws Error(kBadInput) where this machine lacks one of them.
const MathLibraries& math_libraries();

/// @throws Error(kFailure) where a call of theirs failed.
void check(cublasStatus_t status, const char* what);
void check(cufftResult status, const char* what);

}  // namespace ringscan::cuda
