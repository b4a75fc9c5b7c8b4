#pragma once
// Ranks with a GPU each: payloads in device memory go by NCCL, all else by another transport.

#include <memory>

#include "comm/transport.hpp"

struct CUstream_st;  // what a cudaStream_t points to

namespace ringscan {

struct NcclOptions {
  int device = 0;  ///< of this rank; no other rank's
  /// A transfer begins once this stream has done what it was given before exchange(): the host does not wait for it.
  /// Null: CUDA's default stream.
  CUstream_st* work_stream = nullptr;
  /// A transfer that takes longer, from the moment this rank is ready for it, has failed. It lasts until the other rank
  /// is ready too: to be chosen well over the time that a rank computes between two transfers.
  double hop_limit_seconds = 1800;
};

/// Transfers of one rank run one after the other, each with both its sides at once. So ranks exchange in steps: where
/// a rank's i-th transfer needs another rank's j-th, there must be an order of all transfers that agrees with every
/// rank's own. The schedules of comm/ are such.
///
/// After a failure (of a peer, of the network, or a time limit) the calls of every rank throw Error(kFailure): where
/// the other transport can tell the others at once, else on each rank by NCCL's own errors or by the time limit. None
/// hangs.
class NcclTransport : public Transport {
 public:
  /// Seconds of the device's clock that the transfers done so far took, both sides together, from the moment this rank
  /// was ready for each. What of them computing did not hide is take_queue_seconds().
  virtual double hop_seconds() const = 0;
};

/// False in a build without NCCL, whose make_nccl_transport() throws Error(kBadInput).
bool has_nccl();

/// Collective over `control`, which must outlive it, and which carries NCCL's id, all collective calls and sums,
/// duplicate() (two NCCL communicators on two threads may never progress) and the transfers of host memory. Both sides
/// of a message lie in the same kind of memory, and so do both sides of a Transfer; a rank sends to itself and receives
/// from itself in one Transfer. One thread uses it, with `device` its current one: this call sees to that.
/// @throws Error(kFailure) on all ranks where one has no such device or NCCL does not start.
std::unique_ptr<NcclTransport> make_nccl_transport(Transport& control, const NcclOptions& options);

}  // namespace ringscan
