#pragma once
// Kernels that hand everything on to others: a base for those that look at, or move, what goes by.

#include <memory>
#include <string>
#include <utility>

#include "kernels/kernels.hpp"
#include "kernels/linear_kernels.hpp"

namespace ringscan::test {

class ForwardingKernels : public Kernels {
 public:
  explicit ForwardingKernels(std::unique_ptr<Kernels> inner) : inner_(std::move(inner)) {}

  std::string_view name() const override { return inner_->name(); }
  std::string device() const override { return inner_->device(); }
  MemorySpace& memory() const override { return inner_->memory(); }
  MemorySpace& staging() const override { return inner_->staging(); }
  std::int64_t piece_keys() const override { return inner_->piece_keys(); }
  bool takes_gaps() const override { return inner_->takes_gaps(); }
  AttendStats settle(Heartbeat& heartbeat) override { return inner_->settle(heartbeat); }
  void make(LseBlock& block, const PartialShape& shape, MemoryLedger* ledger) const override {
    inner_->make(block, shape, ledger);
  }
  void make(StickBlock& block, const PartialShape& shape, MemoryLedger* ledger) const override {
    inner_->make(block, shape, ledger);
  }
  void make(TopkBlock& block, const PartialShape& shape, MemoryLedger* ledger) const override {
    inner_->make(block, shape, ledger);
  }
  std::size_t block_bytes(const Mechanism& mechanism, const PartialShape& shape) const override {
    return inner_->block_bytes(mechanism, shape);
  }
  std::size_t scratch_bytes(std::int64_t head_dim, std::int64_t v_dim, std::int64_t key_block) const override {
    return inner_->scratch_bytes(head_dim, v_dim, key_block);
  }
  AttendStats attend(const AttendTask& task, const SoftmaxParams& params, LseBlock& block,
                     Heartbeat& heartbeat) override {
    return inner_->attend(task, params, block, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const CogParams& params, LseBlock& block, Heartbeat& heartbeat) override {
    return inner_->attend(task, params, block, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const TopkBlock& chosen, LseBlock& block, Heartbeat& heartbeat) override {
    return inner_->attend(task, chosen, block, heartbeat);
  }
  AttendStats attend(const AttendTask& task, const StickBreakingParams& params, StickBlock& block,
                     Heartbeat& heartbeat) override {
    return inner_->attend(task, params, block, heartbeat);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const SoftmaxParams& params, LseBlock& block,
                          Heartbeat& heartbeat) override {
    return inner_->attend_last(task, rows, params, block, heartbeat);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const CogParams& params, LseBlock& block,
                          Heartbeat& heartbeat) override {
    return inner_->attend_last(task, rows, params, block, heartbeat);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const TopkBlock& chosen, LseBlock& block,
                          Heartbeat& heartbeat) override {
    return inner_->attend_last(task, rows, chosen, block, heartbeat);
  }
  AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const StickBreakingParams& params,
                          StickBlock& block, Heartbeat& heartbeat) override {
    return inner_->attend_last(task, rows, params, block, heartbeat);
  }
  bool gains_by_attend_last() const override { return inner_->gains_by_attend_last(); }
  void start_search(const AttendTask& sample, std::span<const std::int64_t> keys_kept, TopkBlock& block) override {
    inner_->start_search(sample, keys_kept, block);
  }
  void count(const AttendTask& task, TopkBlock& block, Heartbeat& heartbeat) override {
    inner_->count(task, block, heartbeat);
  }
  void count_and_add(const AttendTask& task, TopkBlock& block, LseBlock& all, Heartbeat& heartbeat) override {
    inner_->count_and_add(task, block, all, heartbeat);
  }
  bool narrow(TopkBlock& block) const override { return inner_->narrow(block); }
  bool all_done(const StickBlock& block) const override { return inner_->all_done(block); }
  void join(LseBlock& near, const LseBlock& far) const override { inner_->join(near, far); }
  void join(StickBlock& near, const StickBlock& far) const override { inner_->join(near, far); }
  void finish(const FinishTask& task, const SoftmaxParams& params, const LseBlock& block) const override {
    inner_->finish(task, params, block);
  }
  void finish(const FinishTask& task, const CogParams& params, const LseBlock& block) const override {
    inner_->finish(task, params, block);
  }
  void finish(const FinishTask& task, const StickBreakingParams& params, const StickBlock& block) const override {
    inner_->finish(task, params, block);
  }
  const LinearKernels& linear() const override { return inner_->linear(); }

 protected:
  Kernels& inner() const { return *inner_; }

 private:
  std::unique_ptr<Kernels> inner_;
};

/// Likewise for linear attention; tensors come in the host's memory, whatever the others want. @pre `inner` outlives
/// it.
class ForwardingLinear : public LinearKernels {
 public:
  explicit ForwardingLinear(const LinearKernels& inner) : inner_(inner) {}

  void make(LinearState& state, const LinearShape& shape, MemoryLedger* ledger) const override {
    inner_.make(state, shape, ledger);
  }
  std::size_t state_bytes(const LinearShape& shape) const override { return inner_.state_bytes(shape); }
  std::size_t linear_scratch_bytes(const LinearShape& shape) const override {
    return inner_.linear_scratch_bytes(shape);
  }
  std::size_t slots_a_state() const override { return inner_.slots_a_state(); }
  bool keeps_summaries() const override { return inner_.keeps_summaries(); }
  void advance(const LinearTask& task, const LinearParams& params, LinearState& state,
               Heartbeat& heartbeat) const override {
    inner_.advance(task, params, state, heartbeat);
  }
  void settle(Heartbeat& heartbeat) const override { inner_.settle(heartbeat); }
  void join(LinearState& near, const LinearState& far) const override { inner_.join(near, far); }
  void load(const LinearState& state, std::int64_t batch, std::int64_t slot, std::span<double> s,
            std::span<double> n) const override {
    inner_.load(state, batch, slot, s, n);
  }
  void store(LinearState& state, std::int64_t batch, std::int64_t slot, std::span<const double> s,
             std::span<const double> n) const override {
    inner_.store(state, batch, slot, s, n);
  }

 protected:
  const LinearKernels& inner_;
};

}  // namespace ringscan::test
