#pragma once
// The CPU's kernels behind a memory of their own: what the engine has to do for a device, without one. Tensors that lie
// elsewhere are an error.

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "core/error.hpp"
#include "kernels/linear_kernels.hpp"
#include "tests/support/forwarding_kernels.hpp"

namespace ringscan::test {

/// Counts what it gives out, poisons it, and knows it again.
class FarMemory final : public MemorySpace {
 public:
  explicit FarMemory(bool has_queue = false) : has_queue_(has_queue) {}

  std::string_view name() const override { return "far"; }
  bool is_host() const override { return false; }
  void* allocate(std::size_t bytes) override {
    void* data = host_memory().allocate(bytes);
    std::fill_n(static_cast<unsigned char*>(data), bytes, static_cast<unsigned char>(0xff));  // NaN in every type
    const std::lock_guard lock(mutex_);
    blocks_[data] = bytes;
    return data;
  }
  void release(void* data, std::size_t bytes) noexcept override {
    {
      const std::lock_guard lock(mutex_);
      blocks_.erase(data);
    }
    host_memory().release(data, bytes);
  }
  void copy_in(void* to, const void* from, std::size_t bytes) override {
    require(to, bytes, true);
    host_memory().copy_in(to, from, bytes);
  }
  void copy_out(void* to, const void* from, std::size_t bytes) override {
    require(from, bytes, true);
    host_memory().copy_out(to, from, bytes);
  }
  void fill_zero(void* data, std::size_t bytes) override { host_memory().fill_zero(data, bytes); }
  void copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t row_bytes,
                 std::size_t rows) override {
    require(to, row_bytes, true);
    require(from, row_bytes, true);
    host_memory().copy_rows(to, to_pitch, from, from_pitch, row_bytes, rows);
  }
  /// All is done when a call returns, but callers go the way of a queue where a transport carries this memory.
  void* work_queue() const override { return has_queue_ ? const_cast<FarMemory*>(this) : nullptr; }
  std::size_t free_bytes() const override { return std::size_t{1} << 40; }
  std::size_t peak_bytes() const override { return 1; }

  void require(const void* data, std::size_t bytes, bool is_here) const {
    if (bytes == 0 || data == nullptr) return;
    const std::lock_guard lock(mutex_);
    const auto* first = static_cast<const unsigned char*>(data);
    bool found = false;
    for (const auto& [begin, size] : blocks_) {
      const auto* block = static_cast<const unsigned char*>(begin);
      found |= std::less_equal<>()(block, first) && std::less_equal<>()(first + bytes, block + size);
    }
    if (found != is_here) throw failure(is_here ? "a tensor is not in far memory" : "a tensor is in far memory");
  }

 private:
  bool has_queue_;
  mutable std::mutex mutex_;  // a shard's way in and out is another thread's
  std::map<const void*, std::size_t> blocks_;
};

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
