#pragma once
// Between the host's preparation and the kernels, each mechanism of which is compiled on its own.

#include <cuda_runtime_api.h>

#include "core/element_type.hpp"
#include "kernels/cuda/attend_params_sm90.hpp"

namespace ringscan::cuda {

/// Calls f with the TileShape that takes this head_dim.
template <typename F>
decltype(auto) visit_tile_shape(std::int64_t head_dim, F&& f) {
  if (head_dim <= 64) return f(TileShape<64>{});
  if (head_dim <= 128) return f(TileShape<128>{});
  return f(TileShape<256>{});
}

void launch_softmax(const AttendParams& params, const TensorMaps& maps, ElementType type, cudaStream_t stream);
/// With params.overflows (bf16 alone) weights are made as they are first, and rows where those are too large done
/// again.
void launch_cog(const AttendParams& params, const TensorMaps& maps, ElementType type, cudaStream_t stream);
void launch_topk(const AttendParams& params, const TensorMaps& maps, ElementType type, cudaStream_t stream);
void launch_stick_breaking(const AttendParams& params, const TensorMaps& maps, ElementType type, cudaStream_t stream);

/// Behind a launch that cut items: the partials of their parts into the carried ones or, where it finishes, into rows
/// of o, which are of `type`.
void join_parts(const AttendParams& params, std::int64_t rows_a_tile, bool is_stick, ElementType type,
                cudaStream_t stream);

/// Copies rows [batch, keys, heads, head_dim] of 16-bit elements to dense [batch, padded, heads, head_dim] at `to`,
/// zeros behind them. @pre head_dim a multiple of 8, rows aligned to 16 bytes.
void pad_keys(const void* from, const std::int64_t (&strides)[3], const std::int64_t (&shape)[4], std::int64_t padded,
              void* to, cudaStream_t stream);

}  // namespace ringscan::cuda
