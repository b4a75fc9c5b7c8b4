#include "kernels/cpu/linear_ops.hpp"

#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear_ops.cpp"
#include "kernels/cpu/simd_targets.hpp"
//
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"
#include "kernels/cpu/linear_chunk-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

const LinearOps& ChunkOps() {
  static constexpr LinearOps kOps{AdvanceChunk};
  return kOps;
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringscan::cpu {

HWY_EXPORT(ChunkOps);

const LinearOps& linear_ops() {
  // The first call through the table only finds out what the machine has.
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return HWY_DYNAMIC_DISPATCH(ChunkOps)();
}

namespace {

/// Calls take(member, floats) for each array.
template <typename Arrays, typename Take>
void lay_out(Arrays& arrays, const LinearWidths& widths, const Take& take) {
  constexpr std::size_t kSlack = kPanel * kMaxVector;  // packing runs over
  const std::size_t dim = widths.head_dim;
  const std::size_t row_floats = round_up(dim, kMaxVector);
  const std::size_t value_floats = widths.lane_width * kChunk;
  take(arrays.rows, kChunk * row_floats > widths.lane_width ? kChunk * row_floats : widths.lane_width);
  take(arrays.panels, kChunk * dim + kSlack);
  take(arrays.queries, kChunk * dim + kSlack);
  take(arrays.key_lanes, kChunk * dim);
  take(arrays.key_columns, kChunk * widths.state_rows);
  take(arrays.values, value_floats);
  take(arrays.decayed, value_floats);
  take(arrays.weights, kChunk * kChunk);
  take(arrays.out, value_floats);
  take(arrays.decays, 2 * kChunk);
}

struct NoArrays {
  int rows, panels, queries, key_lanes, key_columns, values, decayed, weights, out, decays;
};

}  // namespace

std::size_t LinearScratch::bytes(const LinearWidths& widths) {
  std::size_t floats = 0;
  NoArrays none{};
  lay_out(none, widths, [&](int, std::size_t count) { floats += round_up(count, kMaxVector); });
  return floats * sizeof(float);
}

LinearScratch::LinearScratch(const LinearWidths& widths) : buffer_(bytes(widths)) {
  auto* next = buffer_.as<float>();
  lay_out(*this, widths,
          [&](float*& array, std::size_t count) { array = std::exchange(next, next + round_up(count, kMaxVector)); });
}

}  // namespace ringscan::cpu
#endif
