#pragma once
// The shard map: global token <-> (rank, local index).

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/token_run.hpp"

namespace ringscan {

enum class LayoutKind { kContiguous, kZigzag };

std::string_view name_of(LayoutKind kind);

/// A half-open run of global tokens and where it lives.
struct Chunk {
  TokenRun run;
  int rank = 0;
  std::int64_t local_begin = 0;  ///< index, among the rank's own tokens, of the run's first one
};

/// Which tokens each rank holds.
///
/// contiguous: rank r has run r of P. zigzag: rank r has runs r and 2P-1-r of 2P, so that causal work is even. Runs
/// begin on multiples of `tile` and their lengths differ by at most one tile (the sequence's last, ragged tile apart);
/// runs may be empty. A rank's tokens are kept in ascending order. A chunk is a run; the last rank's two adjoin under
/// zigzag, and are one, so that it meets keys in half as many walks.
class SequenceLayout {
 public:
  /// @pre seq_len >= 0, world_size >= 1, tile >= 1.
  SequenceLayout(LayoutKind kind, std::int64_t seq_len, int world_size, std::int64_t tile);

  LayoutKind kind() const { return kind_; }
  std::int64_t seq_len() const { return seq_len_; }
  int world_size() const { return world_size_; }
  std::int64_t tile() const { return tile_; }

  /// The rank's chunks in ascending order, empty ones included: one, or two (zigzag, but for the last rank).
  std::span<const Chunk> chunks(int rank) const;
  std::int64_t local_tokens(int rank) const;
  std::int64_t max_local_tokens() const;

  /// @pre 0 <= token_global < seq_len.
  int rank_of(std::int64_t token_global) const;
  std::int64_t to_local(std::int64_t token_global) const;
  std::int64_t to_global(int rank, std::int64_t token_local) const;

 private:
  int runs_per_rank() const { return kind_ == LayoutKind::kZigzag ? 2 : 1; }

  LayoutKind kind_;
  std::int64_t seq_len_;
  int world_size_;
  std::int64_t tile_;
  std::vector<Chunk> chunks_;  // by rank, then ascending: runs_per_rank() of each rank but the last, which has one
};

}  // namespace ringscan
