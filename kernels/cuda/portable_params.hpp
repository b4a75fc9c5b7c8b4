#pragma once
// What the host hands to the portable kernels.

#include <cstdint>

#include "core/element_type.hpp"
#include "kernels/cuda/attend_params_sm90.hpp"
#include "kernels/cuda/portable_attend.hpp"

namespace ringscan::cuda::portable {

/// [batch, rows, heads, dim] of any element type but float64.
struct RowsIn {
  const void* data = nullptr;
  ElementType type = ElementType::kFloat32;
  RowStrides strides;
};

inline RowsIn rows_in(const AnyView& view) {
  return {view.data, view.type, row_strides(view)};
}

struct PortableParams {
  RowsIn q, k, v;
  std::int64_t num_queries = 0;
  std::int64_t num_keys = 0;
  std::int64_t query_minus_key = 0;  ///< query_run.begin - key_run.begin
  std::int64_t min_delta = 0;
  std::int64_t max_delta = 0;
  const std::int64_t* max_deltas = nullptr;  ///< [num_queries], or nullptr: max_delta alone
  std::int64_t first_key = 0;                ///< key_run.begin
  float scale_log2 = 0.0f;                   ///< scale * log2(e)
  float log2_epsilon = 0.0f;                 ///< rows under this are done; -inf: never

  // Partials, [batch, slot, row(, v_dim)].
  float* out = nullptr;
  float* first = nullptr;
  float* sum = nullptr;
  bool starts = true;

  SearchRow* search = nullptr;    ///< [batch, slot, row]
  std::uint32_t* bins = nullptr;  ///< [batch, slot, row, search_words]
  std::int64_t search_words = kSearchBins;

  int head_dim = 0;
  int v_dim = 0;
  int num_slots = 0;
  std::int64_t num_query_tiles = 0;
  std::int64_t num_items = 0;  ///< query tiles of all slots and batches: blocks
  std::uint32_t* tiles_computed = nullptr;
  std::uint16_t q_head[kMaxSlots];
  std::uint16_t kv_head[kMaxSlots];
};

inline constexpr int kThreads = 256;
/// Keys of a sample that are looked at.
inline constexpr std::int64_t kSampleKeys = kSearchBins;

// Each mechanism is compiled on its own.
void launch_softmax(const PortableParams& params, cudaStream_t stream);
void launch_cog(const PortableParams& params, cudaStream_t stream);
void launch_stick_breaking(const PortableParams& params, cudaStream_t stream);
void launch_topk(const PortableParams& params, cudaStream_t stream);
void launch_count(const PortableParams& params, bool adds, cudaStream_t stream);
/// Ordered scores of at most kSampleKeys keys into the rows' bins.
void launch_sample(const PortableParams& params, cudaStream_t stream);
/// How many keys that looks at.
constexpr std::int64_t sample_size(std::int64_t num_keys) {
  return num_keys < kSampleKeys ? num_keys : kSampleKeys;
}
/// Each row's range, from the sample in its bins where there is one; zeroes the bins.
void begin_rows(const DeviceSearch& search, const std::int64_t* keys_kept, std::int64_t num_samples,
                cudaStream_t stream);

}  // namespace ringscan::cuda::portable
