#pragma once
// TMA's descriptions of the views that the attend kernels read.

#include <cuda.h>

#include <cstdint>

#include "core/tensor_view.hpp"

namespace ringscan::cuda {

/// True where TMA can read the view: 16-bit elements, data and strides multiples of 16 bytes.
bool tma_readable(const AnyView& view);

/// Boxes of `rows` rows by 64 columns of q: coordinates (dim, row, head, batch).
CUtensorMap query_map(const AnyView& q, int rows);

/// Boxes of a whole tile of `keys` rows by 64 columns: coordinates (dim, 0, first key, head, batch). Row 8 j + u of the
/// box is key u * (keys / 8) + j of the tile. @pre the view has at least `keys` keys.
CUtensorMap permuted_key_map(const AnyView& view, int keys);

}  // namespace ringscan::cuda
