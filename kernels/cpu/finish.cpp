#include "kernels/cpu/finish.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace ringscan::cpu {
namespace {

/// One float a lane, as vectors load them.
struct alignas(Buffer::kAlignment) LaneArray : std::array<float, kQueryTile> {};

/// The rows of one query tile on their way out.
class RowWriter {
 public:
  RowWriter(const TileOps& ops, const FinishTask& task, const LaneShape& shape)
      : ops_(ops), task_(task), shape_(shape), rows_(shape.out_floats() * sizeof(float)) {}

  float* row(std::int64_t lane) { return rows_.as<float>() + static_cast<std::size_t>(lane) * shape_.out_rows; }

  void load(const float* out, const LaneArray& divisor) {
    ops_.lanes_to_rows(out, divisor.data(), shape_.out_rows, rows_.as<float>());
  }
  /// Adds factor * vector to a row.
  void add(std::int64_t lane, float factor, const AnyView& vectors, std::int64_t batch, std::int64_t token,
           std::int64_t head) {
    const auto count = static_cast<std::size_t>(task_.o.shape[3]);
    std::array<float, 256> vector;
    convert_elements(vectors.row(batch, token, head), vectors.type, vector.data(), ElementType::kFloat32, count);
    float* to = row(lane);
    for (std::size_t i = 0; i < count; ++i) to[i] += factor * vector[i];
  }
  void store(std::int64_t lane, std::int64_t batch, std::int64_t token, std::int64_t head, float statistic) {
    const auto count = static_cast<std::size_t>(task_.o.shape[3]);
    ops_.store_row(row(lane), task_.o.type, task_.o.row(batch, token, head), count);
    if (task_.statistic.data != nullptr) *task_.statistic.row(batch, token, head) = statistic;
  }

 private:
  const TileOps& ops_;
  const FinishTask& task_;
  const LaneShape& shape_;
  Buffer rows_;
};

/// Calls finish_tile(batch, slot, index, first row, rows in the tile) for each query tile.
template <typename FinishTile>
void for_each_tile(const PartialShape& partial, const LaneShape& shape, FinishTile&& finish_tile) {
  for (std::int64_t batch = 0; batch < partial.batch; ++batch) {
    for (std::int64_t slot = 0; slot < partial.slots; ++slot) {
      for (std::int64_t tile = 0; tile < shape.num_tiles; ++tile) {
        const std::int64_t first = tile * kQueryTileTokens;
        finish_tile(batch, static_cast<std::size_t>(slot), shape.index(batch, slot, tile), first,
                    std::min(kQueryTileTokens, partial.rows - first));
      }
    }
  }
}

/// l_kept 2^(m_kept - m_all) / l_all: rounding apart, at most 1.
float kept_share(const LseLanes& kept, const LseLanes& all, std::int64_t lane) {
  const double share = std::exp2(double{kept.max[lane]} - double{all.max[lane]}) * kept.sum[lane] / all.sum[lane];
  return static_cast<float>(share > 1.0 ? 1.0 : share);
}

}  // namespace

void finish_rows(const TileOps& ops, const FinishTask& task, const LseBlock& block) {
  constexpr double kLn2 = 0.6931471805599453;
  const LaneShape shape(block.shape);
  const LaneShape all_shape(task.kept_mass.data != nullptr ? task.all->shape : block.shape);
  RowWriter writer(ops, task, shape);
  for_each_tile(block.shape, shape,
                [&](std::int64_t batch, std::size_t slot, std::int64_t index, std::int64_t first, std::int64_t count) {
                  const LseLanes lanes = lanes_at(block, shape, index);
                  LaneArray divisor;
                  for (std::size_t i = 0; i < kQueryTile; ++i) divisor[i] = lanes.sum[i] == 0.0f ? 1.0f : lanes.sum[i];
                  writer.load(lanes.out, divisor);
                  for (std::int64_t lane = 0; lane < count; ++lane) {
                    const double sum = lanes.sum[lane];
                    const double lse =
                        sum == 0.0 ? -std::numeric_limits<double>::infinity() : lanes.max[lane] * kLn2 + std::log(sum);
                    writer.store(lane, batch, first + lane, task.slots[slot].q_head, static_cast<float>(lse));
                    if (task.kept_mass.data == nullptr) continue;
                    *task.kept_mass.row(batch, first + lane, task.slots[slot].q_head) =
                        kept_share(lanes, lanes_at(*task.all, all_shape, index), lane);
                  }
                });
}

void finish_rows(const TileOps& ops, const FinishTask& task, RemainderPolicy policy, const StickBlock& block) {
  const LaneShape shape(block.shape);
  RowWriter writer(ops, task, shape);
  LaneArray ones;
  ones.fill(1.0f);
  for_each_tile(block.shape, shape,
                [&](std::int64_t batch, std::size_t slot, std::int64_t index, std::int64_t first, std::int64_t count) {
                  const StickLanes lanes = lanes_at(block, shape, index);
                  const HeadSlot heads = task.slots[slot];
                  writer.load(lanes.out, ones);
                  for (std::int64_t lane = 0; lane < count; ++lane) {
                    const double log2_stick = double{lanes.log2_stick[lane]} + double{lanes.log2_stick_low[lane]};
                    const auto remainder = static_cast<float>(std::exp2(log2_stick));
                    if (policy == RemainderPolicy::kValue) {
                      writer.add(lane, remainder, task.v_own, batch, first + lane, heads.kv_head);
                    } else if (policy == RemainderPolicy::kVector) {
                      writer.add(lane, remainder, task.remainder_value, 0, 0, heads.q_head);
                    }
                    writer.store(lane, batch, first + lane, heads.q_head, remainder);
                  }
                });
}

}  // namespace ringscan::cpu
