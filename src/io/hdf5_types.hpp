#pragma once
// Internal to src/io: element types <-> HDF5 floating-point types. Callers hold the Hdf5Lock.

#include <cstddef>
#include <optional>
#include <string>

#include "core/element_type.hpp"
#include "io/hdf5_handles.hpp"

namespace ringscan {

/// The HDF5 type of `type` in this machine's byte order.
Hdf5Type make_hdf5_type(ElementType type);

/// Which of our types this is, by its bits and not by its name, in either byte order; none: it is no such float.
std::optional<ElementType> recognise_hdf5_type(hid_t type);

/// True where the type's bytes are in the order that this machine does not use.
bool is_byte_swapped(hid_t type);

/// For messages: "64-bit integer", "text", "compound".
std::string describe_hdf5_type(hid_t type);

/// Turns the bytes of each element round, in place. HDF5 could, but would give up the collective transfer for it.
void swap_bytes(void* data, ElementType type, std::size_t count);

}  // namespace ringscan
