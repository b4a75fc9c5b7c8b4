#pragma once
// Files as other programs write them, through HDF5's C interface.

#include <cstdint>
#include <string>
#include <vector>

#include "core/element_type.hpp"

namespace ringscan::test {

/// One dataset of sample_value()s, with what may be unusual about it.
struct ForeignDataset {
  std::string path = "/q";
  std::vector<std::int64_t> shape = {2, 13, 3, 4};
  ElementType type = ElementType::kFloat32;
  bool is_big_endian = false;
  std::vector<std::int64_t> chunk = {};  ///< empty: contiguous
  int gzip_level = 0;
  /// Replaces single elements: [index, value].
  std::vector<std::pair<std::int64_t, double>> except = {};
};

/// Makes or extends the file.
void add_foreign_dataset(const std::string& file, const ForeignDataset& dataset);

/// An integer dataset, a text one and a scalar, in a file made or extended.
void add_non_floats(const std::string& file);

/// `name` becomes a soft link to `target`; neither need be there.
void add_soft_link(const std::string& file, const std::string& target, const std::string& name);

/// Where in the file the first chunk stands, or a contiguous dataset's data, and their bytes.
std::pair<std::int64_t, std::int64_t> find_data(const std::string& file, const std::string& dataset);

/// Overwrites bytes with 0xff.
void spoil(const std::string& file, std::int64_t offset, std::int64_t bytes);

}  // namespace ringscan::test
