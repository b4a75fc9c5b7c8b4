#pragma once
// Random input for measurements and tests.

#include <concepts>
#include <cstdint>
#include <random>
#include <vector>

namespace ringscan {

/// Of deviation 1, the same for the same seed.
inline std::vector<float> normal_values(std::integral auto count, std::uint32_t seed, float mean = 0.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(mean);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

}  // namespace ringscan
