// Rows of blocks: one thread an element, channels side by side.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/block_ops.hpp"
#include "kernels/cuda/check.hpp"

namespace ringscan::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(std::int64_t count) {
  constexpr std::int64_t kMost = std::int64_t{1} << 20;  // the rest by strides
  return static_cast<unsigned>(std::min(kMost, (count + kThreads - 1) / kThreads));
}

__device__ std::int64_t first_element() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ std::int64_t all_threads() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

/// x / (1 + e^-x), without e^-x ever overflowing.
__device__ float silu_of(float x) {
  const float small = expf(-fabsf(x));
  return x * ((x < 0.0f ? small : 1.0f) / (1.0f + small));
}

/// [batch, tokens, 1, channels] as device code sees it.
template <typename T>
struct Rows {
  explicit Rows(const TensorView<T>& view)
      : data(view.data), batch_stride(view.strides[0]), token_stride(view.strides[1]) {}
  __device__ T& at(std::int64_t batch, std::int64_t token, std::int64_t channel) const {
    return data[batch * batch_stride + token * token_stride + channel];
  }

  T* data;
  std::int64_t batch_stride, token_stride;
};

struct Size {
  explicit Size(const Shape4& shape) : tokens(shape[1]), channels(shape[3]), count(element_count(shape)) {}

  std::int64_t tokens, channels, count;
};

__global__ void convolve_kernel(Size size, Rows<const float> halo, Rows<const float> in, Rows<float> out,
                                const float* weights, const float* bias, std::int64_t width, bool newest_first,
                                bool has_silu) {
  for (std::int64_t i = first_element(); i < size.count; i += all_threads()) {
    const std::int64_t channel = i % size.channels, row = i / size.channels;
    const std::int64_t batch = row / size.tokens, token = row % size.tokens;
    const float* weight = weights + channel * width;
    float sum = bias != nullptr ? bias[channel] : 0.0f;
    for (std::int64_t k = 0; k < width; ++k) {
      const std::int64_t from = token + k + 1 - width;
      const float x = from < 0 ? halo.at(batch, from + width - 1, channel) : in.at(batch, from, channel);
      sum = fmaf(weight[newest_first ? width - 1 - k : k], x, sum);
    }
    out.at(batch, token, channel) = has_silu ? silu_of(sum) : sum;
  }
}

__global__ void affine_kernel(const float* z, std::int64_t count, std::int64_t channels, const float* factor,
                              const float* offset, float* out) {
  for (std::int64_t i = first_element(); i < count; i += all_threads()) {
    out[i] = fmaf(factor[i % channels], z[i], offset[i % channels]);
  }
}

__global__ void gate_kernel(float* values, const float* other, std::int64_t count) {
  for (std::int64_t i = first_element(); i < count; i += all_threads()) {
    values[i] = silu_of(values[i]) * (other != nullptr ? other[i] : 1.0f);
  }
}

__global__ void add_kernel(Size size, Rows<float> to, Rows<const float> from) {
  for (std::int64_t i = first_element(); i < size.count; i += all_threads()) {
    const std::int64_t row = i / size.channels;
    to.at(row / size.tokens, row % size.tokens, i % size.channels) +=
        from.at(row / size.tokens, row % size.tokens, i % size.channels);
  }
}

__device__ float widened(float x) {
  return x;
}
__device__ float widened(double x) {
  return static_cast<float>(x);
}
__device__ float widened(Bfloat16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}
__device__ float widened(Float16 x) {
  return __half2float(__ushort_as_half(x.bits));
}
__device__ void round_to(float& to, float x) {
  to = x;
}
__device__ void round_to(double& to, float x) {
  to = x;
}
__device__ void round_to(Bfloat16& to, float x) {
  to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
__device__ void round_to(Float16& to, float x) {
  to.bits = __half_as_ushort(__float2half_rn(x));
}

/// [batch, seq, head, dim] as device code sees it; the last stride is 1.
struct Strides {
  explicit Strides(const Shape4& strides) : batch(strides[0]), seq(strides[1]), head(strides[2]) {}
  std::int64_t batch, seq, head;
};

template <typename From, typename To>
__global__ void convert_kernel(const From* from, Strides from_strides, To* to, Strides to_strides, std::int64_t seq,
                               std::int64_t heads, std::int64_t dim, std::int64_t count) {
  for (std::int64_t i = first_element(); i < count; i += all_threads()) {
    const std::int64_t d = i % dim, row = i / dim, h = row % heads, t = row / heads % seq, b = row / heads / seq;
    const float x = widened(from[b * from_strides.batch + t * from_strides.seq + h * from_strides.head + d]);
    round_to(to[b * to_strides.batch + t * to_strides.seq + h * to_strides.head + d], x);
  }
}

template <typename From, typename To>
__global__ void convert_dense_kernel(const From* from, To* to, std::int64_t count) {
  for (std::int64_t i = first_element(); i < count; i += all_threads()) round_to(to[i], widened(from[i]));
}

template <typename From, typename To>
void launch_convert(const AnyView& from, const MutableAnyView& to, cudaStream_t stream) {
  const Shape4& shape = from.shape;
  const std::int64_t count = element_count(shape);
  const auto* in = reinterpret_cast<const From*>(from.data);
  auto* out = reinterpret_cast<To*>(to.data);
  if (from.strides == dense_strides(shape) && to.strides == from.strides) {
    convert_dense_kernel<<<blocks_for(count), kThreads, 0, stream>>>(in, out, count);
  } else {
    convert_kernel<<<blocks_for(count), kThreads, 0, stream>>>(in, Strides(from.strides), out, Strides(to.strides),
                                                               shape[1], shape[2], shape[3], count);
  }
  check(cudaGetLastError());
}

}  // namespace

void convolve(const DeviceConv& task, cudaStream_t stream) {
  const std::int64_t count = element_count(task.in.shape);
  if (count == 0) return;
  convolve_kernel<<<blocks_for(count), kThreads, 0, stream>>>(
      Size(task.in.shape), Rows<const float>(task.halo), Rows<const float>(task.in), Rows<float>(task.out), task.weight,
      task.bias, task.width, task.newest_first, task.has_silu);
  check(cudaGetLastError());
}

void affine(const float* z, std::int64_t rows, std::int64_t channels, const float* factor, const float* offset,
            float* out, cudaStream_t stream) {
  if (rows * channels == 0) return;
  affine_kernel<<<blocks_for(rows * channels), kThreads, 0, stream>>>(z, rows * channels, channels, factor, offset,
                                                                      out);
  check(cudaGetLastError());
}

void gate(float* values, const float* other, std::int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  gate_kernel<<<blocks_for(count), kThreads, 0, stream>>>(values, other, count);
  check(cudaGetLastError());
}

void add(const TensorView<float>& to, const TensorView<const float>& from, cudaStream_t stream) {
  const std::int64_t count = element_count(to.shape);
  if (count == 0) return;
  add_kernel<<<blocks_for(count), kThreads, 0, stream>>>(Size(to.shape), Rows<float>(to), Rows<const float>(from));
  check(cudaGetLastError());
}

void convert(const AnyView& from, const MutableAnyView& to, cudaStream_t stream) {
  if (element_count(from.shape) == 0) return;
  visit_element_type(from.type, [&](auto in) {
    visit_element_type(to.type, [&](auto out) { launch_convert<decltype(in), decltype(out)>(from, to, stream); });
  });
}

}  // namespace ringscan::cuda
