#include "engine/stick_reach.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace ringscan {
namespace {

constexpr double kNever = 1e-12;
constexpr std::size_t kMostTiles = std::size_t{1} << 22;

/// Of prefix sums, between whole numbers and past their end, where `step` is added a place.
double at(const std::vector<double>& sums, double place, double step) {
  const double last = static_cast<double>(sums.size() - 1);
  if (place <= 0.0) return 0.0;
  if (place >= last) return sums.back() + (place - last) * step;
  const auto below = static_cast<std::size_t>(place);
  return sums[below] + (place - static_cast<double>(below)) * (sums[below + 1] - sums[below]);
}

}  // namespace

ReachModel::ReachModel(double median, double percentile_99, double tile)
    : median_(median), percentile_99_(percentile_99), tile_(tile) {
  assert(median > 0.0 && percentile_99 > median && tile >= 1.0);
  const auto rows = static_cast<int>(tile);
  sums_.push_back(0.0);
  sums2_.push_back(0.0);
  while (open_.size() < kMostTiles) {
    const double met = static_cast<double>(open_.size()) * tile_;
    double log_done = 0.0;  // of all rows
    for (int row = 0; row < rows; ++row) {
      const double survival_here = met - row <= 0.0 ? 1.0 : survival(met - row);
      log_done += survival_here < 1.0 ? std::log1p(-survival_here) : -HUGE_VAL;
    }
    open_.push_back(-std::expm1(log_done));
    sums_.push_back(sums_.back() + open_.back());
    sums2_.push_back(sums2_.back() + sums_.back());
    if (open_.back() < kNever) break;
  }
}

double ReachModel::survival(double distance) const {
  if (distance <= 0.0) return 1.0;
  const double at_median = std::log(0.5);
  if (distance <= median_) return std::exp(at_median * distance / median_);
  const double slope = (std::log(0.01) - at_median) / (percentile_99_ - median_);
  return std::exp(at_median + slope * (distance - median_));
}

double ReachModel::sum_of_open(double tiles) const {
  return at(sums_, tiles, open_.back());
}

double ReachModel::sum_of_sums(double tiles) const {
  return at(sums2_, tiles, sums_.back());
}

ReachModel::Work ReachModel::own(std::int64_t tokens) const {
  const double tiles = static_cast<double>(tokens) / tile_;
  // The tiles on the diagonal count half.
  const double computed = sum_of_sums(tiles) - 0.5 * tiles * open_.front();
  return {static_cast<double>(tokens), std::max(0.0, computed) * tile_ * tile_};
}

ReachModel::Work ReachModel::before(std::int64_t queries, std::int64_t gap, std::int64_t keys) const {
  const double rows = static_cast<double>(queries) / tile_;
  const double first = static_cast<double>(gap) / tile_;
  const double run = static_cast<double>(keys) / tile_;
  // Query tile t (from 1) has met first + t tiles: sum over t of S(first + t + run) - S(first + t).
  const double computed =
      (sum_of_sums(first + run + rows) - sum_of_sums(first + run)) - (sum_of_sums(first + rows) - sum_of_sums(first));
  const double open = sum_of_open(first + rows + 1.0) - sum_of_open(first + 1.0);
  return {std::clamp(open, 0.0, rows) * tile_, std::max(0.0, computed) * tile_ * tile_};
}

double ReachModel::open_rows(std::int64_t queries, std::int64_t gap) const {
  // Row i (from 0) has met gap + i keys: the sum of its survival, as an integral of two exponentials.
  const auto area_to = [&](double distance) {
    const double near_rate = std::log(2.0) / median_;
    const double far_rate = std::log(50.0) / (percentile_99_ - median_);
    const double near = (1.0 - std::exp(-near_rate * std::min(distance, median_))) / near_rate;
    const double beyond = std::max(0.0, distance - median_);
    return near + 0.5 * (1.0 - std::exp(-far_rate * beyond)) / far_rate;
  };
  return area_to(static_cast<double>(gap + queries)) - area_to(static_cast<double>(gap));
}

}  // namespace ringscan
