#pragma once

#include <map>
#include <span>
#include <vector>

#include "comm/ring_schedule.hpp"
#include "comm/transport.hpp"
#include "core/buffer.hpp"
#include "core/tensor_view.hpp"
#include "kernels/kernels.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// The KV heads that some slots name, ascending, and the slots with kv_head as a tensor of these alone numbers them.
struct NarrowedHeads {
  std::vector<int> kv_heads;
  std::vector<HeadSlot> slots;
};
NarrowedHeads narrow_to(std::span<const HeadSlot> slots);

/// The two buffers of KV that go round, on the host whatever space the views lie in, and whose keys are in hand. Only
/// the KV heads that `slots` name travel, k and v in one message: k [batch, tokens, kv heads, head_dim], then v [batch,
/// tokens, kv heads, v_dim], both dense.
class KvRing {
 public:
  /// Takes the buffers where the schedule moves anything. The views must outlive the ring.
  KvRing(const SequenceLayout& layout, const RingSchedule& schedule, int rank, const AnyView& k, const AnyView& v,
         std::span<const HeadSlot> slots, MemorySpace& space, MemoryLedger* ledger);

  /// Starts passing on what is in hand, and receiving what comes next.
  [[nodiscard]] Ticket start(const RingStep& step, Transport& transport);
  /// What was received is now in hand.
  void advance(const RingStep& step);

  /// The keys in hand at this step: this rank's own where it is their turn (no copy), else those received.
  AnyView keys(const RingStep& step) const;
  AnyView values(const RingStep& step) const;
  /// The slots, with kv_head as the keys in hand number them.
  std::span<const HeadSlot> slots(const RingStep& step) const;

  std::size_t message_bytes(int kv_rank) const;

 private:
  void pack_own();
  const void* in_hand() const { return space_->is_host() ? current_.data() : arrived_.data(); }
  Shape4 travelling_shape(const AnyView& own, int kv_rank) const;

  const SequenceLayout* layout_;
  int rank_;
  AnyView own_k_;
  AnyView own_v_;
  std::span<const HeadSlot> own_slots_;
  NarrowedHeads travelling_;  // of own_k_, in the order they travel
  MemorySpace* space_;
  Buffer current_;
  Buffer next_;
  Buffer arrived_;  // on a device: a copy of what is in hand
};

}  // namespace ringscan
