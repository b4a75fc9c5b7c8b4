#include "apps/measurement.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>

namespace ringscan {

Quartiles quartiles(std::vector<double> values) {
  assert(!values.empty());
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
  };
  return {at(0.25), at(0.5), at(0.75)};
}

int repetitions_of(double seconds, int fewest) {
  constexpr double kSeconds = 0.25;
  constexpr double kMost = 50.0;
  const double wanted = std::ceil(kSeconds / std::max(seconds, kSeconds / kMost));
  return std::max(fewest, static_cast<int>(wanted));
}

std::string extrap_line(const Parameters& parameters, const std::string& callpath, const std::string& metric,
                        double value) {
  assert(std::isfinite(value));
  nlohmann::ordered_json params = nlohmann::ordered_json::object();
  for (const auto& [name, number] : parameters) {
    if (number == std::floor(number)) {
      params[name] = static_cast<std::int64_t>(number);
    } else {
      params[name] = number;
    }
  }
  const nlohmann::ordered_json line{{"params", params}, {"callpath", callpath}, {"metric", metric}, {"value", value}};
  return line.dump() + "\n";
}

}  // namespace ringscan
