#include "kernels/measure_kernels.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "core/error.hpp"
#include "kernels/cpu/attend_walk.hpp"
#include "kernels/cpu/flush_denormals.hpp"
#include "kernels/cpu/lane_blocks.hpp"
#include "kernels/cpu/measure_tiles.hpp"
#include "mechanism/growing_window.hpp"

namespace ringscan {

std::int64_t keys_kept(std::int64_t n, double exponent) {
  SparseParams params;
  params.exponent = exponent;
  return GrowingWindow(params, n).keys_kept(n - 1);
}

namespace {

using namespace cpu;

/// Bins of MassBlock, a row. By weight: kBinsAnOctave to an octave, from 1 downwards; the last one takes all the rest.
constexpr std::size_t kBins = 256;
constexpr int kMantissaBits = 3;
constexpr std::uint32_t kBitsOfOne = 127u << kMantissaBits;

struct alignas(Buffer::kAlignment) LaneFloats : std::array<float, kQueryTile> {};

PartialShape narrow(PartialShape shape) {
  shape.v_dim = 1;
  return shape;
}

float log2_of(double x) {
  return static_cast<float>(std::log2(x));
}

class ReachRows {
 public:
  using Tiles = OpenTiles;

  ReachRows(const MeasureTileOps& measures, ReachBlock& block, const ReachParams& params)
      : measures_(measures), block_(block), shape_(block.shape) {
    std::transform(params.epsilons.begin(), params.epsilons.end(), log2_epsilons_.begin(), log2_of);
    least_ = *std::min_element(log2_epsilons_.begin(), log2_epsilons_.begin() + block.num_epsilons);
  }

  const LaneShape& shape() const { return shape_; }
  Tiles open(const QueryTiling& tiling, std::int64_t batch, std::int64_t slot) {
    const auto tiles = static_cast<std::size_t>(shape_.num_tiles);
    auto* flags = block_.done.as<std::uint8_t>() + shape_.index(batch, slot, 0);
    auto* lists = reinterpret_cast<std::int32_t*>(block_.done.as<std::uint8_t>() + shape_.flag_bytes());
    return OpenTiles(tiling, {flags, tiles}, {lists + slot * shape_.num_tiles, tiles});
  }

  void start(std::int64_t index) {
    float* stick = at_tile(block_.log2_stick, index, 2 * kQueryTile);
    rows_ = {unused_.data(), stick, stick + kQueryTile};
    keys_ = block_.keys.as<std::int64_t>() + static_cast<std::size_t>(index) * block_.num_epsilons * kQueryTile;
    since_.fill(0.0f);
  }
  bool add(const TileOps&, const TileTask& tile_task, std::int64_t num_queries) {
    measures_.reach_tile(tile_task, {rows_.log2_stick, rows_.log2_stick_low, since_.data(), log2_epsilons_.data(),
                                     block_.num_epsilons, met_.data()});
    for (std::size_t i = 0; i < block_.num_epsilons * kQueryTile; ++i) keys_[i] += static_cast<std::int64_t>(met_[i]);
    bool done = true;
    for (std::int64_t lane = 0; lane < num_queries; ++lane) {
      done &= rows_.log2_stick[lane] + since_[static_cast<std::size_t>(lane)] < least_;
    }
    return done;
  }
  void finish(const TileOps& ops) { ops.join_stick(rows_, {unused_.data(), since_.data(), zeros_.data()}, 0); }

 private:
  const MeasureTileOps& measures_;
  ReachBlock& block_;
  LaneShape shape_;
  std::array<float, ReachParams::kMost> log2_epsilons_{};
  float least_ = 0.0f;
  StickLanes rows_{};
  std::int64_t* keys_ = nullptr;
  LaneFloats since_{};
  LaneFloats zeros_{};
  LaneFloats unused_{};
  alignas(Buffer::kAlignment) std::array<float, ReachParams::kMost * kQueryTile> met_{};
};

/// How far a row has come in its walk over distances.
struct WindowWalk {
  std::int64_t met = 0;  ///< keys
  std::int64_t bin = 0;
};

class MassRows {
 public:
  using Tiles = TileInterval;

