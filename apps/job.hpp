#pragma once

#include <functional>
#include <memory>

#include "comm/transport.hpp"
#include "core/error.hpp"
#include "io/file_access.hpp"

namespace ringscan {

/// What a command gets on each rank.
struct Job {
  Transport& transport;
  FileAccess& access;  ///< over `transport`
  /// Collective. Another access for another group of the same ranks (transport.duplicate()), for a thread that reads
  /// and writes beside the computation. The group must outlive it.
  std::function<std::unique_ptr<FileAccess>(Transport&)> make_access;
  int ranks_on_node = 1;  ///< ranks that share this machine's memory
  int rank_on_node = 0;   ///< this one among them
  /// Releases the other ranks where this one alone has failed: under MPI it reports the error and ends the job.
  std::function<void(const Error&)> on_lone_failure;

  /// The one rank that prints.
  bool is_root() const { return transport.rank() == 0; }
};

}  // namespace ringscan
