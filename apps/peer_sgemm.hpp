#pragma once

#include <cstdint>
#include <optional>

namespace ringscan {

/// oneDNN's single-precision product of two [size, size] matrices on one thread, in GFLOP/s; the best of a few.
/// None where this build has no oneDNN.
std::optional<double> measure_onednn_sgemm_gflops(std::int64_t size);

}  // namespace ringscan
