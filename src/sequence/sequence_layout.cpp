#include "sequence/sequence_layout.hpp"

#include <algorithm>
#include <cassert>

namespace ringscan {

std::string_view name_of(LayoutKind kind) {
  return kind == LayoutKind::kZigzag ? "zigzag" : "contiguous";
}

SequenceLayout::SequenceLayout(LayoutKind kind, std::int64_t seq_len, int world_size, std::int64_t tile)
    : kind_(kind), seq_len_(seq_len), world_size_(world_size), tile_(tile) {
  assert(seq_len >= 0 && world_size >= 1 && tile >= 1);
  const std::int64_t tiles = ceil_div(seq_len, tile);
  const std::int64_t runs = static_cast<std::int64_t>(world_size) * runs_per_rank();
  // The first `tiles % runs` runs are one tile longer.
  const auto first_token = [&](std::int64_t run) {
    return std::min(seq_len, (run * (tiles / runs) + std::min(run, tiles % runs)) * tile);
  };
  for (int rank = 0; rank < world_size; ++rank) {
    std::int64_t local_begin = 0;
    for (int part = 0; part < runs_per_rank(); ++part) {
      const std::int64_t run = part == 0 ? rank : runs - 1 - rank;
      const TokenRun tokens{first_token(run), first_token(run + 1)};
      const bool adjoins = part > 0 && rank == world_size - 1;
      if (adjoins) {
        chunks_.back().run.end = tokens.end;
      } else {
        chunks_.push_back({tokens, rank, local_begin});
      }
      local_begin += tokens.size();
    }
  }
}

std::span<const Chunk> SequenceLayout::chunks(int rank) const {
  const std::size_t first = static_cast<std::size_t>(rank) * static_cast<std::size_t>(runs_per_rank());
  const std::size_t count = rank == world_size_ - 1 ? 1 : static_cast<std::size_t>(runs_per_rank());
  return std::span(chunks_).subspan(first, count);
}

std::int64_t SequenceLayout::local_tokens(int rank) const {
  std::int64_t tokens = 0;
  for (const Chunk& chunk : chunks(rank)) tokens += chunk.run.size();
  return tokens;
}

std::int64_t SequenceLayout::max_local_tokens() const {
  std::int64_t most = 0;
  for (int rank = 0; rank < world_size_; ++rank) most = std::max(most, local_tokens(rank));
  return most;
}

int SequenceLayout::rank_of(std::int64_t token_global) const {
  for (const Chunk& chunk : chunks_) {
    if (chunk.run.begin <= token_global && token_global < chunk.run.end) return chunk.rank;
  }
  assert(false && "token outside the sequence");
  return -1;
}

std::int64_t SequenceLayout::to_local(std::int64_t token_global) const {
  for (const Chunk& chunk : chunks_) {
    if (chunk.run.begin <= token_global && token_global < chunk.run.end) {
      return chunk.local_begin + token_global - chunk.run.begin;
    }
  }
  assert(false && "token outside the sequence");
  return -1;
}

std::int64_t SequenceLayout::to_global(int rank, std::int64_t token_local) const {
  for (const Chunk& chunk : chunks(rank)) {
    const std::int64_t offset = token_local - chunk.local_begin;
    if (0 <= offset && offset < chunk.run.size()) return chunk.run.begin + offset;
  }
  assert(false && "index outside the rank's shard");
  return -1;
}

}  // namespace ringscan