  MassRows(const MeasureTileOps& measures, MassBlock& block, const MassParams& params, const AttendTask& task)
      : measures_(measures), block_(block), shape_(block.shape), params_(params), task_(task) {}

  const LaneShape& shape() const { return shape_; }
  Tiles open(const QueryTiling& tiling, std::int64_t, std::int64_t) { return TileInterval(tiling); }

  void start(std::int64_t index) {
    index_ = index;
    first_row_ = index % shape_.num_tiles * kQueryTileTokens;
    const std::int64_t slot = index / shape_.num_tiles % shape_.num_slots;
    const std::int64_t batch = index / shape_.num_tiles / shape_.num_slots;
    const int head = task_.slots[static_cast<std::size_t>(slot)].q_head;
    const std::int64_t count = std::min(kQueryTileTokens, block_.shape.rows - first_row_);
    constexpr float kLog2e = 1.44269504f;
    for (std::int64_t lane = 0; lane < count; ++lane) {
      log2_sums_[static_cast<std::size_t>(lane)] = *block_.lse.row(batch, first_row_ + lane, head) * kLog2e;
    }
  }

  bool add(const TileOps&, const TileTask& tile_task, std::int64_t num_queries) {
    for (std::size_t group = 0; group < kLaneGroups; ++group) {
      const auto first = static_cast<std::int64_t>(group * kLaneGroup);
      if (first >= num_queries) break;
      measures_.weigh_tile(tile_task, group, log2_sums_.data());
      const std::int64_t end = std::min(num_queries, first + static_cast<std::int64_t>(kLaneGroup));
      for (std::int64_t lane = first; lane < end; ++lane) add_row(tile_task, lane, tile_task.scores + lane - first);
    }
    return false;
  }
  void finish(const TileOps&) {}

 private:
  /// Both bands begin at the query, so a row sees the tile's keys up to its own.
  void add_row(const TileTask& task, std::int64_t lane, const float* weights) {
    const std::int64_t seen = task.masked ? std::min<std::int64_t>(task.num_keys, lane - task.first_lane + 1)
                                          : static_cast<std::int64_t>(task.num_keys);
    const std::size_t row = static_cast<std::size_t>(index_) * kQueryTile + static_cast<std::size_t>(lane);
    float* mass = block_.mass.as<float>() + row * kBins;
    if (params_.select == SparseSelect::kTopk) {
      add_by_weight(weights, seen, mass, block_.count.as<std::uint32_t>() + row * kBins);
    } else {
      add_by_distance(weights, seen, mass, block_.walk.as<WindowWalk>()[row],
                      task_.query_run.begin + first_row_ + lane + 1);
    }
  }

  /// The bin is read off the weight's leading bits. NaN lands in the first one, and makes the row's sums NaN.
  static void add_by_weight(const float* weights, std::int64_t seen, float* mass, std::uint32_t* count) {
    for (std::int64_t key = 0; key < seen; ++key) {
      const float weight = weights[key * static_cast<std::int64_t>(kLaneGroup)];
      const std::uint32_t leading = std::bit_cast<std::uint32_t>(weight) >> (23 - kMantissaBits);
      const std::uint32_t bin = std::min<std::uint32_t>(kBitsOfOne - std::min(leading, kBitsOfOne), kBins - 1);
      mass[bin] += weight;
      ++count[bin];
    }
  }

  /// Bin b holds the keys from distance keys_kept(n, C_(b-1)) to under keys_kept(n, C_b).
  void add_by_distance(const float* weights, std::int64_t seen, float* mass, WindowWalk& walk, std::int64_t n) const {
    const auto num_edges = static_cast<std::int64_t>(params_.exponents.size());
    const auto edge_of = [&](std::int64_t bin) {
      return bin < num_edges ? keys_kept(n, params_.exponents[static_cast<std::size_t>(bin)])
                             : std::numeric_limits<std::int64_t>::max();
    };
    std::int64_t edge = edge_of(walk.bin);
    for (std::int64_t key = seen; key-- > 0; ++walk.met) {
      while (walk.met >= edge) edge = edge_of(++walk.bin);
      mass[walk.bin] += weights[key * static_cast<std::int64_t>(kLaneGroup)];
    }
  }

