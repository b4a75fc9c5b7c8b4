#include "engine/halo.hpp"

#include <algorithm>
#include <cassert>
#include <span>
#include <vector>

namespace ringscan {
namespace {

/// Rows that lie one behind the other go as they lie; others by way of a buffer.
bool lie_together(const Shape4& shape, const Shape4& strides) {
  return shape[0] == 1 && strides[1] == shape[3];
}

std::span<const float> outgoing(const TokenRows& own, const TokenRun& tokens, Buffer& packed) {
  const std::int64_t row = own.rows.shape[3];
  const auto count = static_cast<std::size_t>(own.rows.shape[0] * tokens.size() * row);
  if (lie_together(own.rows.shape, own.rows.strides)) {
    return {own.rows.row(0, tokens.begin - own.tokens.begin, 0), count};
  }
  packed = Buffer(count * sizeof(float));
  float* to = packed.as<float>();
  for (std::int64_t batch = 0; batch < own.rows.shape[0]; ++batch) {
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token, to += row) {
      std::copy_n(own.rows.row(batch, token - own.tokens.begin, 0), row, to);
    }
  }
  return {packed.as<float>(), count};
}

std::span<float> incoming(const TensorView<float>& halo, std::int64_t first_token, const TokenRun& tokens,
                          Buffer& packed) {
  const auto count = static_cast<std::size_t>(halo.shape[0] * tokens.size() * halo.shape[3]);
  if (lie_together(halo.shape, halo.strides)) return {halo.row(0, tokens.begin - first_token, 0), count};
  packed = Buffer(count * sizeof(float));
  return {packed.as<float>(), count};
}

void unpack(const Buffer& packed, const TokenRun& tokens, std::int64_t first_token, const TensorView<float>& halo) {
  const std::int64_t row = halo.shape[3];
  const float* from = packed.as<float>();
  for (std::int64_t batch = 0; batch < halo.shape[0]; ++batch) {
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token, from += row) {
      std::copy_n(from, row, halo.row(batch, token - first_token, 0));
    }
  }
}

}  // namespace

TokenRows tail_on_host(const TokenRows& own, std::int64_t width, MemorySpace& space, MemoryLedger* ledger,
                       Buffer& copies) {
  if (space.is_host()) return own;
  const Shape4& shape = own.rows.shape;
  TokenRows tail;
  tail.tokens = {std::max(own.tokens.begin, own.tokens.end - width), own.tokens.end};
  const std::int64_t rows = tail.tokens.size();
  const Shape4 tail_shape{shape[0], rows, 1, shape[3]};
  const auto item_bytes = static_cast<std::size_t>(rows * shape[3]) * sizeof(float);
  copies = Buffer(static_cast<std::size_t>(shape[0]) * item_bytes, ledger);
  const TensorView<float> copied = dense_view(copies.as<float>(), tail_shape);
  for (std::int64_t batch = 0; batch < shape[0] && item_bytes > 0; ++batch) {
    space.copy_out(copied.row(batch, 0, 0), own.rows.row(batch, shape[1] - rows, 0), item_bytes);
  }
  tail.rows = {copied.data, copied.shape, copied.strides};
  return tail;
}

