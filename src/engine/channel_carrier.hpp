#pragma once
// Carries blocks of channels from [my tokens, all channels] to [all tokens, my channels] and back.

#include <cstdint>
#include <span>

#include "comm/all_to_all_schedule.hpp"
#include "comm/transport.hpp"
#include "core/buffer.hpp"
#include "kernels/chela_kernels.hpp"

namespace ringscan {

/// One block of channels at a time; every function but the line ones is collective. Holds two buffers of about
/// seq_len * most_channels / world_size floats.
class ChannelCarrier {
 public:
  /// @pre layout is contiguous, and lives as long as this.
  ChannelCarrier(const SequenceLayout& layout, std::int64_t most_channels, Transport& transport,
                 const ChelaKernels& kernels, MemoryLedger* ledger);

  /// Of a block of that many channels on a rank with that many tokens.
  static std::size_t bytes(const SequenceLayout& layout, std::int64_t most_channels);

  /// `rows` [own tokens, row_stride], wherever the kernels reach them: the block's channels of this rank's tokens go
  /// out, and this rank's channels of all tokens come in.
  void carry_there(const ChannelRun& block, const float* rows, std::int64_t row_stride);
  /// The reverse, for the same block: this rank's lines go home, and `rows` get the block's channels.
  void carry_back(float* rows, std::int64_t row_stride);

  /// This rank's channels of the block.
  const ChannelRun& channels() const { return schedule_.channels; }
  /// A channel of them over the whole sequence: `line` has seq_len elements.
  void load_line(std::int64_t channel, std::span<float> line) const;
  void store_line(std::int64_t channel, std::span<const float> line);

  std::size_t sent_bytes() const { return sent_bytes_; }

 private:
  enum class Direction { kThere, kBack };
  void move(Direction direction);
  std::span<float> packed(const AllToAllStep& step);
  std::span<float> lines(const AllToAllStep& step);

  const SequenceLayout& layout_;
  Transport& transport_;
  const ChelaKernels& kernels_;
  Buffer packed_;  // [channel of the block][own token]
  Buffer lines_;   // by sender: [own channel][token of theirs]
  ChannelRun block_;
  AllToAllSchedule schedule_;
  std::size_t sent_bytes_ = 0;
};

}  // namespace ringscan
