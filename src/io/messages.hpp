#pragma once
// Internal to src/io: how messages name files, datasets and shapes.

#include <cstdint>
#include <span>
#include <string>

namespace ringscan {

inline std::string subject_of(const std::string& file, const std::string& dataset) {
  return file + ": dataset " + dataset;
}

/// "[1, 64, any]": -1 is any extent.
inline std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (const std::int64_t extent : shape) {
    if (text.size() > 1) text += ", ";
    text += extent < 0 ? "any" : std::to_string(extent);
  }
  return text + "]";
}

}  // namespace ringscan
