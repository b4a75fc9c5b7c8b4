#pragma once
// Kernels on a device, for tests whose tensors are the host's: every task's tensors are copied there and back.

#include <cstddef>
#include <deque>
#include <utility>

#include "core/buffer.hpp"
#include "kernels/linear_kernels.hpp"
#include "tests/support/forwarding_kernels.hpp"

namespace ringscan::test {

/// Copies that live as long as a call.
class Staged {
 public:
  explicit Staged(MemorySpace& space) : space_(space) {}

  /// All from the first to the last element, what lies between rows too.
  template <typename View>
  View view(View host) {
    if (host.data == nullptr || element_count(host.shape) == 0) return host;
    host.data = static_cast<decltype(host.data)>(copy(host.data, span_bytes(host)));
    return host;
  }
  TensorView<float> statistic(TensorView<float> host) {
    if (host.data == nullptr || element_count(host.shape) == 0) return host;
    const std::size_t bytes = static_cast<std::size_t>(last_element(host) + 1) * sizeof(float);
    host.data = reinterpret_cast<float*>(copy(host.data, bytes));
    return host;
  }
  AttendTask task(AttendTask task) {
    task.q = view(task.q);
    task.k = view(task.k);
    task.v = view(task.v);
    return task;
  }
  /// What the last copies now hold goes back to where they came from.
  void bring_back() {
    for (const Copy& copy : copies_) space_.copy_out(copy.host, copy.buffer.data(), copy.buffer.size_bytes());
  }

 private:
  struct Copy {
    void* host;
    Buffer buffer;
  };

  template <typename View>
  static std::int64_t last_element(const View& view) {
    return (view.shape[0] - 1) * view.strides[0] + (view.shape[1] - 1) * view.strides[1] +
           (view.shape[2] - 1) * view.strides[2] + view.shape[3] - 1;
  }
  template <typename View>
  static std::size_t span_bytes(const View& view) {
    return static_cast<std::size_t>(last_element(view) + 1) * size_of(view.type);
  }
  std::byte* copy(const void* host, std::size_t bytes) {
    copies_.push_back({const_cast<void*>(host), Buffer(bytes, nullptr, space_)});
    space_.copy_in(copies_.back().buffer.data(), host, bytes);
    return copies_.back().buffer.as<std::byte>();
  }

  MemorySpace& space_;
  std::deque<Copy> copies_;
};

class StagedLinear final : public ForwardingLinear {
 public:
  explicit StagedLinear(const LinearKernels& inner) : ForwardingLinear(inner) {}

  void advance(const LinearTask& task, const LinearParams& params, LinearState& state,
               Heartbeat& heartbeat) const override {
    Staged inputs(inner_.memory()), outputs(inner_.memory());
    LinearTask there = task;
    there.q = inputs.view(task.q);
    there.k = inputs.view(task.k);
    there.v = inputs.view(task.v);
    there.log_decay = inputs.view(task.log_decay);
    there.o = outputs.view(task.o);
    inner_.advance(there, params, state, heartbeat);
    outputs.bring_back();
  }
};

class StagedKernels final : public ForwardingKernels {
 public:
  explicit StagedKernels(std::unique_ptr<Kernels> device)
      : ForwardingKernels(std::move(device)), linear_(inner().linear()) {}

  const LinearKernels& linear() const override { return linear_; }
  MemorySpace& memory() const override { return host_memory(); }
  // What is staged is given back when a call ends.
  AttendStats settled(AttendStats stats, Heartbeat& heartbeat) { return stats += inner().settle(heartbeat); }

  AttendStats attend(const AttendTask& task, const SoftmaxParams& params, LseBlock& block,
                     Heartbeat& heartbeat) override {
    Staged staged(inner().memory());
    const AttendStats stats = inner().attend(staged.task(task), params, block, heartbeat);
    return settled(stats, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const CogParams& params, LseBlock& block, Heartbeat& heartbeat) override {
    Staged staged(inner().memory());
    const AttendStats stats = inner().attend(staged.task(task), params, block, heartbeat);
    return settled(stats, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const TopkBlock& chosen, LseBlock& block, Heartbeat& heartbeat) override {
    Staged staged(inner().memory());
    const AttendStats stats = inner().attend(staged.task(task), chosen, block, heartbeat);
    return settled(stats, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const StickBreakingParams& params, StickBlock& block,
                     Heartbeat& heartbeat) override {
    Staged staged(inner().memory());
    const AttendStats stats = inner().attend(staged.task(task), params, block, heartbeat);
    return settled(stats, heartbeat);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const SoftmaxParams& params, LseBlock& block,
                          Heartbeat& heartbeat) override {
    return attend_last_staged(task, rows, params, block, heartbeat);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const CogParams& params, LseBlock& block,
                          Heartbeat& heartbeat) override {
    return attend_last_staged(task, rows, params, block, heartbeat);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const TopkBlock& chosen, LseBlock& block,
                          Heartbeat& heartbeat) override {
    return attend_last_staged(task, rows, chosen, block, heartbeat);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const StickBreakingParams& params,
                          StickBlock& block, Heartbeat& heartbeat) override {
    return attend_last_staged(task, rows, params, block, heartbeat);
  }
  void start_search(const AttendTask& sample, std::span<const std::int64_t> keys_kept, TopkBlock& block) override {
    Staged staged(inner().memory());
    inner().start_search(staged.task(sample), keys_kept, block);
  }
  void count(const AttendTask& task, TopkBlock& block, Heartbeat& heartbeat) override {
    Staged staged(inner().memory());
    inner().count(staged.task(task), block, heartbeat);
  }
  void count_and_add(const AttendTask& task, TopkBlock& block, LseBlock& all, Heartbeat& heartbeat) override {
    Staged staged(inner().memory());
    inner().count_and_add(staged.task(task), block, all, heartbeat);
  }
  void finish(const FinishTask& task, const SoftmaxParams& params, const LseBlock& block) const override {
    finish_staged(task, params, block);
  }
  void finish(const FinishTask& task, const CogParams& params, const LseBlock& block) const override {
    finish_staged(task, params, block);
  }
  void finish(const FinishTask& task, const StickBreakingParams& params, const StickBlock& block) const override {
    finish_staged(task, params, block);
  }

 private:
  static FinishTask staged_rows(FinishTask task, Staged& inputs, Staged& outputs) {
    task.v_own = inputs.view(task.v_own);
    task.remainder_value = inputs.view(task.remainder_value);
    task.o = outputs.view(task.o);
    task.statistic = outputs.statistic(task.statistic);
    task.kept_mass = outputs.statistic(task.kept_mass);
    return task;
  }

  template <typename Params, typename Block>
  void finish_staged(const FinishTask& task, const Params& params, const Block& block) const {
    Staged inputs(inner().memory()), outputs(inner().memory());
    inner().finish(staged_rows(task, inputs, outputs), params, block);
    outputs.bring_back();
  }

  template <typename Params, typename Block>
  AttendStats attend_last_staged(const AttendTask& task, const FinishTask& rows, const Params& params, Block& block,
                                 Heartbeat& heartbeat) {
    Staged inputs(inner().memory()), outputs(inner().memory());
    const AttendStats stats =
        inner().attend_last(inputs.task(task), staged_rows(rows, inputs, outputs), params, block, heartbeat);
    const AttendStats all = settled(stats, heartbeat);
    outputs.bring_back();
    return all;
  }

  StagedLinear linear_;
};

}  // namespace ringscan::test
