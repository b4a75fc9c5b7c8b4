#include "comm/nccl_link.hpp"

#include <algorithm>
#include <cstring>
#include <exception>
#include <thread>

#include "core/error.hpp"

namespace ringscan::nccl {

namespace {

/// Starting and ending wait for no rank's computing.
constexpr double kStartLimitSeconds = 120;
/// For a call to come back whose communicator has been aborted.
constexpr double kEndLimitSeconds = 10;

/// Multiprocessors that a transfer takes from the kernels beside it. A ring of two has a long step for each hop, and
/// does as well with 8; in one of four 16 are too slow for short steps (docs/performance-cuda.md), and a transfer that
/// takes twice as many takes them half as long.
constexpr int kMostBlocks = 32;

/// All sides in one group, behind what the stream has.
ncclResult_t put_on_stream(const std::vector<Transfer>& transfers, ncclComm_t communicator, cudaStream_t stream) {
  const ncclResult_t started = ncclGroupStart();
  if (started != ncclSuccess) return started;
  ncclResult_t first_error = ncclSuccess;
  const auto note = [&](ncclResult_t result) {
    if (first_error == ncclSuccess) first_error = result;
  };
  for (const Transfer& transfer : transfers) {
    if (transfer.to_rank >= 0) {
      note(ncclSend(transfer.send.data(), transfer.send.size(), ncclInt8, transfer.to_rank, communicator, stream));
    }
    if (transfer.from_rank >= 0) {
      note(ncclRecv(transfer.receive.data(), transfer.receive.size(), ncclInt8, transfer.from_rank, communicator,
                    stream));
    }
  }
  note(ncclGroupEnd());  // whatever came before: an open group would swallow the end, too
  return first_error;
}

}  // namespace

void check(cudaError_t status, const std::source_location& where) {
  if (status == cudaSuccess) return;
  throw failure(std::string("CUDA: ") + cudaGetErrorString(status) + " (" + where.function_name() + ")");
}

CallBeside::CallBeside(std::function<ncclResult_t()> call) {
  int device = 0;
  check(cudaGetDevice(&device));
  std::thread([device, call = std::move(call), outcome = outcome_] {
    outcome->result = cudaSetDevice(device) == cudaSuccess ? call() : ncclUnhandledCudaError;
    outcome->is_done = true;
  }).detach();
}

bool Event::is_reached() const {
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) return false;
  check(status);
  return true;
}

Link::Link(Transport& control, const NcclOptions& options) : control_(control), options_(options) {
  try {
    run_collectively(control_, [&] { set_device(); });
    std::string id_bytes(sizeof(ncclUniqueId), '\0');
    run_collectively(control_, [&] {
      if (control_.rank() != 0) return;
      ncclUniqueId id;
      require(ncclGetUniqueId(&id), "an id");
      std::memcpy(id_bytes.data(), &id, sizeof id);
    });
    control_.broadcast(id_bytes, 0);
    run_collectively(control_, [&] {
      ncclUniqueId id;
      std::memcpy(&id, id_bytes.data(), sizeof id);
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      config.maxCTAs = kMostBlocks;
      const auto communicator = std::make_shared<ncclComm_t>();
      call_in_time(
          [=, ranks = control_.world_size(), rank = control_.rank()]() mutable {
            return ncclCommInitRankConfig(communicator.get(), ranks, id, rank, &config);
          },
          "starting");
      communicator_ = *communicator;
    });
  } catch (...) {
    end("NCCL did not start");
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
    throw;
  }
}

Link::~Link() {
  try {
    if (communicator_ != nullptr && std::uncaught_exceptions() == 0) {
      await_launch();
      call_in_time([communicator = communicator_] { return ncclCommFinalize(communicator); }, "ending");
      ncclCommDestroy(communicator_);
      communicator_ = nullptr;
    }
  } catch (...) {
    // A destructor cannot throw; a communicator that does not end is ended by force.
  }
  end("NCCL has ended");
  cudaStreamDestroy(stream_);
}

void Link::set_device() {
  int devices = 0;
  const bool is_there = cudaGetDeviceCount(&devices) == cudaSuccess && options_.device < devices;
  if (!is_there || options_.device < 0) {
    throw failure("rank " + std::to_string(control_.rank()) + " has no GPU " + std::to_string(options_.device) +
                  ": found " + std::to_string(devices));
  }
  check(cudaSetDevice(options_.device));
  // A transfer's blocks go before those of kernels that wait for a multiprocessor, too.
  int least = 0, greatest = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest));
}

void Link::require_no_error() {
  ncclResult_t state = ncclSuccess;
  require(ncclCommGetAsyncError(communicator_, &state), "asking for errors");
  require(state, "passing on keys");
}

void Link::call_in_time(std::function<ncclResult_t()> call, const char* what) {
  const Stopwatch waited;
  const double limit_seconds = std::min(kStartLimitSeconds, options_.hop_limit_seconds);
  const CallBeside beside(std::move(call));
  while (!beside.is_done()) {
    if (waited.seconds() > limit_seconds) fail(std::string(what) + " took longer than the time limit");
    std::this_thread::yield();
  }
  require(beside.result(), what);
}

void Link::require(ncclResult_t result, const char* what) {
  if (result == ncclSuccess) return;
  std::string reason = std::string(what) + ": " + ncclGetErrorString(result);
  const char* detail = ncclGetLastError(communicator_);
  if (detail != nullptr && *detail != '\0') reason += std::string(" (") + detail + ")";
  fail(reason);
}

/// Where the other transport knows of a failed rank, nothing will come from there.
void Link::require_peers() {
  try {
    control_.exchange(Transfer{}).wait();
  } catch (const Error& error) {
    end(error.what());
    throw;
  }
}