std::size_t carry_halo(const HaloSchedule& schedule, const TokenRows& own, const TensorView<const float>& initial,
                       const TensorView<float>& halo, Transport& transport) {
  const std::int64_t width = schedule.halo.size();
  const std::int64_t row = halo.shape[3];
  for (std::int64_t batch = 0; batch < halo.shape[0] && halo.data != nullptr; ++batch) {
    for (std::int64_t i = 0; i < width && schedule.halo.begin + i < 0; ++i) {
      float* to = halo.row(batch, i, 0);
      std::fill_n(to, row, 0.0f);
      // Token -1 stands last in `initial`.
      if (initial.data != nullptr) std::copy_n(initial.row(batch, schedule.halo.begin + i + width, 0), row, to);
    }
  }
  std::vector<Buffer> sent(schedule.sends.size()), received(schedule.receives.size());
  std::size_t sent_bytes = 0;
  std::vector<Ticket> moving;
  for (std::size_t i = 0; i < sent.size(); ++i) {
    Transfer transfer;
    transfer.to_rank = schedule.sends[i].peer;
    transfer.send = std::as_bytes(outgoing(own, schedule.sends[i].tokens, sent[i]));
    sent_bytes += transfer.send.size();
    moving.push_back(transport.exchange(transfer));
  }
  for (std::size_t i = 0; i < received.size(); ++i) {
    Transfer transfer;
    transfer.from_rank = schedule.receives[i].peer;
    transfer.receive =
        std::as_writable_bytes(incoming(halo, schedule.halo.begin, schedule.receives[i].tokens, received[i]));
    moving.push_back(transport.exchange(transfer));
  }
  for (Ticket& ticket : moving) ticket.wait();
  for (std::size_t i = 0; i < received.size(); ++i) {
    if (received[i].size_bytes() > 0) unpack(received[i], schedule.receives[i].tokens, schedule.halo.begin, halo);
  }
  return sent_bytes;
}

// Transfer i of every rank takes batch item i on to the next rank with tokens and in from the one before: it needs the
// neighbours' transfers i, and none else. So all transfers in the order of i agree with every rank's own order, which
// NCCL asks for, and no ranks wait for each other in a circle: the first rank with tokens only sends, the last one only
// receives, ranks without tokens are nobody's neighbours. Both sides of a transfer are under way at once; as two
// transfers, one behind the other on a stream, a rank's sending would wait for its receiving, and so from rank to rank.
MovingHalo::MovingHalo(const HaloSchedule& schedule, const TokenRows& own, const TensorView<float>& halo,
                       Transport& transport) {
  assert(schedule.sends.size() <= 1 && schedule.receives.size() <= 1);
  if (schedule.sends.empty() && schedule.receives.empty()) return;
  const std::int64_t row = own.rows.shape[3];
  for (std::int64_t batch = 0; batch < own.rows.shape[0]; ++batch) {
    Transfer transfer;
    for (const HaloPart& part : schedule.sends) {
      transfer.to_rank = part.peer;
      transfer.send = std::as_bytes(std::span(own.rows.row(batch, part.tokens.begin - own.tokens.begin, 0),
                                              static_cast<std::size_t>(part.tokens.size() * row)));
    }
    for (const HaloPart& part : schedule.receives) {
      transfer.from_rank = part.peer;
      transfer.receive = std::as_writable_bytes(std::span(halo.row(batch, part.tokens.begin - schedule.halo.begin, 0),
                                                          static_cast<std::size_t>(part.tokens.size() * row)));
    }
    sent_bytes_ += transfer.send.size();
    moving_.push_back(transport.exchange(transfer));
  }
}

void MovingHalo::order() {
  for (Ticket& ticket : moving_) ticket.order();
}

void MovingHalo::beat() {
  for (Ticket& ticket : moving_) ticket.poll();
}

void MovingHalo::wait() {
  for (Ticket& ticket : moving_) ticket.wait();
}

void last_rows(const HaloSchedule& schedule, const TensorView<const float>& halo, const TokenRows& own,
               const TensorView<float>& last) {
  const std::int64_t width = last.shape[1];
  const std::int64_t own_begin = schedule.halo.end;  // the rank's first token
  for (std::int64_t batch = 0; batch < last.shape[0]; ++batch) {
    for (std::int64_t i = 0; i < width; ++i) {
      const std::int64_t token = own.tokens.end - width + i;
      const float* from = token >= own_begin ? own.rows.row(batch, token - own.tokens.begin, 0)
                                             : halo.row(batch, token - schedule.halo.begin, 0);
      std::copy_n(from, last.shape[3], last.row(batch, i, 0));
    }
  }
}

}  // namespace ringscan
