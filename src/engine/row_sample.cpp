#include "engine/row_sample.hpp"

#include <numeric>
#include <random>
#include <set>

namespace ringscan {

std::vector<std::int64_t> sample_rows(std::int64_t seq_len, std::int64_t count, std::uint64_t seed) {
  constexpr std::int64_t kTile = 64;
  if (count >= seq_len) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(seq_len));
    std::iota(all.begin(), all.end(), std::int64_t{0});
    return all;
  }
  std::set<std::int64_t> rows;
  const auto add = [&](std::int64_t row) {
    if (0 <= row && row < seq_len) rows.insert(row);
  };
  const std::int64_t middle = seq_len / 2;
  for (const std::int64_t row :
       {std::int64_t{0}, std::int64_t{1}, kTile - 1, kTile, middle - 1, middle, seq_len - 2, seq_len - 1}) {
    add(row);
  }
  // Taken modulo by hand: the standard's distributions differ between libraries.
  std::mt19937_64 random(seed);
  const auto draw = [&](std::int64_t below) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(below));
  };
  while (static_cast<std::int64_t>(rows.size()) < count) {
    const bool at_edge = draw(2) == 0;
    add(at_edge ? draw(seq_len / kTile + 1) * kTile - draw(2) : draw(seq_len));
  }
  return {rows.begin(), rows.end()};
}

}  // namespace ringscan
