#include "io/finite_check.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/error.hpp"
#include "io/messages.hpp"

namespace ringscan {

std::optional<std::int64_t> FiniteCheck::first_nonfinite(const void* data, ElementType type, std::int64_t count) {
  constexpr std::int64_t kBlock = 1 << 16;
  return visit_element_type(type, [&](auto element) -> std::optional<std::int64_t> {
    const auto* elements = static_cast<const decltype(element)*>(data);
    for (std::int64_t begin = 0; begin < count; begin += kBlock) {
      const std::int64_t end = std::min(count, begin + kBlock);
      if (all_finite(elements + begin, type, static_cast<std::size_t>(end - begin))) continue;
      for (std::int64_t i = begin; i < end; ++i) {
        if (!all_finite(elements + i, type, 1)) return i;
      }
    }
    return std::nullopt;
  });
}

void FiniteCheck::note(std::int64_t index_global, double value) {
  const Offence offence = std::isnan(value)   ? Offence::kNan
                          : std::isinf(value) ? Offence::kInfinity
                                              : Offence::kTooLarge;
  found_ = index_global * kOffences + static_cast<std::int64_t>(offence);
}

void FiniteCheck::agree(RankGroup& group, const std::string& file, const DatasetInfo& dataset) const {
  constexpr std::int64_t kNothing = std::numeric_limits<std::int64_t>::max();
  const std::int64_t first = group.all_reduce(found_.value_or(kNothing), ReduceOp::kMin);
  if (first == kNothing) return;
  std::vector<std::int64_t> position(dataset.shape.size());
  std::int64_t index = first / kOffences;
  for (std::size_t axis = position.size(); axis-- > 0;) {
    position[axis] = index % dataset.shape[axis];
    index /= dataset.shape[axis];
  }
  const auto offence = static_cast<Offence>(first % kOffences);
  const std::string axes = position.size() == 4 ? "[batch, token, head, dim] = " : "[batch, token, head] = ";
  const std::string what = offence == Offence::kNan        ? "NaN"
                           : offence == Offence::kInfinity ? "infinity"
                                                           : "a number too large for float32";
  Error error = bad_input(subject_of(file, dataset.path) + ": " + what + " found at " + axes + shape_text(position) +
                          ", finite numbers wanted (--allow-nonfinite takes it)");
  error.set_collective();
  throw error;
}

}  // namespace ringscan
