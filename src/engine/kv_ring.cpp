#include "engine/kv_ring.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/resident.hpp"

namespace ringscan {

NarrowedHeads narrow_to(std::span<const HeadSlot> slots) {
  NarrowedHeads narrowed;
  std::vector<int>& heads = narrowed.kv_heads;
  for (const HeadSlot& slot : slots) heads.push_back(slot.kv_head);
  std::sort(heads.begin(), heads.end());
  heads.erase(std::unique(heads.begin(), heads.end()), heads.end());
  for (const HeadSlot& slot : slots) {
    const auto place = std::lower_bound(heads.begin(), heads.end(), slot.kv_head);
    narrowed.slots.push_back({slot.q_head, static_cast<int>(place - heads.begin())});
  }
  return narrowed;
}

namespace {

std::vector<std::int64_t> tokens_by_rank(const SequenceLayout& layout) {
  std::vector<std::int64_t> tokens;
  for (int rank = 0; rank < layout.world_size(); ++rank) tokens.push_back(layout.local_tokens(rank));
  return tokens;
}

}  // namespace

KvRing::KvRing(const SequenceLayout& layout, const RingSchedule& schedule, const AnyView& k, const AnyView& v,
               std::span<const HeadSlot> slots, MemorySpace& space, Transport& transport, MemoryLedger* ledger)
    : KvRing(tokens_by_rank(layout), schedule, k, v, slots, space, transport, ledger) {}

KvRing::KvRing(std::vector<std::int64_t> tokens, const RingSchedule& schedule, const AnyView& k, const AnyView& v,
               std::span<const HeadSlot> slots, MemorySpace& space, Transport& transport, MemoryLedger* ledger)
    : tokens_(std::move(tokens)),
      rank_(transport.rank()),
      own_k_(k),
      own_v_(v),
      own_slots_(slots),
      travelling_(narrow_to(slots)),
      space_(&space),
      transport_(&transport),
      is_direct_(transport.carries(space)) {
  std::size_t most = 0;
  bool sends_own = false;
  for (const RingStep& step : schedule) {
    if (step.send_to >= 0) most = std::max(most, message_bytes(step.kv_rank));
    if (step.recv_from >= 0) most = std::max(most, message_bytes(step.next_kv_rank));
    sends_own |= step.send_to >= 0 && step.kv_rank == rank_;
  }
  if (most == 0) return;
  MemorySpace& buffers = is_direct_ ? space : host_memory();
  MemoryLedger* const counted = buffers.is_host() ? ledger : nullptr;
  current_ = Buffer(most, counted, buffers);
  next_ = Buffer(most, counted, buffers);
  if (!is_direct_) arrived_ = Buffer(most, nullptr, space);
  has_own_ = sends_own && !lies_as_it_travels();
  if (has_own_) pack_own();
}

bool KvRing::lies_as_it_travels() const {
  if (!is_direct_ || space_->is_host()) return false;
  const auto is_whole = [&](const AnyView& own) {
    return own.shape[2] == std::ssize(travelling_.kv_heads) && own.strides == dense_strides(own.shape);
  };
  const auto k_bytes = static_cast<std::size_t>(element_count(own_k_.shape)) * size_of(own_k_.type);
  const bool adjoin = own_v_.shape[3] == 0 || static_cast<const std::byte*>(own_k_.data) + k_bytes == own_v_.data;
  return is_whole(own_k_) && (own_v_.shape[3] == 0 || is_whole(own_v_)) && adjoin;
}

Shape4 KvRing::travelling_shape(const AnyView& own, int kv_rank) const {
  return {own.shape[0], tokens_[static_cast<std::size_t>(kv_rank)],
          static_cast<std::int64_t>(travelling_.kv_heads.size()), own.shape[3]};
}

std::size_t KvRing::message_bytes(int kv_rank) const {
  return static_cast<std::size_t>(element_count(travelling_shape(own_k_, kv_rank)) +
                                  element_count(travelling_shape(own_v_, kv_rank))) *
         size_of(own_k_.type);
}

/// Where the views lie: runs of neighbouring heads at a time.
void KvRing::pack_there(const AnyView& own, std::byte* target) {
  const std::vector<int>& heads = travelling_.kv_heads;
  const auto row_bytes = static_cast<std::size_t>(own.shape[3]) * size_of(own.type);
  const auto from_pitch = static_cast<std::size_t>(own.strides[1]) * size_of(own.type);
  const auto tokens = static_cast<std::size_t>(own.shape[1]);
  for (std::int64_t batch = 0; batch < own.shape[0]; ++batch, target += tokens * heads.size() * row_bytes) {
    for (std::size_t first = 0, last = 0; first < heads.size(); first = last) {
      for (last = first + 1; last < heads.size() && heads[last] == heads[last - 1] + 1;) ++last;
      space_->copy_rows(target + first * row_bytes, heads.size() * row_bytes, own.row(batch, 0, heads[first]),
                        from_pitch, (last - first) * row_bytes, tokens);
    }
  }
}

void KvRing::pack_own() {
  std::byte* target = current_.bytes().data();
  for (const AnyView* resident : {&own_k_, &own_v_}) {
    if (resident->shape[3] == 0 || resident->shape[1] == 0) continue;  // keys alone, or none
    if (is_direct_ && !space_->is_host()) {
      pack_there(*resident, target);
      target += static_cast<std::size_t>(element_count(travelling_shape(*resident, rank_))) * size_of(resident->type);
      continue;
    }
    const HostCopy copy(*resident, *space_);
    const AnyView* const own = &copy.view();
    const auto row_bytes = static_cast<std::size_t>(own->shape[3]) * size_of(own->type);
    for (std::int64_t batch = 0; batch < own->shape[0]; ++batch) {
      for (std::int64_t token = 0; token < own->shape[1]; ++token) {
        for (const int head : travelling_.kv_heads) {
          std::memcpy(target, own->row(batch, token, head), row_bytes);
          target += row_bytes;
        }
      }
    }
  }
}

std::span<const std::byte> KvRing::sent(const RingStep& step) const {
  const bool from_shard = step.kv_rank == rank_ && !has_own_;
  const void* const data = from_shard ? own_k_.data : current_.data();
  return {static_cast<const std::byte*>(data), message_bytes(step.kv_rank)};
}

Ticket KvRing::start(const RingStep& step) {
  Transfer transfer;
  if (step.send_to >= 0) {
    transfer.to_rank = step.send_to;
    transfer.send = sent(step);
  }
  if (step.recv_from >= 0) {
    transfer.from_rank = step.recv_from;
    transfer.receive = next_.bytes().first(message_bytes(step.next_kv_rank));
  }
  return transport_->exchange(transfer);
}

void KvRing::advance(const RingStep& step) {
  if (step.recv_from < 0) return;
  std::swap(current_, next_);
  if (!is_direct_) space_->copy_in(arrived_.data(), current_.data(), message_bytes(step.next_kv_rank));
}

AnyView KvRing::keys(const RingStep& step) const {
  if (step.kv_rank == rank_) return own_k_;
  return dense_any_view(data_in_hand(), own_k_.type, travelling_shape(own_k_, step.kv_rank));
}

AnyView KvRing::values(const RingStep& step) const {
  if (step.kv_rank == rank_) return own_v_;
  const Shape4 k_shape = travelling_shape(own_k_, step.kv_rank);
  const std::byte* data = static_cast<const std::byte*>(data_in_hand()) +
                          static_cast<std::size_t>(element_count(k_shape)) * size_of(own_k_.type);
  return dense_any_view(data, own_v_.type, travelling_shape(own_v_, step.kv_rank));
}

std::span<const HeadSlot> KvRing::slots(const RingStep& step) const {
  return step.kv_rank == rank_ ? own_slots_ : std::span<const HeadSlot>(travelling_.slots);
}

}  // namespace ringscan
