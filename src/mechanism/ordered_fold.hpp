#pragma once

#include <algorithm>
#include <cassert>
#include <utility>
#include <vector>

#include "core/token_run.hpp"

namespace ringscan {

/// Keeps partial results by the run of keys they stand for, and joins neighbours as they arrive, so that a mechanism
/// whose combine is not commutative may meet its keys in any order. `P` is any movable partial result.
template <typename P>
class OrderedFold {
 public:
  struct Part {
    TokenRun keys;
    P partial;
  };

  /// Adds the partial result of `keys`; joins it with the parts that touch it. `join(near, far)` makes `near` the join
  /// of both (near: later in the sequence).
  /// @pre `keys` is not empty and overlaps no part.
  template <typename Join>
  void add(const TokenRun& keys, P partial, Join&& join) {
    auto place =
        std::find_if(parts_.begin(), parts_.end(), [&](const Part& part) { return part.keys.begin > keys.begin; });
    auto added = parts_.insert(place, Part{keys, std::move(partial)});
    if (added + 1 != parts_.end() && added->keys.end == (added + 1)->keys.begin) added = join_with_next(added, join);
    if (added != parts_.begin() && (added - 1)->keys.end == added->keys.begin) join_with_next(added - 1, join);
  }

  /// The part whose keys begin where `keys` end: walking on near first, it can take them in place. Null where none is.
  /// The caller that does so then calls extend().
  Part* nearer_neighbour(const TokenRun& keys) {
    for (Part& part : parts_) {
      if (part.keys.begin == keys.end) return &part;
    }
    return nullptr;
  }

  /// Says that `part` has taken in `keys`; joins it with the part on their far side if they touch.
  template <typename Join>
  void extend(Part* part, const TokenRun& keys, Join&& join) {
    assert(part->keys.begin == keys.end);
    part->keys.begin = keys.begin;
    const auto place = parts_.begin() + (part - parts_.data());
    if (place != parts_.begin() && (place - 1)->keys.end == place->keys.begin) join_with_next(place - 1, join);
  }

  /// Ascending in the sequence; the last is the nearest.
  std::vector<Part>& parts() { return parts_; }
  const std::vector<Part>& parts() const { return parts_; }

 private:
  template <typename Join>
  typename std::vector<Part>::iterator join_with_next(typename std::vector<Part>::iterator far, Join&& join) {
    auto near = far + 1;
    assert(far->keys.end <= near->keys.begin);
    join(near->partial, far->partial);
    near->keys.begin = far->keys.begin;
    return parts_.erase(far);  // now at the joined part
  }

  std::vector<Part> parts_;
};

}  // namespace ringscan
