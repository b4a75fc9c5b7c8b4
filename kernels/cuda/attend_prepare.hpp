#pragma once
// What the host prepares for the Hopper kernels, whichever they are.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

#include "kernels/cuda/attend.hpp"
#include "kernels/cuda/attend_params_sm90.hpp"

namespace ringscan::cuda {

/// @throws Error(kFailure) "CUDA attend: `wanted`" unless it holds.
void require(bool holds, const std::string& wanted);
/// @throws Error(kFailure) where the current device is not of compute capability 9.x.
void require_hopper();
/// q and k (v is not looked at) as TMA and the matrix instructions take them.
void require_scores(const AttendTask& task);

/// Of queries in tiles of `rows_a_tile`, their keys and the order of the work; loadable_keys is that of k.
AttendParams score_params(const AttendTask& task, std::int64_t rows_a_tile, std::uint32_t* workspace);

/// Device memory for what is queued on the stream while this lives: allocated and freed there.
class LaunchMemory {
 public:
  explicit LaunchMemory(cudaStream_t stream) : stream_(stream) {}
  ~LaunchMemory();
  LaunchMemory(const LaunchMemory&) = delete;
  LaunchMemory& operator=(const LaunchMemory&) = delete;

  /// Unwritten. @pre the first call.
  void* allocate(std::size_t bytes);

 private:
  cudaStream_t stream_;
  void* data_ = nullptr;
};

/// A dense copy with at least `tile` keys where the run has fewer, freed on the stream behind the launch.
class PaddedKeys {
 public:
  PaddedKeys(const AnyView& view, std::int64_t tile, cudaStream_t stream);

  const AnyView& view() const { return view_; }

 private:
  AnyView view_;
  LaunchMemory memory_;
};

/// Cuts the last items of a launch where that pays, and has the partials of their parts, freed on the stream behind
/// their joining.
class ItemParts {
 public:
  /// @pre the launch has carried partials, if only for these items, and no row may end early.
  ItemParts(AttendParams& params, cudaStream_t stream);

 private:
  LaunchMemory memory_;
};

/// Empty lists of what a launch cannot do, freed on the stream behind it and the one that does these tasks again.
class OverflowLists {
 public:
  /// @pre nothing in `params` that num_tasks() comes from changes any more.
  OverflowLists(AttendParams& params, cudaStream_t stream);

 private:
  LaunchMemory memory_;
};

}  // namespace ringscan::cuda
