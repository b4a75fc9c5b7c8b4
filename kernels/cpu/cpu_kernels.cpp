// The CPU backend: checks what it is given, and hands it to the walk with the functions of this machine.

#include <algorithm>
#include <string>
#include <utility>

#include "core/error.hpp"
#include "hwy/targets.h"
#include "kernels/chela_kernels.hpp"
#include "kernels/cpu/attend_rows.hpp"
#include "kernels/cpu/attend_walk.hpp"
#include "kernels/cpu/finish.hpp"
#include "kernels/cpu/flush_denormals.hpp"
#include "kernels/cpu/linear_kernels.hpp"
#include "kernels/cpu/topk_rows.hpp"
#include "kernels/cpu/topk_search.hpp"
#include "kernels/kernels.hpp"
#include "kernels/ssm_kernels.hpp"

namespace ringscan {
namespace {

using namespace cpu;

constexpr std::int64_t kMaxDim = 256;

void require(bool holds, const char* wanted) {
  if (!holds) throw failure(std::string("cpu kernels: ") + wanted);
}

bool is_input_type(ElementType type) {
  return type != ElementType::kFloat64;
}

void check_task(const AttendTask& task, const PartialShape& shape) {
  const std::int64_t head_dim = task.q.shape[3];
  const std::int64_t v_dim = task.v.shape[3];
  const auto batch = shape.batch;
  require(head_dim >= 1 && head_dim <= kMaxDim, "head_dim from 1 to 256");
  require(v_dim >= 0 && v_dim <= kMaxDim, "v_dim from 1 to 256, or 0 for weights alone");
  require(task.k.shape[3] == head_dim && v_dim == shape.v_dim, "k as wide as q, and v as wide as the accumulators");
  require(task.q.shape[0] == batch && task.k.shape[0] == batch && task.v.shape[0] == batch, "one batch size for all");
  require(task.q.shape[1] == task.query_run.size() && shape.rows == task.query_run.size(),
          "as many query rows as tokens in their run");
  require(task.k.shape[1] == task.key_run.size() && task.v.shape[1] == task.key_run.size(),
          "as many key rows as tokens in their run");
  require(task.max_deltas.empty() || static_cast<std::int64_t>(task.max_deltas.size()) == shape.rows,
          "a largest distance for each query row, or none");
  require(static_cast<std::int64_t>(task.slots.size()) == shape.slots, "a slot for each accumulated head");
  require(is_input_type(task.q.type) && is_input_type(task.k.type) && is_input_type(task.v.type),
          "inputs as float32, float16 or bfloat16");
  require(task.key_block > 0 && task.key_block % static_cast<std::int64_t>(kKeyTile) == 0,
          "key_block a multiple of 64");
  for (const HeadSlot& slot : task.slots) {
    require(0 <= slot.q_head && slot.q_head < task.q.shape[2], "q heads within their view");
    require(0 <= slot.kv_head && slot.kv_head < task.k.shape[2] && slot.kv_head < task.v.shape[2],
            "kv heads within their views");
  }
}

template <typename Rows, typename Block, typename... Params>
AttendStats attend_with(const TileOps& ops, const AttendTask& task, Block& block, Heartbeat& heartbeat,
                        Params&&... params) {
  check_task(task, block.shape);
  const FlushDenormals flush;
  Scratch scratch(static_cast<std::size_t>(task.q.shape[3]), static_cast<std::size_t>(task.v.shape[3]),
                  static_cast<std::size_t>(task.key_block));
  Rows rows(block, scratch, std::forward<Params>(params)...);
  return AttendWalk<Rows>(ops, task, scratch, rows, heartbeat).run();
}

bool agrees(const PartialShape& a, const PartialShape& b) {
  return a.batch == b.batch && a.rows == b.rows && a.slots == b.slots && a.v_dim == b.v_dim;
}

class CpuKernels final : public Kernels {
 public:
  CpuKernels() : ops_(tile_ops()) {}

  std::string_view name() const override { return "cpu"; }
  std::string device() const override {
    const std::string target = hwy::TargetName(ops_.target);
    if (target.starts_with("AVX3")) return "AVX-512";
    return target == "SCALAR" ? "scalar" : target;
  }

  void make(LseBlock& block, const PartialShape& shape, MemoryLedger* ledger) const override;
  void make(StickBlock& block, const PartialShape& shape, MemoryLedger* ledger) const override;
  void make(TopkBlock& block, const PartialShape& shape, MemoryLedger* ledger) const override;
  std::size_t block_bytes(const Mechanism& mechanism, const PartialShape& shape) const override {
    return std::visit([&](const auto& params) { return block_bytes_of(LaneShape(shape), params); }, mechanism);
  }
  std::size_t scratch_bytes(std::int64_t head_dim, std::int64_t v_dim, std::int64_t key_block) const override {
    return Scratch::bytes(static_cast<std::size_t>(head_dim), static_cast<std::size_t>(v_dim),
                          static_cast<std::size_t>(key_block));
  }

