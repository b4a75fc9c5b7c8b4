#pragma once
// How the ranks of a job open one HDF5 file: as processes through MPI-IO, or as threads of one process.

#include <memory>

#include "core/rank_group.hpp"

namespace ringscan {

/// One a rank (and one more for a thread that reads and writes beside the computation). It borrows the group, whose
/// collectives it uses to agree on errors; all functions that take one are collective over that group. HDF5 is called
/// by one thread of a process at a time. Over MPI-IO the threads of a process must not have collective calls on two
/// files under way at once: ranks could take them up in different orders.
class FileAccess {
 public:
  explicit FileAccess(RankGroup& group) : group_(&group) {}
  virtual ~FileAccess() = default;

  RankGroup& group() const { return *group_; }
  /// True where transfers go through MPI-IO, and so can be collective in HDF5's sense.
  virtual bool is_parallel() const = 0;
  /// A file access property list (hid_t; the caller closes it). Collective.
  virtual long long make_access_properties() const = 0;
  /// For closing a file while an exception unwinds: true once all ranks are here, and so can close together; false
  /// where some stay away (an error of this rank alone, which ends the job), after a few seconds.
  virtual bool all_ranks_unwind() { return true; }

 private:
  RankGroup* group_;
};

/// Ranks as threads of one process, or a single process: HDF5's own POSIX driver, calls taken in turn.
std::unique_ptr<FileAccess> make_shared_file_access(RankGroup& group);

}  // namespace ringscan
