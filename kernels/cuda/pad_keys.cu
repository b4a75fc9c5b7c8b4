#include <algorithm>

#include "kernels/cuda/attend_launch_sm90.hpp"
#include "kernels/cuda/check.hpp"

namespace ringscan::cuda {
namespace {

struct PadTask {
  const uint4* from;
  uint4* to;
  std::int64_t stride_batch, stride_key, stride_head;  // in pieces of 16 bytes
  std::int64_t num_keys, padded, num_heads, pieces;
  std::int64_t count;  // pieces written
};

__global__ void pad_kernel(PadTask task) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < task.count; i += step) {
    const std::int64_t piece = i % task.pieces;
    const std::int64_t head = i / task.pieces % task.num_heads;
    const std::int64_t key = i / (task.pieces * task.num_heads) % task.padded;
    const std::int64_t batch = i / (task.pieces * task.num_heads * task.padded);
    const uint4* from = task.from + batch * task.stride_batch + key * task.stride_key + head * task.stride_head + piece;
    task.to[i] = key < task.num_keys ? *from : uint4{0, 0, 0, 0};
  }
}

}  // namespace

void pad_keys(const void* from, const std::int64_t (&strides)[3], const std::int64_t (&shape)[4], std::int64_t padded,
              void* to, cudaStream_t stream) {
  const std::int64_t pieces = shape[3] / 8;
  const PadTask task{static_cast<const uint4*>(from),
                     static_cast<uint4*>(to),
                     strides[0] / 8,
                     strides[1] / 8,
                     strides[2] / 8,
                     shape[1],
                     padded,
                     shape[2],
                     pieces,
                     shape[0] * padded * shape[2] * pieces};
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((task.count + 255) / 256, 1024));
  pad_kernel<<<blocks, 256, 0, stream>>>(task);
  check(cudaGetLastError());
}

}  // namespace ringscan::cuda
