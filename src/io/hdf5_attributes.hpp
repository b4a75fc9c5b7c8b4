#pragma once
// Internal to src/io: attributes of a file's root, such as h5py reads and writes. Callers hold the Hdf5Lock.

#include <cstdint>
#include <map>
#include <string>

#include "io/hdf5_handles.hpp"

namespace ringscan {

/// Each as text: numbers in decimal, lists of them in brackets. @throws Error(kBadInput) naming `file_path`.
std::map<std::string, std::string> read_root_attributes(hid_t file, const std::string& file_path);

/// One of that name is replaced. Text becomes a UTF-8 string of variable length, which h5py reads as str.
void write_root_attribute(hid_t file, const std::string& name, const std::string& text);
void write_root_attribute(hid_t file, const std::string& name, double number);
void write_root_attribute(hid_t file, const std::string& name, std::int64_t number);

}  // namespace ringscan