  const MeasureTileOps& measures_;
  MassBlock& block_;
  LaneShape shape_;
  const MassParams& params_;
  const AttendTask& task_;
  std::int64_t index_ = 0;
  std::int64_t first_row_ = 0;
  LaneFloats log2_sums_{};
};

/// One row's bins, read from the strongest (or nearest) key on.
class RowMass {
 public:
  RowMass(const float* mass, const std::uint32_t* count) : mass_(mass), count_(count) {
    for (std::size_t bin = 0; bin < kBins; ++bin) total_ += mass[bin];
  }

  double total() const { return total_; }

  /// Kept mass of the `keys` strongest: surely, and at most. @pre asked for ascending numbers.
  void strongest(std::int64_t keys, double& low, double& high) {
    while (bin_ < kBins && keys_before_ + count_[bin_] <= keys) {
      keys_before_ += count_[bin_];
      mass_before_ += mass_[bin_++];
    }
    low = high = mass_before_;
    if (bin_ == kBins || keys == keys_before_) return;
    // Some of a bin's keys: at least their share of its mass; at most what its upper edge, or the whole bin, allows.
    const double some = static_cast<double>(keys - keys_before_);
    const double upper_edge =
        std::bit_cast<float>((kBitsOfOne + 1 - static_cast<std::uint32_t>(bin_)) << (23 - kMantissaBits));
    const double whole = mass_[bin_];
    low += whole * some / static_cast<double>(count_[bin_]);
    high = std::max(low, mass_before_ + std::min(whole, some * upper_edge));
  }
  /// Mass of the bins up to and with this one. @pre asked for ascending numbers.
  double up_to(std::size_t bin) {
    while (bin_ <= bin) mass_before_ += mass_[bin_++];
    return mass_before_;
  }

 private:
  const float* mass_;
  const std::uint32_t* count_;
  double total_ = 0.0;
  std::size_t bin_ = 0;
  std::int64_t keys_before_ = 0;
  double mass_before_ = 0.0;
};

class CpuMeasureKernels final : public MeasureKernels {
 public:
  CpuMeasureKernels() : ops_(tile_ops()), measures_(measure_tile_ops()) {}

  void make(ReachBlock& block, const PartialShape& shape, const ReachParams& params,
            MemoryLedger* ledger) const override {
    const LaneShape lanes(narrow(shape));
    block.shape = narrow(shape);
    block.num_epsilons = params.epsilons.size();
    if (block.num_epsilons < 1 || block.num_epsilons > ReachParams::kMost) throw failure("reach: want 1 to 4 epsilons");
    block.log2_stick = Buffer(2 * lanes.lane_bytes(), ledger);
    block.keys = Buffer(2 * lanes.lane_bytes() * block.num_epsilons, ledger);
    block.done = Buffer(lanes.flag_bytes() + lanes.open_bytes(), ledger);
    for (Buffer* buffer : {&block.log2_stick, &block.keys, &block.done}) buffer->fill_zero();
  }

  void make(MassBlock& block, const PartialShape& shape, const MassParams& params,
            MemoryLedger* ledger) const override {
    const LaneShape lanes(narrow(shape));
    const bool by_weight = params.select == SparseSelect::kTopk;
    if (params.exponents.size() > MassParams::kMost) throw failure("kept mass: want at most 255 exponents");
    block.shape = narrow(shape);
    block.mass = Buffer(lanes.lane_bytes() * kBins, ledger);
    block.count = Buffer(by_weight ? lanes.lane_bytes() * kBins : 0, ledger);
    block.walk = Buffer(by_weight ? 0 : lanes.lane_bytes() / sizeof(float) * sizeof(WindowWalk), ledger);
    for (Buffer* buffer : {&block.mass, &block.count, &block.walk}) buffer->fill_zero();
  }

  std::size_t block_bytes(const PartialShape& shape, const ReachParams& params) const override {
    const LaneShape lanes(narrow(shape));
    return 2 * lanes.lane_bytes() * (1 + params.epsilons.size()) + lanes.flag_bytes() + lanes.open_bytes();
  }
  std::size_t block_bytes(const PartialShape& shape, const MassParams& params) const override {
    const LaneShape lanes(narrow(shape));
    if (params.select == SparseSelect::kTopk) return 2 * lanes.lane_bytes() * kBins;
    return lanes.lane_bytes() * kBins + lanes.lane_bytes() / sizeof(float) * sizeof(WindowWalk);
  }

