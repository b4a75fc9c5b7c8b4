#include "comm/nccl_transport.hpp"

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/nccl_link.hpp"
#include "comm/traced_transport.hpp"
#include "core/error.hpp"

namespace ringscan {
namespace {

using nccl::Flight;
using nccl::Link;

class NcclTransfer final : public Ticket::Impl {
 public:
  NcclTransfer(std::shared_ptr<Link> link, std::shared_ptr<Flight> flight)
      : link_(std::move(link)), flight_(std::move(flight)) {}

  bool poll() override { return link_->poll(*flight_); }

  void wait() override {
    while (!poll()) std::this_thread::yield();
  }

  void order() override { link_->order(*flight_); }

  void abandon() override {
    if (!flight_->is_done) link_->end("NCCL: this rank has failed");
  }

 private:
  std::shared_ptr<Link> link_;
  std::shared_ptr<Flight> flight_;
};

bool is_on_device(const void* data) {
  cudaPointerAttributes attributes{};
  nccl::check(cudaPointerGetAttributes(&attributes, data));
  return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
}

/// A side without bytes moves nothing.
Transfer without_empty(Transfer sides) {
  if (sides.to_rank < 0 || sides.send.empty()) sides.to_rank = -1, sides.send = {};
  if (sides.from_rank < 0 || sides.receive.empty()) sides.from_rank = -1, sides.receive = {};
  return sides;
}

class NcclTransportImpl final : public NcclTransport {
 public:
  NcclTransportImpl(Transport& control, const NcclOptions& options)
      : control_(control), options_(options), link_(std::make_shared<Link>(control, options)) {}
  NcclTransportImpl(std::unique_ptr<Transport> control, const NcclOptions& options)
      : own_control_(std::move(control)),
        control_(*own_control_),
        options_(options),
        link_(std::make_shared<Link>(control_, options)) {}

  std::string_view name() const override { return "nccl"; }
  int rank() const override { return control_.rank(); }
  int world_size() const override { return control_.world_size(); }
  void barrier() override { control_.barrier(); }
  void all_reduce(std::span<double> values, ReduceOp op) override { control_.all_reduce(values, op); }
  void all_reduce(std::span<std::int64_t> values, ReduceOp op) override { control_.all_reduce(values, op); }
  void broadcast(std::string& text, int root) override { control_.broadcast(text, root); }
  std::unique_ptr<PendingSum> start_sum(std::int64_t value) override { return control_.start_sum(value); }
  std::unique_ptr<Transport> duplicate() override { return control_.duplicate(); }
  std::unique_ptr<Transport> first_ranks(int count) override {
    std::unique_ptr<Transport> part = control_.first_ranks(count);
    if (part == nullptr) return nullptr;
    return std::make_unique<NcclTransportImpl>(std::move(part), options_);
  }
  bool supports_threads() const override { return control_.supports_threads(); }

  void announce_failure() override {
    link_->end("NCCL: this rank has failed");
    control_.announce_failure();
  }

  Ticket exchange(const Transfer& transfer) override { return exchange_all({&transfer, 1}); }

  Ticket exchange_all(std::span<const Transfer> transfers) override {
    std::vector<Transfer> on_host, on_device;
    for (const Transfer& transfer : transfers) {
      const Transfer sides = without_empty(transfer);
      if (sides.to_rank < 0 && sides.from_rank < 0) continue;
      sent_bytes_ += sides.send.size();
      (moves_device_memory(sides) ? on_device : on_host).push_back(sides);
    }
    if (on_device.empty()) return control_.exchange_all(on_host);
    if (!on_host.empty()) throw failure("NCCL: some of the transfers that start as one lie on the host");
    const std::int64_t begin_ns = Trace::now_ns();
    Ticket ticket(std::make_unique<NcclTransfer>(link_, link_->start(on_device)));
    Trace* const trace = Trace::of_this_thread();
    return trace == nullptr ? std::move(ticket) : trace_transfers(std::move(ticket), on_device, begin_ns, *trace);
  }

  bool carries(const MemorySpace& space) const override {
    return space.is_host() || (options_.work_stream != nullptr && space.work_queue() == options_.work_stream);
  }
  double take_queue_seconds() override { return link_->take_queue_seconds(); }

  double hop_seconds() const override { return link_->hop_seconds(); }

 private:
  bool moves_device_memory(const Transfer& sides) const {
    const bool sends_device = sides.to_rank >= 0 && is_on_device(sides.send.data());
    const bool receives_device = sides.from_rank >= 0 && is_on_device(sides.receive.data());
    if (!sends_device && !receives_device) return false;
    const bool mixes = (sides.to_rank >= 0 && !sends_device) || (sides.from_rank >= 0 && !receives_device);
    if (mixes) throw failure("NCCL: one side of a transfer lies on the host, the other on the device");
    // NCCL would say so by a hang or by an error of its own; a rank alone can tell.
    if ((sides.to_rank == rank()) != (sides.from_rank == rank()) ||
        (sides.to_rank == rank() && sides.send.size() != sides.receive.size())) {
      throw failure("NCCL: a rank sends to itself and receives from itself in one transfer, equal bytes");
    }
    return true;
  }

  std::unique_ptr<Transport> own_control_;  // of a group made by first_ranks()
  Transport& control_;
  NcclOptions options_;
  std::shared_ptr<Link> link_;
};

}  // namespace

bool has_nccl() {
  return true;
}

std::unique_ptr<NcclTransport> make_nccl_transport(Transport& control, const NcclOptions& options) {
  return std::make_unique<NcclTransportImpl>(control, options);
}

}  // namespace ringscan
