#pragma once
// Linear attention with decay on one rank: a state goes over a run of tokens, with or without output.

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/buffer.hpp"
#include "core/memory_space.hpp"
#include "core/tensor_view.hpp"
#include "kernels/kernels.hpp"
#include "mechanism/mechanism.hpp"

namespace ringscan {

struct LinearShape {
  std::int64_t batch = 0;
  std::int64_t slots = 0;  ///< query heads in the group
  std::int64_t head_dim = 0;
  std::int64_t v_dim = 0;
  bool has_normalizer = false;  ///< Normalizer::kZ: the state has n
};

/// What the tokens so far leave for those behind: Lambda, S and n of each batch item and slot, fp32 (and on the CPU
/// what rounding took), in the backend's own memory and arrangement: opaque but to it, and movable to another rank as
/// the bytes of `data`.
struct LinearState {
  LinearShape shape;
  Buffer data;
};

/// A run of tokens. @pre head_dim and v_dim between 1 and 256; k and v of one element type (float32, float16 or
/// bfloat16), q and log_decay of any of these.
struct LinearTask {
  AnyView q;  ///< [batch, tokens, any heads, head_dim]; not read where `o` is not wanted
  AnyView k;  ///< [batch, tokens, any kv heads, head_dim]
  AnyView v;  ///< [batch, tokens, any kv heads, v_dim]
  std::span<const HeadSlot> slots;
  AnyView log_decay;                       ///< Decay::kToken: [batch, tokens, any columns, 1], <= 0
  std::span<const int> decay_columns;      ///< Decay::kToken: of log_decay, one a slot
  std::span<const double> head_log_decay;  ///< Decay::kHead: <= 0, one a slot
  double scale = 1.0;
  MutableAnyView o;  ///< [batch, tokens, any heads, v_dim], row q_head of each slot; data == nullptr: no output
  /// Where not null: an advance() leaves here what of its work does not depend on the state before the run, and a later
  /// one over the same run, with all else as it was but `o`, goes on from it. Empty at first, the backend's own
  /// afterwards; stays empty where LinearKernels::keeps_summaries() is false.
  Buffer* summary = nullptr;
};

/// Chunks of a run begin on multiples of this from its first token; sums are rounded chunk by chunk, so that the bits
/// of a result depend on where chunks begin and on nothing else.
inline constexpr std::int64_t kLinearChunk = 64;

/// Useful FLOPs of `tokens` tokens of one head, with output: in chunks of C tokens the lower triangle of Q K^T and its
/// product with V, (C + 1) / 2 pairs a token with 2 (head_dim + v_dim) each; Q S and K^T V, 2 head_dim v_dim each.
constexpr double linear_output_flops(double tokens, double head_dim, double v_dim) {
  return tokens * (static_cast<double>(kLinearChunk + 1) * (head_dim + v_dim) + 4.0 * head_dim * v_dim);
}

class LinearKernels {
 public:
  virtual ~LinearKernels() = default;

  /// Where all views lie that tasks name, and states; lists and slots are always the host's.
  virtual MemorySpace& memory() const { return host_memory(); }

  /// A state at the identity (no token yet), and its bytes.
  virtual void make(LinearState& state, const LinearShape& shape, MemoryLedger* ledger) const = 0;
  virtual std::size_t state_bytes(const LinearShape& shape) const = 0;
  /// Scratch that advance()s take beside their arguments, summaries with it, where the slots of `shape` are cut into
  /// states of slots_a_state().
  virtual std::size_t linear_scratch_bytes(const LinearShape& shape) const = 0;

  /// Slots that callers should have in one state where they can: more than 1 where a launch and a transfer cost more
  /// than the work on a head. No state may have more if it is more than 1.
  virtual std::size_t slots_a_state() const { return 1; }
  /// Whether LinearTask::summary saves work: an output always begins with a summary then.
  virtual bool keeps_summaries() const { return false; }

  /// Where `state` stands before the run, it stands behind it afterwards; rows of `o` are rounded once and written.
  virtual void advance(const LinearTask& task, const LinearParams& params, LinearState& state,
                       Heartbeat& heartbeat) const = 0;

  /// As Kernels::settle(): the functions above and join() may return before their work is through, on a device.
  virtual void settle(Heartbeat&) const {}

  /// `near` becomes the state behind both runs: far's tokens, then near's.
  virtual void join(LinearState& near, const LinearState& far) const = 0;
  /// `to` becomes the state behind all these runs, nearest first. @pre `to` is at the identity, and of their shape.
  virtual void fold(LinearState& to, std::span<const LinearState> runs) const {
    for (const LinearState& run : runs) join(to, run);
  }

  /// Of one batch item and slot, exact in fp64: S [head_dim, v_dim] and, where the state has it, n [head_dim] (else
  /// empty). store() keeps Lambda as it is.
  virtual void load(const LinearState& state, std::int64_t batch, std::int64_t slot, std::span<double> s,
                    std::span<double> n) const = 0;
  virtual void store(LinearState& state, std::int64_t batch, std::int64_t slot, std::span<const double> s,
                     std::span<const double> n) const = 0;
};

}  // namespace ringscan
