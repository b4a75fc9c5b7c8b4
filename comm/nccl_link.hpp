#pragma once
// One NCCL communicator, its stream and the transfers under way on it.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <source_location>
#include <string>
#include <vector>

#include "comm/nccl_transport.hpp"
#include "core/stopwatch.hpp"

namespace ringscan::nccl {

/// @throws Error(kFailure) with CUDA's text.
void check(cudaError_t status, const std::source_location& where = std::source_location::current());

/// Owns a CUDA event that takes the time.
class Event {
 public:
  Event() { check(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }
  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream)); }
  /// True once everything before its last record() is done.
  bool is_reached() const;

 private:
  cudaEvent_t event_ = nullptr;
};

/// Transfers under way that were started as one.
struct Flight {
  std::vector<Transfer> transfers;
  Event ready;  ///< the work before it is done
  Event begin;  ///< and the transfers before it
  Event end;    ///< recorded once NCCL has put the transfer on the stream
  bool has_begun = false;
  bool is_launched = false;
  bool is_ordered = false;  ///< work waits for it on the device
  bool is_done = false;
  Stopwatch since_begin;
};

/// A call of NCCL that may wait for another rank, on a thread of its own, so that this one can look for errors, for a
/// failed rank and at the clock meanwhile. The thread outlives this where the call does not come back.
class CallBeside {
 public:
  /// `call` must keep what it uses alive.
  explicit CallBeside(std::function<ncclResult_t()> call);
  bool is_done() const { return outcome_->is_done; }
  /// @pre is_done().
  ncclResult_t result() const { return outcome_->result; }

 private:
  struct Outcome {
    ncclResult_t result = ncclSuccess;
    std::atomic<bool> is_done = false;
  };
  std::shared_ptr<Outcome> outcome_ = std::make_shared<Outcome>();
};

/// A transfer between ranks that met before is only put on the stream, and is called for here; what may wait for
/// another rank (starting, ending, the first meeting) is called for beside, for as long as the time limit allows.
class Link {
 public:
  /// Collective over `control`.
  Link(Transport& control, const NcclOptions& options);
  /// Collective but where the communicator has ended.
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  /// Waits until NCCL has put the last transfer on the stream (which its peers' coming to it may take, the first time
  /// they meet), and until those are done that work waits for on the device. @pre a side with a rank has bytes.
  std::shared_ptr<Flight> start(std::vector<Transfer> transfers);
  /// True once it is done. @throws Error(kFailure) where it, or any rank, has failed; the communicator has ended then.
  bool poll(Flight& flight);
  /// Work that is queued behind this begins once the transfer is done.
  void order(Flight& flight);
  /// Ends the communicator, so that no transfer touches its buffers from now on. @throws nothing.
  void end(const std::string& reason) noexcept;

  double hop_seconds() const { return hop_seconds_; }
  /// Of the work stream standing still at order(), since the last call; waits for it.
  double take_queue_seconds();

 private:
  /// The work stream at an order(), before and behind its wait.
  struct Pause {
    Event from;
    Event to;
  };

  void set_device();
  void call_in_time(std::function<ncclResult_t()> call, const char* what);
  void require_no_error();
  void require(ncclResult_t result, const char* what);
  void require_peers();
  [[noreturn]] void fail(const std::string& reason);
  void launch(Flight& flight);
  bool have_met(const std::vector<Transfer>& transfers) const;
  void finish_launch();
  void await_launch();
  void require_in_time(const Flight& flight);

  Transport& control_;
  NcclOptions options_;
  cudaStream_t stream_ = nullptr;
  ncclComm_t communicator_ = nullptr;
  std::string end_reason_;             // not empty: the communicator has ended
  std::shared_ptr<Flight> launching_;  // the last one started, until it is on the stream
  std::optional<CallBeside> meeting_;  // puts it there, where its ranks meet for the first time
  std::set<int> sent_to_, received_from_;
  std::vector<std::shared_ptr<Flight>> open_;
  std::vector<std::unique_ptr<Pause>> pauses_;
  double hop_seconds_ = 0;
};

}  // namespace ringscan::nccl
