#pragma once
// What launches of attend() did. Their tiles are counted on the device: nobody waits for them before take().

#include <vector>

#include "core/buffer.hpp"
#include "kernels/cuda/attend.hpp"
#include "kernels/cuda/device_memory.hpp"
#include "kernels/kernels.hpp"

namespace ringscan::cuda {

class AttendCounters {
 public:
  /// Counters in `memory`, for launches on its stream. It must outlive this.
  explicit AttendCounters(DeviceMemory& memory);

  /// For a launch, which add() is to be called for. Waits for those before where they have all workspaces.
  std::uint32_t* next_workspace();
  /// The launch of `task` with next_workspace(), max_deltas on the host. Its pairs are those visible, or with
  /// `exits_early` at most those of the tiles computed.
  void add(const AttendTask& task, std::int64_t rows_a_tile, std::int64_t keys_a_tile, bool exits_early);
  /// Of all launches since the last call; waits for them.
  AttendStats take();

 private:
  /// What a launch still has to tell, beside its tiles.
  struct Untold {
    std::int64_t visible_pairs = 0;
    std::int64_t visible_tiles = 0;
    std::int64_t tile_pairs = 0;
    bool exits_early = false;
  };

  void read();

  DeviceMemory& memory_;
  Buffer workspaces_;
  std::vector<Untold> untold_;
  AttendStats told_;
};

}  // namespace ringscan::cuda
