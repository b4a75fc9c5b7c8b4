#pragma once
// Internal to src/io: a dataset opened by all ranks, and its transfers.

#include <cstdint>
#include <functional>
#include <string>

#include "io/activation_file.hpp"
#include "io/hdf5_handles.hpp"

namespace ringscan {

/// A dataset opened for transfers by all ranks.
class OpenDataset {
 public:
  enum class Direction { kRead, kWrite };

  /// Collective. At most `max_elements` go in one transfer; they are dense in memory, in the file's own type.
  /// @pre the Hdf5Lock is held. @throws Error as `blame` has it.
  OpenDataset(FileAccess& access, hid_t file, const std::string& path, std::int64_t max_elements,
              const Hdf5Blame& blame);

  /// Collective (a rank without elements passes a null `select`). What `select` marks in the file space goes to or from
  /// `elements` elements at `memory`. The rank takes part even where `select` throws, which is thrown on afterwards.
  /// @pre the Hdf5Lock is not held.
  void transfer(Direction direction, void* memory, std::int64_t elements, const std::function<void(hid_t)>& select,
                const Hdf5Blame& blame, TransferRecord& record);
  /// Closes under the lock.
  ~OpenDataset();
  OpenDataset(const OpenDataset&) = delete;
  OpenDataset& operator=(const OpenDataset&) = delete;

 private:
  void note_mode(TransferRecord& record) const;

  bool is_parallel_;
  Hdf5Dataset dataset_;
  Hdf5Type type_;
  Hdf5Space file_space_;
  Hdf5Space memory_space_;
  Hdf5Properties transfer_properties_;
};

/// Collective. Calls `transfer` for 0 .. transfers-1 on every rank whatever fails on the way, so that nobody waits for
/// a rank with an error; then agrees on the outcome.
void run_transfers(RankGroup& group, std::int64_t transfers, const std::function<void(std::size_t)>& transfer);

}  // namespace ringscan
