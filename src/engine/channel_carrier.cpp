#include "engine/channel_carrier.hpp"

#include <algorithm>
#include <vector>

#include "engine/block_rows.hpp"

namespace ringscan {
namespace {

std::int64_t most_lines(const SequenceLayout& layout, std::int64_t most_channels) {
  return (most_channels + layout.world_size() - 1) / layout.world_size();
}

}  // namespace

ChannelCarrier::ChannelCarrier(const SequenceLayout& layout, std::int64_t most_channels, Transport& transport,
                               const ChelaKernels& kernels, MemoryLedger* ledger)
    : layout_(layout),
      transport_(transport),
      kernels_(kernels),
      packed_(floats_bytes(layout.local_tokens(transport.rank()) * most_channels), ledger),
      lines_(floats_bytes(layout.seq_len() * most_lines(layout, most_channels)), ledger) {}

std::size_t ChannelCarrier::bytes(const SequenceLayout& layout, std::int64_t most_channels) {
  return floats_bytes(layout.max_local_tokens() * most_channels + layout.seq_len() * most_lines(layout, most_channels));
}

std::span<float> ChannelCarrier::packed(const AllToAllStep& step) {
  const std::int64_t tokens = schedule_.tokens.size();
  if (step.send_to < 0) return {};
  return {packed_.as<float>() + (step.send_channels.begin - block_.begin) * tokens,
          static_cast<std::size_t>(step.send_channels.size() * tokens)};
}

std::span<float> ChannelCarrier::lines(const AllToAllStep& step) {
  const std::int64_t channels = schedule_.channels.size();
  if (step.recv_from < 0) return {};
  return {lines_.as<float>() + step.recv_tokens.begin * channels,
          static_cast<std::size_t>(step.recv_tokens.size() * channels)};
}

void ChannelCarrier::move(Direction direction) {
  const bool there = direction == Direction::kThere;
  std::vector<Ticket> moving;
  for (const AllToAllStep& step : schedule_.steps) {
    const std::span<float> rows = packed(step), lines = this->lines(step);
    const std::span<float> out = there ? rows : lines, in = there ? lines : rows;
    if (step.send_to == transport_.rank() && step.recv_from == transport_.rank()) {
      std::copy(out.begin(), out.end(), in.begin());
      continue;
    }
    Transfer transfer;
    transfer.to_rank = there ? step.send_to : step.recv_from;
    transfer.send = std::as_bytes(out);
    transfer.from_rank = there ? step.recv_from : step.send_to;
    transfer.receive = std::as_writable_bytes(in);
    sent_bytes_ += transfer.send.size();
    moving.push_back(transport_.exchange(transfer));
  }
  for (Ticket& ticket : moving) ticket.wait();
}

void ChannelCarrier::carry_there(const ChannelRun& block, const float* rows, std::int64_t row_stride) {
  block_ = block;
  schedule_ = make_all_to_all_schedule(layout_, block, transport_.rank());
  const std::int64_t tokens = schedule_.tokens.size();
  kernels_.transpose({rows + block.begin, row_stride, packed_.as<float>(), tokens, tokens, block.size()});
  move(Direction::kThere);
}

void ChannelCarrier::carry_back(float* rows, std::int64_t row_stride) {
  move(Direction::kBack);
  const std::int64_t tokens = schedule_.tokens.size();
  kernels_.transpose({packed_.as<float>(), tokens, rows + block_.begin, row_stride, block_.size(), tokens});
}

void ChannelCarrier::load_line(std::int64_t channel, std::span<float> line) const {
  const std::int64_t channels = schedule_.channels.size();
  for (const AllToAllStep& step : schedule_.steps) {
    if (step.recv_from < 0) continue;
    const TokenRun& run = step.recv_tokens;
    const float* from = lines_.as<float>() + run.begin * channels + (channel - schedule_.channels.begin) * run.size();
    std::copy_n(from, run.size(), line.data() + run.begin);
  }
}

void ChannelCarrier::store_line(std::int64_t channel, std::span<const float> line) {
  const std::int64_t channels = schedule_.channels.size();
  for (const AllToAllStep& step : schedule_.steps) {
    if (step.recv_from < 0) continue;
    const TokenRun& run = step.recv_tokens;
    float* to = lines_.as<float>() + run.begin * channels + (channel - schedule_.channels.begin) * run.size();
    std::copy_n(line.data() + run.begin, run.size(), to);
  }
}

}  // namespace ringscan