void Link::fail(const std::string& reason) {
  end("NCCL: " + reason);
  throw failure("NCCL: " + reason);
}

void Link::end(const std::string& reason) noexcept {
  if (!end_reason_.empty()) return;
  end_reason_ = reason;
  if (communicator_ == nullptr) return;
  // What NCCL has put on the stream may still wait for this rank's own work; that ends by itself (see start()), and no
  // transfer may begin once the communicator's memory is gone.
  for (const auto& flight : open_) cudaEventSynchronize(flight->ready.get());
  ncclCommAbort(communicator_);
  communicator_ = nullptr;
  // A call whose ranks never came has been ended by the abort; from then on nothing is put on the stream.
  const Stopwatch waited;
  while (meeting_ && !meeting_->is_done() && waited.seconds() < kEndLimitSeconds) std::this_thread::yield();
  meeting_.reset();
  cudaStreamSynchronize(stream_);
  launching_.reset();
  open_.clear();
}

void Link::await_launch() {
  while (launching_ != nullptr) {
    finish_launch();
    std::this_thread::yield();
  }
}

std::shared_ptr<Flight> Link::start(std::vector<Transfer> transfers) {
  if (!end_reason_.empty()) throw failure(end_reason_);
  await_launch();
  // The work that this one waits for must not wait for a transfer that may never end: end() waits for that work.
  const std::vector<std::shared_ptr<Flight>> open = open_;
  for (const auto& flight : open) {
    while (flight->is_ordered && !poll(*flight)) std::this_thread::yield();
  }
  auto flight = std::make_shared<Flight>();
  flight->transfers = std::move(transfers);
  open_.push_back(flight);
  launch(*flight);
  launching_ = flight;
  finish_launch();
  return flight;
}

void Link::launch(Flight& flight) {
  flight.ready.record(options_.work_stream);
  check(cudaStreamWaitEvent(stream_, flight.ready.get(), 0));
  flight.begin.record(stream_);
  // Kernels behind it do not take every multiprocessor before the transfer has its own.
  if (open_.size() == 1) check(cudaStreamWaitEvent(options_.work_stream, flight.begin.get(), 0));
  if (have_met(flight.transfers)) {
    require(put_on_stream(flight.transfers, communicator_, stream_), "passing on keys");
    return;
  }
  meeting_.emplace([transfers = flight.transfers, communicator = communicator_, stream = stream_] {
    return put_on_stream(transfers, communicator, stream);
  });
}

bool Link::have_met(const std::vector<Transfer>& transfers) const {
  return std::all_of(transfers.begin(), transfers.end(), [&](const Transfer& transfer) {
    return (transfer.to_rank < 0 || sent_to_.contains(transfer.to_rank)) &&
           (transfer.from_rank < 0 || received_from_.contains(transfer.from_rank));
  });
}

/// The end of a transfer can be marked on the stream only once NCCL has put the transfer there.
void Link::finish_launch() {
  if (meeting_ && !meeting_->is_done()) {
    require_peers();
    require_in_time(*launching_);
    return;
  }
  if (meeting_) {
    const ncclResult_t result = meeting_->result();
    meeting_.reset();
    require(result, "passing on keys");
    for (const Transfer& transfer : launching_->transfers) {
      sent_to_.insert(transfer.to_rank);
      received_from_.insert(transfer.from_rank);
    }
  }
  launching_->end.record(stream_);
  launching_->is_launched = true;
  launching_.reset();
}

void Link::require_in_time(const Flight& flight) {
  if (flight.since_begin.seconds() <= options_.hop_limit_seconds) return;
  std::string reason = "rank " + std::to_string(control_.rank());
  for (const Transfer& transfer : flight.transfers) {
    if (transfer.to_rank >= 0) reason += ", sending to rank " + std::to_string(transfer.to_rank);
    if (transfer.from_rank >= 0) reason += ", receiving from rank " + std::to_string(transfer.from_rank);
  }
  fail(reason + ": a transfer took longer than the time limit");
}

bool Link::poll(Flight& flight) {
  if (flight.is_done) return true;
  if (!end_reason_.empty()) throw failure(end_reason_);
  if (launching_ != nullptr) finish_launch();
  if (flight.is_launched && flight.end.is_reached()) {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, flight.begin.get(), flight.end.get()));
    hop_seconds_ += 1e-3 * static_cast<double>(milliseconds);
    flight.is_done = true;
    std::erase_if(open_, [&](const auto& open) { return open.get() == &flight; });
    return true;
  }
  require_no_error();
  require_peers();
  if (!flight.has_begun) {
    flight.has_begun = flight.begin.is_reached();
    if (flight.has_begun) flight.since_begin = Stopwatch();
  }
  if (flight.has_begun) require_in_time(flight);
  return false;
}

void Link::order(Flight& flight) {
  if (poll(flight)) return;
  auto pause = std::make_unique<Pause>();
  // Before the launch is waited for: the stream may work through what it has meanwhile, or stand still.
  pause->from.record(options_.work_stream);
  if (!flight.is_launched) await_launch();
  check(cudaStreamWaitEvent(options_.work_stream, flight.end.get(), 0));
  pause->to.record(options_.work_stream);
  pauses_.push_back(std::move(pause));
  flight.is_ordered = true;
}

double Link::take_queue_seconds() {
  double seconds = 0.0;
  for (const auto& pause : pauses_) {
    check(cudaEventSynchronize(pause->to.get()));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, pause->from.get(), pause->to.get()));
    seconds += 1e-3 * static_cast<double>(milliseconds);
  }
  pauses_.clear();
  return seconds;
}

}  // namespace ringscan::nccl
