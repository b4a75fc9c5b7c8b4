#pragma once
// Stick-breaking with early exit under the contiguous layout: the nearest keys of each shard go on ahead, as many as a
// stick of some layers takes and few beside the shard. Where they end all sticks, no shard moves.

#include <cstdint>
#include <vector>

#include "core/token_run.hpp"
#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// What passes of a job learn of their sticks; the same on all ranks. A pass whose sticks the nearest keys do not end
/// has waited for these in vain, so that the next ones do not.
struct StickLengths {
  int passes_without_near = 0;  ///< that follow, before one tries again
};

class NearKeys {
 public:
  /// None.
  NearKeys() = default;
  /// None where the layout is not contiguous or shards are short. The layout must outlive this.
  NearKeys(const SequenceLayout& layout, std::int64_t key_block);

  bool any() const { return tokens_ > 0; }
  /// A multiple of the key block. A shard may have as many, or fewer.
  std::int64_t tokens() const { return tokens_; }
  /// Those of a shard: from the grid of key blocks on, so that there may be up to a block more.
  TokenRun run(int rank) const;
  std::vector<std::int64_t> tokens_by_rank() const;

 private:
  const SequenceLayout* layout_ = nullptr;
  std::int64_t key_block_ = 1;
  std::int64_t tokens_ = 0;
};

}  // namespace ringscan
