#include "kernels/cpu/projection.hpp"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <vector>

#include "core/error.hpp"

namespace ringscan::cpu {
namespace {

void sgemm(const ProjectTask& task, const float* in, std::int64_t in_stride, float* out, std::int64_t out_stride) {
  const float beta = task.adds ? 1.0f : 0.0f;
  if (dnnl_sgemm('N', 'T', kProjectRows, task.out_dim, task.in_dim, 1.0f, in, in_stride, task.weight,
                 task.weight_stride, beta, out, out_stride) != dnnl_success) {
    throw failure("oneDNN's sgemm failed");
  }
}

}  // namespace

void project(const ProjectTask& task) {
  omp_set_num_threads(1);  // of this thread alone
  std::int64_t row = 0;
  for (; row + kProjectRows <= task.rows; row += kProjectRows) {
    sgemm(task, task.in + row * task.in_stride, task.in_stride, task.out + row * task.out_stride, task.out_stride);
  }
  if (row == task.rows) return;
  std::vector<float> in(static_cast<std::size_t>(kProjectRows * task.in_dim), 0.0f);
  std::vector<float> out(static_cast<std::size_t>(kProjectRows * task.out_dim), 0.0f);
  for (std::int64_t i = row; i < task.rows; ++i) {
    std::copy_n(task.in + i * task.in_stride, task.in_dim, in.data() + (i - row) * task.in_dim);
    std::copy_n(task.out + i * task.out_stride, task.adds ? task.out_dim : 0, out.data() + (i - row) * task.out_dim);
  }
  sgemm(task, in.data(), task.in_dim, out.data(), task.out_dim);
  for (std::int64_t i = row; i < task.rows; ++i) {
    std::copy_n(out.data() + (i - row) * task.out_dim, task.out_dim, task.out + i * task.out_stride);
  }
}

}  // namespace ringscan::cpu
