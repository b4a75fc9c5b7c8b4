#pragma once

#include <string>
#include <vector>

#include "comm/transport.hpp"
#include "engine/context_files.hpp"
#include "engine/ring_pass.hpp"
#include "engine/run_config.hpp"
#include "engine/run_plan.hpp"

namespace ringscan {

/// The figures of a run, the same on every rank. Seconds are the largest over the ranks.
struct RunReport {
  RunConfig config;
  RunPlan plan;
  std::string transport;
  std::string backend;
  std::string device;
  std::string started;           ///< ISO 8601, UTC
  bool finished = false;         ///< false: a dry run, one that stopped, or one with nothing to do
  bool stopped = false;          ///< on request; the partial output can be resumed
  bool was_complete = false;     ///< nothing was left to resume
  std::size_t heads_found = 0;   ///< complete when it was resumed, over all layers
  std::size_t blocks_found = 0;  ///< likewise
  std::size_t heads_done = 0;    ///< stopped: complete by now
  std::size_t blocks_done = 0;   ///< likewise

  double total_seconds = 0.0;
  double read_seconds = 0.0;          ///< in transfers from the file
  double read_wait_seconds = 0.0;     ///< not hidden behind computing
  double compute_seconds = 0.0;       ///< in the kernels
  double exposed_seconds = 0.0;       ///< moving or waiting for KV, not hidden behind computing
  double staging_seconds = 0.0;       ///< copying shards to a device, and outputs back
  double finish_seconds = 0.0;        ///< rounding and arranging rows, packing KV
  double write_seconds = 0.0;         ///< in transfers to the file
  double write_wait_seconds = 0.0;    ///< not hidden behind computing
  double context_wait_seconds = 0.0;  ///< for blocks of the context, not hidden behind computing

  AttendStats stats;                ///< sums over the ranks
  double computed_flops = 0.0;      ///< of the pairs whose score was computed; never over plan.flops()
  KeptMassFigures kept_mass;        ///< of all rows of sparse heads, where the output was wanted
  std::int64_t steps_taken = 0;     ///< ring steps of one rank, over all passes
  std::int64_t steps_saved = 0;     ///< that early exit made unnecessary
  std::size_t sent_bytes = 0;       ///< KV, sum over the ranks
  std::size_t read_bytes = 0;       ///< sum over the ranks
  std::size_t written_bytes = 0;    ///< sum over the ranks
  ContextFigures context_blocks;    ///< of one rank, over all head groups; all ranks read the same
  std::size_t context_bytes = 0;    ///< of one rank; also in read_bytes
  std::int64_t not_collective = 0;  ///< file transfers that were not collective, sum over the ranks
  bool is_parallel_io = false;
  std::size_t peak_bytes = 0;         ///< in buffers, largest over the ranks; plan.memory bounds it
  std::size_t resident_bytes = 0;     ///< peak resident set of the largest process
  std::size_t device_peak_bytes = 0;  ///< in a GPU's memory; 0: none is used

  /// Over the compute phase, all ranks together.
  double tflops() const { return compute_seconds > 0.0 ? computed_flops / compute_seconds * 1e-12 : 0.0; }
};

/// Collective. Makes each figure the largest, or the sum, over the ranks.
void reduce(RunReport& report, Transport& transport);

/// One JSON object; field names are part of the program's interface (docs/report.md).
std::string to_json(const RunReport& report);

/// A few lines for people about what is going to be: what was complete already, and the plan of what is left.
std::string describe_start(const RunReport& report);

/// A few lines for people about what it came to: figures; none where nothing was computed.
std::string summarize(const RunReport& report);

}  // namespace ringscan
