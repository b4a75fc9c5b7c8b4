#pragma once
// Internal to src/io: finding the first number of a file that is none.

#include <cstdint>
#include <optional>
#include <string>

#include "core/element_type.hpp"
#include "core/rank_group.hpp"
#include "io/activation_file.hpp"

namespace ringscan {

/// The first offence of a rank, and of all of them.
class FiniteCheck {
 public:
  bool has_found() const { return found_.has_value(); }
  /// Index of the first NaN or infinity of `count` elements; none: all are finite.
  static std::optional<std::int64_t> first_nonfinite(const void* data, ElementType type, std::int64_t count);
  /// Notes element `index_global` of the dataset, row-major, whose value is not finite or not so in float32.
  void note(std::int64_t index_global, double value);
  /// Collective. @throws Error(kBadInput) on all ranks, for the first offence of any.
  void agree(RankGroup& group, const std::string& file, const DatasetInfo& dataset) const;

 private:
  enum class Offence : std::int64_t { kNan, kInfinity, kTooLarge };
  static constexpr std::int64_t kOffences = 3;
  std::optional<std::int64_t> found_;  // index and offence in one number, so that a minimum finds the first
};

}  // namespace ringscan