  AttendStats attend(const AttendTask& task, const SoftmaxParams&, LseBlock& block, Heartbeat& heartbeat) override {
    return attend_with<SoftmaxRows>(ops_, task, block, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const CogParams&, LseBlock& block, Heartbeat& heartbeat) override {
    return attend_with<CogRows>(ops_, task, block, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const StickBreakingParams& params, StickBlock& block,
                     Heartbeat& heartbeat) override {
    return attend_with<StickRows>(ops_, task, block, heartbeat, params);
  }
  AttendStats attend(const AttendTask& task, const TopkBlock& chosen, LseBlock& block, Heartbeat& heartbeat) override {
    return attend_with<ChosenRows>(ops_, task, block, heartbeat, chosen);
  }
  void start_search(const AttendTask& sample, std::span<const std::int64_t> keys_kept, TopkBlock& block) override;
  void count(const AttendTask& task, TopkBlock& block, Heartbeat& heartbeat) override {
    attend_with<CountRows>(ops_, task, block, heartbeat, nullptr);
  }
  void count_and_add(const AttendTask& task, TopkBlock& block, LseBlock& all, Heartbeat& heartbeat) override {
    attend_with<CountRows>(ops_, task, block, heartbeat, &all);
  }
  bool narrow(TopkBlock& block) const override { return narrow_search(block); }

  bool all_done(const StickBlock& block) const override {
    const auto* flags = block.done.as<std::uint8_t>();
    return std::all_of(flags, flags + LaneShape(block.shape).total_tiles, [](std::uint8_t flag) { return flag != 0; });
  }

  void join(LseBlock& near, const LseBlock& far) const override;
  void join(StickBlock& near, const StickBlock& far) const override;

  void finish(const FinishTask& task, const SoftmaxParams&, const LseBlock& block) const override {
    finish_rows(ops_, task, block);
  }
  void finish(const FinishTask& task, const CogParams&, const LseBlock& block) const override {
    finish_rows(ops_, task, block);
  }
  void finish(const FinishTask& task, const StickBreakingParams& params, const StickBlock& block) const override {
    finish_rows(ops_, task, params.remainder, block);
  }

  const LinearKernels& linear() const override { return linear_kernels(); }

 private:
  const TileOps& ops_;
};

void CpuKernels::make(LseBlock& block, const PartialShape& shape, MemoryLedger* ledger) const {
  const LaneShape lanes(shape);
  block.shape = shape;
  block.out = Buffer(lanes.out_bytes(), ledger);
  block.max = Buffer(lanes.lane_bytes(), ledger);
  block.sum = Buffer(lanes.lane_bytes(), ledger);
  block.out.fill_zero();
  std::fill_n(block.max.as<float>(), lanes.lane_bytes() / sizeof(float), kNoMax);
  block.sum.fill_zero();
}

void CpuKernels::make(StickBlock& block, const PartialShape& shape, MemoryLedger* ledger) const {
  const LaneShape lanes(shape);
  block.shape = shape;
  block.out = Buffer(lanes.out_bytes(), ledger);
  block.log2_stick = Buffer(2 * lanes.lane_bytes(), ledger);
  block.done = Buffer(lanes.flag_bytes() + lanes.open_bytes(), ledger);
  block.out.fill_zero();
  block.log2_stick.fill_zero();
  block.done.fill_zero();
}

void CpuKernels::make(TopkBlock& block, const PartialShape& shape, MemoryLedger* ledger) const {
  block.shape = {shape.batch, shape.rows, shape.slots, 0};
  const LaneShape lanes(block.shape);
  block.rows = Buffer(search_row_bytes(lanes), ledger);
  block.bins = Buffer(bin_bytes(lanes), ledger);
  block.open = Buffer(lanes.flag_bytes() + lanes.open_bytes(), ledger);
  block.bins.fill_zero();
  block.open.fill_zero();
}

void CpuKernels::start_search(const AttendTask& sample, std::span<const std::int64_t> keys_kept, TopkBlock& block) {
  require(static_cast<std::int64_t>(keys_kept.size()) == block.shape.rows, "a number of keys to keep for each row");
  begin_search(block, sample.query_run, keys_kept);
  // A few keys spread over all, whoever sees them.
  constexpr std::int64_t kSampleKeys = 256;
  const std::int64_t step = std::max<std::int64_t>(1, ceil_div(sample.k.shape[1], kSampleKeys));
  AttendTask few = sample;
  few.k.shape[1] /= step;
  few.k.strides[1] *= step;
  few.v = few.k;
  few.v.shape[3] = 0;
  few.key_run = {0, few.k.shape[1]};
  few.band = Band{};
  few.key_block = kSampleKeys;
  Heartbeat heartbeat;
  attend_with<SampleRows>(ops_, few, block, heartbeat, sample.query_run);
}

void CpuKernels::join(LseBlock& near, const LseBlock& far) const {
  require(agrees(near.shape, far.shape), "blocks of one shape to join");
  const FlushDenormals flush;
  const LaneShape shape(near.shape);
  for (std::int64_t index = 0; index < shape.total_tiles; ++index) {
    ops_.join_lse(lanes_at(near, shape, index), lanes_at(far, shape, index), shape.out_rows);
  }
}

void CpuKernels::join(StickBlock& near, const StickBlock& far) const {
  require(agrees(near.shape, far.shape), "blocks of one shape to join");
  const FlushDenormals flush;
  const LaneShape shape(near.shape);
  auto* done = near.done.as<std::uint8_t>();
  const auto* far_done = far.done.as<std::uint8_t>();
  for (std::int64_t index = 0; index < shape.total_tiles; ++index) {
    ops_.join_stick(lanes_at(near, shape, index), lanes_at(far, shape, index), shape.out_rows);
    // A stick that was used up in either part is used up.
    done[index] = static_cast<std::uint8_t>(done[index] | far_done[index]);
  }
}

}  // namespace

std::unique_ptr<SsmKernels> Kernels::make_ssm() const {
  return make_cpu_ssm_kernels();
}

std::unique_ptr<ChelaKernels> Kernels::make_chela() const {
  return make_cpu_chela_kernels();
}

std::unique_ptr<Kernels> make_cpu_kernels() {
  return std::make_unique<CpuKernels>();
}

}  // namespace ringscan
