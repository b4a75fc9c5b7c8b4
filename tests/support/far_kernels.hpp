#pragma once
// The CPU's kernels behind a memory of their own: what the engine has to do for a device, without one. Tensors that lie
// elsewhere are an error.

#include <memory>
#include <utility>

#include "core/error.hpp"
#include "kernels/linear_kernels.hpp"
#include "tests/support/far_memory.hpp"
#include "tests/support/forwarding_kernels.hpp"

namespace ringscan::test {

/// Linear attention's states and tensors are far, too.
class FarLinear final : public ForwardingLinear {
 public:
  FarLinear(const LinearKernels& inner, FarMemory& memory) : ForwardingLinear(inner), memory_(memory) {}

  MemorySpace& memory() const override { return memory_; }
  void make(LinearState& state, const LinearShape& shape, MemoryLedger*) const override {
    inner_.make(state, shape, nullptr);
    Buffer far(state.data.size_bytes(), nullptr, memory_);
    if (far.size_bytes() > 0) memory_.copy_in(far.data(), state.data.data(), far.size_bytes());
    state.data = std::move(far);
  }
  std::size_t slots_a_state() const override { return 3; }
  bool keeps_summaries() const override { return true; }
  void advance(const LinearTask& task, const LinearParams& params, LinearState& state,
               Heartbeat& heartbeat) const override {
    for (const AnyView* view : {&task.q, &task.k, &task.v, &task.log_decay}) {
      if (view->data != nullptr && element_count(view->shape) > 0) memory_.require(view->data, 1, true);
    }
    memory_.require(task.o.data, 1, true);
    if (static_cast<std::size_t>(state.shape.slots) > slots_a_state()) throw failure("a state of too many slots");
    if (task.summary != nullptr) keep_summary(task);
    inner_.advance(task, params, state, heartbeat);
  }

 private:
  /// The CPU has nothing to keep: what a summary is of, so that it is known again.
  struct SummaryOf {
    const void* k;
    std::int64_t tokens;
    std::size_t slots;
    int first_head;
    bool operator==(const SummaryOf&) const = default;
  };
  void keep_summary(const LinearTask& task) const {
    const SummaryOf wanted{task.k.data, task.k.shape[1], task.slots.size(), task.slots.front().q_head};
    if (task.summary->size_bytes() == 0) {
      *task.summary = Buffer(sizeof wanted, nullptr, memory_);
      memory_.copy_in(task.summary->data(), &wanted, sizeof wanted);
      return;
    }
    SummaryOf found{};
    memory_.copy_out(&found, task.summary->data(), sizeof found);
    if (task.o.data == nullptr || found != wanted) throw failure("a summary of another run");
  }

  FarMemory& memory_;
};

class FarKernels final : public ForwardingKernels {
 public:
  FarKernels() : ForwardingKernels(make_cpu_kernels()), linear_(inner().linear(), memory_) {}

  const LinearKernels& linear() const override { return linear_; }

  std::string_view name() const override { return "far"; }
  MemorySpace& memory() const override { return memory_; }
  MemorySpace& staging() const override { return memory_; }
  std::int64_t piece_keys() const override { return std::int64_t{1} << 40; }

  AttendStats attend(const AttendTask& task, const SoftmaxParams& params, LseBlock& block,
                     Heartbeat& heartbeat) override {
    return inner().attend(checked(task), params, block, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const CogParams& params, LseBlock& block, Heartbeat& heartbeat) override {
    return inner().attend(checked(task), params, block, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const TopkBlock& chosen, LseBlock& block, Heartbeat& heartbeat) override {
    return inner().attend(checked(task), chosen, block, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const StickBreakingParams& params, StickBlock& block,
                     Heartbeat& heartbeat) override {
    return inner().attend(checked(task), params, block, heartbeat);
  }
  void start_search(const AttendTask& sample, std::span<const std::int64_t> keys_kept, TopkBlock& block) override {
    inner().start_search(checked(sample), keys_kept, block);
  }
  void count(const AttendTask& task, TopkBlock& block, Heartbeat& heartbeat) override {
    inner().count(checked(task), block, heartbeat);
  }
  void finish(const FinishTask& task, const SoftmaxParams& params, const LseBlock& block) const override {
    inner().finish(checked(task), params, block);
  }
  void finish(const FinishTask& task, const CogParams& params, const LseBlock& block) const override {
    inner().finish(checked(task), params, block);
  }
  void finish(const FinishTask& task, const StickBreakingParams& params, const StickBlock& block) const override {
    inner().finish(checked(task), params, block);
  }

 private:
  const AttendTask& checked(const AttendTask& task) const {
    for (const AnyView* view : {&task.q, &task.k, &task.v}) {
      if (element_count(view->shape) > 0) memory_.require(view->data, 1, true);
    }
    return task;
  }
  const FinishTask& checked(const FinishTask& task) const {
    memory_.require(task.o.data, 1, true);
    memory_.require(task.statistic.data, 1, true);
    memory_.require(task.kept_mass.data, 1, true);
    memory_.require(task.v_own.data, 1, true);
    memory_.require(task.remainder_value.data, 1, true);
    return task;
  }

  mutable FarMemory memory_;
  FarLinear linear_;
};

}  // namespace ringscan::test
