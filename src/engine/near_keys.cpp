#include "engine/near_keys.hpp"

#include <algorithm>

namespace ringscan {

NearKeys::NearKeys(const SequenceLayout& layout, std::int64_t key_block) : layout_(&layout), key_block_(key_block) {
  constexpr std::int64_t kMostTokens = 2048;
  if (layout.kind() != LayoutKind::kContiguous) return;
  const std::int64_t wanted = std::min(kMostTokens, layout.max_local_tokens() / 8);
  const std::int64_t tokens = ceil_div(wanted, key_block) * key_block;
  if (2 * tokens <= layout.max_local_tokens()) tokens_ = tokens;
}

TokenRun NearKeys::run(int rank) const {
  const TokenRun& shard = layout_->chunks(rank)[0].run;
  return {std::max(shard.begin, (shard.end - tokens_) / key_block_ * key_block_), shard.end};
}

std::vector<std::int64_t> NearKeys::tokens_by_rank() const {
  std::vector<std::int64_t> tokens;
  for (int rank = 0; rank < layout_->world_size(); ++rank) tokens.push_back(run(rank).size());
  return tokens;
}

}  // namespace ringscan
