#pragma once
// What the Mamba and CHELA blocks do to rows beside scans, products and transforms, on any device from sm_80 on. All
// pointers are device memory, all work is queued on the caller's stream. fp32.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/tensor_view.hpp"

namespace ringscan::cuda {

/// A causal depthwise convolution: out_t = bias + sum_k weight[k] in_(t - width + 1 + k), or silu of that.
struct DeviceConv {
  TensorView<const float> halo;   ///< [batch, width - 1, 1, channels]: the inputs before the first token
  TensorView<const float> in;     ///< [batch, tokens, 1, channels]
  TensorView<float> out;          ///< like in; may not overlap it
  const float* weight = nullptr;  ///< [channels, width]
  const float* bias = nullptr;    ///< [channels], or nullptr: 0
  std::int64_t width = 1;
  bool newest_first = false;  ///< weight[k] multiplies the input k tokens before instead
  bool has_silu = false;
};
void convolve(const DeviceConv& task, cudaStream_t stream);

/// out = factor z + offset, channel by channel; [rows, channels], dense. out may be z.
void affine(const float* z, std::int64_t rows, std::int64_t channels, const float* factor, const float* offset,
            float* out, cudaStream_t stream);
/// values = silu(values), or silu(values) * other where that is not nullptr.
void gate(float* values, const float* other, std::int64_t count, cudaStream_t stream);
/// to += from, row by row: views of one shape.
void add(const TensorView<float>& to, const TensorView<const float>& from, cudaStream_t stream);
/// `to` becomes `from`, element by element, through fp32 and rounded to nearest: views of one shape.
void convert(const AnyView& from, const MutableAnyView& to, cudaStream_t stream);

}  // namespace ringscan::cuda