  AttendStats attend(const AttendTask& task, const ReachParams& params, ReachBlock& block,
                     Heartbeat& heartbeat) const override {
    ReachRows rows(measures_, block, params);
    return walk(task, rows, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const MassParams& params, MassBlock& block,
                     Heartbeat& heartbeat) const override {
    MassRows rows(measures_, block, params, task);
    return walk(task, rows, heartbeat);
  }

  bool all_done(const ReachBlock& block) const override {
    const auto* flags = block.done.as<std::uint8_t>();
    return std::all_of(flags, flags + LaneShape(block.shape).total_tiles, [](std::uint8_t flag) { return flag != 0; });
  }

  std::int64_t read(const ReachBlock& block, std::int64_t slot, const ReachParams& params, std::size_t epsilon,
                    std::vector<std::int64_t>& keys) const override;
  void add_kept(const MassBlock& block, const TokenRun& query_run, const MassParams& params,
                KeptMass& sums) const override;

 private:
  template <typename Rows>
  AttendStats walk(const AttendTask& task, Rows& rows, Heartbeat& heartbeat) const {
    const FlushDenormals flush;
    Scratch scratch(static_cast<std::size_t>(task.q.shape[3]), 1, static_cast<std::size_t>(task.key_block));
    return AttendWalk<Rows>(ops_, task, scratch, rows, heartbeat).run();
  }

  const TileOps& ops_;
  const MeasureTileOps& measures_;
};

std::int64_t CpuMeasureKernels::read(const ReachBlock& block, std::int64_t slot, const ReachParams& params,
                                     std::size_t epsilon, std::vector<std::int64_t>& keys) const {
  const LaneShape shape(block.shape);
  const float least = log2_of(params.epsilons[epsilon]);
  std::int64_t never = 0;
  for (std::int64_t batch = 0; batch < block.shape.batch; ++batch) {
    for (std::int64_t row = 0; row < block.shape.rows; ++row) {
      const std::int64_t index = shape.index(batch, slot, row / kQueryTileTokens);
      const auto lane = static_cast<std::size_t>(row % kQueryTileTokens);
      const auto* counts =
          block.keys.as<std::int64_t>() + (static_cast<std::size_t>(index) * block.num_epsilons + epsilon) * kQueryTile;
      keys.push_back(counts[lane]);
      never += at_tile(block.log2_stick, index, 2 * kQueryTile)[lane] < least ? 0 : 1;
    }
  }
  return never;
}

void CpuMeasureKernels::add_kept(const MassBlock& block, const TokenRun& query_run, const MassParams& params,
                                 KeptMass& sums) const {
  const LaneShape shape(block.shape);
  const std::size_t count = params.exponents.size();
  for (std::int64_t batch = 0; batch < block.shape.batch; ++batch) {
    for (std::int64_t slot = 0; slot < block.shape.slots; ++slot) {
      for (std::int64_t row = 0; row < block.shape.rows; ++row) {
        const std::int64_t tile = shape.index(batch, slot, row / kQueryTileTokens);
        const std::int64_t place = tile * kQueryTileTokens + row % kQueryTileTokens;
        const std::size_t first = static_cast<std::size_t>(place) * kBins;
        RowMass mass(block.mass.as<float>() + first, block.count.as<std::uint32_t>() + first);
        for (std::size_t i = 0; i < count; ++i) {
          double low = 0.0;
          double high = 0.0;
          if (params.select == SparseSelect::kTopk) {
            mass.strongest(keys_kept(query_run.begin + row + 1, params.exponents[i]), low, high);
          } else {
            low = high = mass.up_to(i);
          }
          sums.low[static_cast<std::size_t>(slot) * count + i] += low / mass.total();
          sums.high[static_cast<std::size_t>(slot) * count + i] += high / mass.total();
        }
      }
    }
  }
}

}  // namespace

std::unique_ptr<MeasureKernels> make_cpu_measure_kernels() {
  return std::make_unique<CpuMeasureKernels>();
}

}  // namespace ringscan
