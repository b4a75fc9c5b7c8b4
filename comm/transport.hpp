#pragma once
// How bytes move between ranks. An algorithm never knows which transport carries it.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "core/memory_space.hpp"
#include "core/rank_group.hpp"

namespace ringscan {

/// What one rank sends and receives at once; either side may be absent (rank -1) or empty (then nothing moves, and the
/// other rank must give the same number of bytes). A block over 2 GiB is split by the transport.
struct Transfer {
  int to_rank = -1;
  std::span<const std::byte> send;
  int from_rank = -1;
  std::span<std::byte> receive;
};

/// One transfer in flight. The buffers it names must stay until it is done; destroying it waits (or, while an exception
/// unwinds, gives the transfer up). Move-only.
class Ticket {
 public:
  class Impl {
   public:
    virtual ~Impl() = default;
    /// Moves the transfer on without blocking; true once both sides are done.
    virtual bool poll() = 0;
    virtual void wait() = 0;
    /// See Ticket::order().
    virtual void order() { wait(); }
    /// Lets go of the buffers without waiting for peers that may never come: this rank has failed, and takes the job
    /// with it.
    virtual void abandon() { wait(); }
  };

  Ticket() = default;
  explicit Ticket(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
  Ticket(Ticket&&) = default;
  Ticket& operator=(Ticket&& other) noexcept;
  ~Ticket();

  /// @throws Error(kFailure) where a rank has failed.
  bool poll() { return impl_ == nullptr || impl_->poll(); }
  /// @throws Error(kFailure) where a rank has failed.
  void wait();
  /// What is given to the memory's work_queue() from now on begins once the transfer is done. The host waits here only
  /// where the transport cannot leave that to the device; else the buffers stay in use, and a failure unseen, until
  /// poll() or wait() tell of it. @throws Error(kFailure) where a rank has failed.
  void order();

 private:
  std::unique_ptr<Impl> impl_;
};

/// A sum over all ranks on its way: started by all, asked for later, so that nobody stalls.
class PendingSum {
 public:
  virtual ~PendingSum() = default;
  /// Blocks until every rank has started this one.
  virtual std::int64_t get() = 0;
};

class Transport : public RankGroup {
 public:
  virtual std::string_view name() const = 0;

  /// Starts a transfer. Transfers between two ranks match in the order they were started.
  [[nodiscard]] virtual Ticket exchange(const Transfer& transfer) = 0;
  /// Starts several in this order, of which none waits for another to be started elsewhere: one launch of a device's
  /// where the transport has such. The ticket stands for all of them.
  [[nodiscard]] virtual Ticket exchange_all(std::span<const Transfer> transfers);

  [[nodiscard]] virtual std::unique_ptr<PendingSum> start_sum(std::int64_t value) = 0;

  /// A second, independent group of the same ranks, for another thread of each. Collective.
  virtual std::unique_ptr<Transport> duplicate() = 0;

  /// A group of the first `count` ranks, numbered as here; null on the others, which take no part in what it does.
  /// Collective over all of this. @pre 1 <= count <= world_size(), the same on all ranks.
  virtual std::unique_ptr<Transport> first_ranks(int count) = 0;

  /// How long work queues have stood still at order(), by the device's clock, since the last call. Waits for the queue.
  virtual double take_queue_seconds() { return 0.0; }

  /// True where exchange() takes this space's memory, both sides of a Transfer in one space.
  virtual bool carries(const MemorySpace& space) const { return space.is_host(); }
  /// True where it takes memory whose work_queue() orders what is done there, so that the host need not wait for a
  /// transfer.
  bool carries_in_queue(const MemorySpace& space) const { return space.work_queue() != nullptr && carries(space); }

  /// True where a second thread may use a duplicate() of this while the first uses this.
  virtual bool supports_threads() const = 0;

  /// This rank has failed and will make no more calls: where the transport can tell the other ranks, all calls, of this
  /// rank's duplicates too, throw from now on. Processes have no such way; there the program ends the job.
  virtual void announce_failure() {}

  /// Payload this rank has sent by exchange().
  std::size_t sent_bytes() const { return sent_bytes_; }

 protected:
  std::size_t sent_bytes_ = 0;
};

}  // namespace ringscan
