#include "mechanism/band.hpp"

#include <algorithm>

namespace ringscan {
namespace {

/// Pairs with i - j <= delta. Written with x = i - queries.begin and y = j - keys.begin, the condition is
/// y >= x - bound; row x has clamp(K - max(0, x - bound), 0, K) such keys.
__extension__ using Wide = __int128;

Wide pairs_up_to(std::int64_t delta, const TokenRun& queries, const TokenRun& keys) {
  const std::int64_t num_queries = queries.size();
  const std::int64_t num_keys = keys.size();
  const std::int64_t bound = delta - (queries.begin - keys.begin);
  // Rows x <= bound see all keys; rows bound < x < bound + K see K - (x - bound); later rows none.
  const std::int64_t full = std::clamp<std::int64_t>(bound + 1, 0, num_queries);
  const std::int64_t first = full;
  const std::int64_t last = std::clamp<std::int64_t>(bound + num_keys, first, num_queries);  // exclusive
  const Wide rows = last - first;
  const Wide at_first = num_keys - (first - bound);
  const Wide at_last = num_keys - (last - 1 - bound);
  return Wide{full} * num_keys + (rows > 0 ? rows * (at_first + at_last) / 2 : Wide{0});
}

}  // namespace

std::int64_t count_pairs(const Band& band, const TokenRun& queries, const TokenRun& keys) {
  if (!any_pair(band, queries, keys) || band.min_delta > band.max_delta) return 0;
  const Wide pairs = pairs_up_to(band.max_delta, queries, keys) - pairs_up_to(band.min_delta - 1, queries, keys);
  return static_cast<std::int64_t>(pairs);
}

}  // namespace ringscan
