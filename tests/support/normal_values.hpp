#pragma once
// Random input for tests that need no more than numbers.

#include <concepts>
#include <cstdint>
#include <random>
#include <vector>

namespace ringscan::test {

/// Of mean 0 and deviation 1, the same for the same seed.
inline std::vector<float> normal_values(std::integral auto count, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

}  // namespace ringscan::test
