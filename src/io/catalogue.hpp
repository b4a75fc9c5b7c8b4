#pragma once
// Internal to src/io: what is in a file. Rank 0 looks, alone and through the POSIX driver; the others are told.

#include <map>
#include <string>
#include <vector>

#include "io/activation_file.hpp"

namespace ringscan {

struct CatalogueEntry {
  DatasetInfo info;
  bool is_byte_swapped = false;
};

struct Catalogue {
  std::vector<CatalogueEntry> entries;  ///< in the natural order of their paths
  std::map<std::string, std::string> attributes;

  const CatalogueEntry* find(const std::string& path) const;
  /// Names of the groups under /layers that hold datasets; {""} where there are none, but datasets elsewhere.
  std::vector<std::string> layers() const;

  /// Bytes for broadcast(), and back.
  std::string packed() const;
  static Catalogue unpacked(const std::string& bytes);
};

/// @throws Error(kBadInput): no such file, not HDF5, truncated or damaged.
Catalogue read_catalogue(const std::string& path);

/// "/layers/2/q"; layer "" is the root.
std::string dataset_path(const std::string& layer, const std::string& dataset);

/// Runs of digits compare as numbers: "2" before "10".
bool natural_less(const std::string& a, const std::string& b);

}  // namespace ringscan
