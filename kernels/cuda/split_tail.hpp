#pragma once
// Split-KV for the end of a launch. A persistent grid takes whole items as its multiprocessors come free, so that in
// the last round some wait for others: an item's time where items are alike (4,096 items on 132 multiprocessors are 31
// rounds and 4 items), half of one where they are not. So the last items are cut along their keys, as far as that gains
// more than the parts cost: each a beginning and an end of its own, and a partial that is joined afterwards.

#include <cstdint>
#include <functional>

namespace ringscan::cuda {

struct TailSplit {
  std::uint32_t num_items = 0;  ///< at the end of the order
  std::uint32_t num_parts = 1;  ///< of each; 1: none is cut
};

/// Memory that the partials of a launch's parts may take.
inline constexpr std::int64_t kMostPartBytes = std::int64_t{64} << 20;

/// `key_tiles(item)`: tiles of keys that the item walks. `partial_bytes`: of the partial of a whole tile of queries.
TailSplit split_tail(std::uint32_t num_items, std::uint32_t num_multiprocessors, std::int64_t partial_bytes,
                     const std::function<std::int64_t(std::uint32_t)>& key_tiles);

}  // namespace ringscan::cuda
