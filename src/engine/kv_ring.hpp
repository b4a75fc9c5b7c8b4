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

/// The keys and values that a step meets, and the slots with kv_head as these number them.
struct KeysInHand {
  AnyView k;
  AnyView v;
  std::span<const HeadSlot> slots;
};

/// The two buffers of KV that go round, and whose keys are in hand. Only the KV heads that `slots` name travel, k and v
/// in one message: k [batch, tokens, kv heads, head_dim], then v [batch, tokens, kv heads, v_dim], both dense. The
/// buffers lie in the views' space where the transport carries its memory, and keys that lie as they travel are sent
/// from there; else on the host, and what is in hand is copied to the space.
class KvRing {
 public:
  /// Takes the buffers where the schedule moves anything. The views and the transport must outlive the ring.
  KvRing(const SequenceLayout& layout, const RingSchedule& schedule, const AnyView& k, const AnyView& v,
         std::span<const HeadSlot> slots, MemorySpace& space, Transport& transport, MemoryLedger* ledger);
  /// `tokens` by rank: those that go round of each shard. The views have as many as this rank's.
  KvRing(std::vector<std::int64_t> tokens, const RingSchedule& schedule, const AnyView& k, const AnyView& v,
         std::span<const HeadSlot> slots, MemorySpace& space, Transport& transport, MemoryLedger* ledger);

  /// Starts passing on what is in hand, and receiving what comes next.
  [[nodiscard]] Ticket start(const RingStep& step);
  /// What was received is now in hand: of the space's work queue where the ticket was put in its order, too.
  void advance(const RingStep& step);

  /// The keys in hand at this step: this rank's own where it is their turn (no copy), else those received.
  AnyView keys(const RingStep& step) const;
  AnyView values(const RingStep& step) const;
  /// The slots, with kv_head as the keys in hand number them.
  std::span<const HeadSlot> slots(const RingStep& step) const;
  KeysInHand in_hand(const RingStep& step) const { return {keys(step), values(step), slots(step)}; }

  std::size_t message_bytes(int kv_rank) const;

 private:
  void pack_own();
  void pack_there(const AnyView& own, std::byte* target);
  bool lies_as_it_travels() const;
  std::span<const std::byte> sent(const RingStep& step) const;
  const void* data_in_hand() const { return is_direct_ ? current_.data() : arrived_.data(); }
  Shape4 travelling_shape(const AnyView& own, int kv_rank) const;

  std::vector<std::int64_t> tokens_;  // by rank
  int rank_;
  AnyView own_k_;
  AnyView own_v_;
  std::span<const HeadSlot> own_slots_;
  NarrowedHeads travelling_;  // of own_k_, in the order they travel
  MemorySpace* space_;
  Transport* transport_;
  bool is_direct_;        // the buffers lie in the space
  bool has_own_ = false;  // current_ holds what is sent of this rank's own
  Buffer current_;
  Buffer next_;
  Buffer arrived_;  // in a space that the transport does not carry: a copy of what is in hand
};

}  // namespace ringscan
