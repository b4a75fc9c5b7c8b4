#include "engine/halo.hpp"

#include <algorithm>
#include <vector>

namespace ringscan {
namespace {

using Message = std::vector<float>;

Message pack(const TokenRows& own, const TokenRun& tokens) {
  const std::int64_t row = own.rows.shape[3];
  Message message;
  message.reserve(static_cast<std::size_t>(own.rows.shape[0] * tokens.size() * row));
  for (std::int64_t batch = 0; batch < own.rows.shape[0]; ++batch) {
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
      const float* from = own.rows.row(batch, token - own.tokens.begin, 0);
      message.insert(message.end(), from, from + row);
    }
  }
  return message;
}

void unpack(const Message& message, const TokenRun& tokens, const TokenRun& halo_tokens,
            const TensorView<float>& halo) {
  const std::int64_t row = halo.shape[3];
  const float* from = message.data();
  for (std::int64_t batch = 0; batch < halo.shape[0]; ++batch) {
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token, from += row) {
      std::copy_n(from, row, halo.row(batch, token - halo_tokens.begin, 0));
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
  std::vector<Message> sent, received;
  for (const HaloPart& part : schedule.sends) sent.push_back(pack(own, part.tokens));
  for (const HaloPart& part : schedule.receives) {
    received.emplace_back(static_cast<std::size_t>(halo.shape[0] * part.tokens.size() * row));
  }
  std::size_t sent_bytes = 0;
  std::vector<Ticket> moving;
  for (std::size_t i = 0; i < sent.size(); ++i) {
    Transfer transfer;
    transfer.to_rank = schedule.sends[i].peer;
    transfer.send = std::as_bytes(std::span(sent[i]));
    sent_bytes += transfer.send.size();
    moving.push_back(transport.exchange(transfer));
  }
  for (std::size_t i = 0; i < received.size(); ++i) {
    Transfer transfer;
    transfer.from_rank = schedule.receives[i].peer;
    transfer.receive = std::as_writable_bytes(std::span(received[i]));
    moving.push_back(transport.exchange(transfer));
  }
  for (Ticket& ticket : moving) ticket.wait();
  for (std::size_t i = 0; i < received.size(); ++i) {
    unpack(received[i], schedule.receives[i].tokens, schedule.halo, halo);
  }
  return sent_bytes;
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
