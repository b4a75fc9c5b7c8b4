#include "comm/mpi_transport.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <chrono>
#include <climits>
#include <exception>
#include <source_location>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.hpp"

namespace ringscan {
namespace {

/// Every MPI implementation offers tags up to this.
constexpr int kTagCount = 32768;

void check(int code, const std::source_location& where = std::source_location::current()) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw failure("MPI: " + std::string(text.data(), static_cast<std::size_t>(length)) + " (" + where.function_name() +
                ")");
}

/// The pieces of one transfer, in flight.
class MpiTransfer final : public Ticket::Impl {
 public:
  MpiTransfer() = default;
  MpiTransfer(const MpiTransfer&) = delete;
  MpiTransfer& operator=(const MpiTransfer&) = delete;
  ~MpiTransfer() override {
    if (completed_ < requests_.size()) give_up();
  }

  /// Receives come first, so that no message arrives unexpected at its own rank.
  void start_receives(MPI_Comm communicator, int from_rank, int tag, std::span<std::byte> bytes, std::size_t piece) {
    for (std::size_t offset = 0; offset < bytes.size(); offset += piece) {
      const int count = static_cast<int>(std::min(piece, bytes.size() - offset));
      MPI_Request request = MPI_REQUEST_NULL;
      check(MPI_Irecv(bytes.data() + offset, count, MPI_BYTE, from_rank, tag, communicator, &request));
      requests_.push_back(request);
      wanted_counts_.push_back(count);
    }
  }
  void start_sends(MPI_Comm communicator, int to_rank, int tag, std::span<const std::byte> bytes, std::size_t piece) {
    for (std::size_t offset = 0; offset < bytes.size(); offset += piece) {
      const int count = static_cast<int>(std::min(piece, bytes.size() - offset));
      MPI_Request request = MPI_REQUEST_NULL;
      check(MPI_Isend(bytes.data() + offset, count, MPI_BYTE, to_rank, tag, communicator, &request));
      requests_.push_back(request);
    }
  }

  bool poll() override {
    for (; completed_ < requests_.size(); ++completed_) {
      int is_complete = 0;
      MPI_Status status;
      check(MPI_Test(&requests_[completed_], &is_complete, &status));
      if (is_complete == 0) return false;
      if (completed_ < wanted_counts_.size()) require_count(status, wanted_counts_[completed_]);
    }
    return true;
  }

  /// MPI_Waitall would never return from some errors (Open MPI 4.1, a message longer than its receive).
  void wait() override {
    while (!poll()) std::this_thread::yield();
  }

  void abandon() override { give_up(); }

 private:
  static void require_count(const MPI_Status& status, int wanted) {
    int count = 0;
    check(MPI_Get_count(&status, MPI_BYTE, &count));
    if (count == wanted) return;
    throw failure("rank " + std::to_string(status.MPI_SOURCE) + " sends " + std::to_string(count) + " bytes where " +
                  std::to_string(wanted) + " are wanted");
  }

  /// Only an error leads here, and it ends the job: nothing may hang on the way, and no receive may write to a buffer
  /// that is about to go. Sends cannot be called back; they get a second.
  void give_up() noexcept {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    for (std::size_t i = 0; i < wanted_counts_.size() && i < requests_.size(); ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      MPI_Cancel(&requests_[i]);
      MPI_Wait(&requests_[i], MPI_STATUS_IGNORE);
    }
    for (MPI_Request& request : requests_) {
      int is_complete = 0;
      while (request != MPI_REQUEST_NULL && is_complete == 0 && std::chrono::steady_clock::now() < deadline) {
        if (MPI_Test(&request, &is_complete, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
      }
    }
    completed_ = requests_.size();
  }

  std::vector<MPI_Request> requests_;  // receives, then sends
  std::vector<int> wanted_counts_;     // of the receives
  std::size_t completed_ = 0;          // so many of the requests, in their order
};

class MpiSum final : public PendingSum {
 public:
  MpiSum(MPI_Comm communicator, std::int64_t value) : values_(new Values{value, 0}) {
    check(MPI_Iallreduce(&values_->mine, &values_->sum, 1, MPI_INT64_T, MPI_SUM, communicator, &request_));
  }
  MpiSum(const MpiSum&) = delete;
  MpiSum& operator=(const MpiSum&) = delete;
  ~MpiSum() override {
    if (request_ == MPI_REQUEST_NULL) return;
    if (std::uncaught_exceptions() == 0) {
      MPI_Wait(&request_, MPI_STATUS_IGNORE);
    } else {
      // The peers may never come, and a collective cannot be cancelled: MPI keeps the values until the job ends.
      static_cast<void>(values_.release());
    }
  }

  std::int64_t get() override {
    if (request_ != MPI_REQUEST_NULL) check(MPI_Wait(&request_, MPI_STATUS_IGNORE));
    return values_->sum;
  }

 private:
  struct Values {
    std::int64_t mine;
    std::int64_t sum;
  };
  std::unique_ptr<Values> values_;
  MPI_Request request_ = MPI_REQUEST_NULL;
};

MPI_Op mpi_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::kMin:
      return MPI_MIN;
    case ReduceOp::kMax:
      return MPI_MAX;
    case ReduceOp::kSum:
      break;
  }
  return MPI_SUM;
}

class MpiTransport final : public Transport {
 public:
  MpiTransport(MPI_Comm communicator, std::size_t piece_bytes) : piece_bytes_(piece_bytes) {
    assert(0 < piece_bytes && piece_bytes <= INT_MAX);
    check(MPI_Comm_dup(communicator, &communicator_));
    check(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN));
    check(MPI_Comm_rank(communicator_, &rank_));
    check(MPI_Comm_size(communicator_, &world_size_));
    next_send_tag_.resize(static_cast<std::size_t>(world_size_), 0);
    next_receive_tag_.resize(static_cast<std::size_t>(world_size_), 0);
  }
  MpiTransport(const MpiTransport&) = delete;
  MpiTransport& operator=(const MpiTransport&) = delete;
  ~MpiTransport() override {
    // Freeing is collective: while an error unwinds this rank, the others would not come.
    if (std::uncaught_exceptions() == 0) MPI_Comm_free(&communicator_);
  }

  using RankGroup::all_reduce;

  std::string_view name() const override { return "mpi"; }
  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  bool supports_threads() const override {
    int level = MPI_THREAD_SINGLE;
    check(MPI_Query_thread(&level));
    return level == MPI_THREAD_MULTIPLE;
  }

  void barrier() override { check(MPI_Barrier(communicator_)); }
  void all_reduce(std::span<double> values, ReduceOp op) override { reduce(values, MPI_DOUBLE, op); }
  void all_reduce(std::span<std::int64_t> values, ReduceOp op) override { reduce(values, MPI_INT64_T, op); }

  void broadcast(std::string& text, int root) override {
    std::int64_t length = static_cast<std::int64_t>(text.size());
    check(MPI_Bcast(&length, 1, MPI_INT64_T, root, communicator_));
    text.resize(static_cast<std::size_t>(length));
    for (std::size_t offset = 0; offset < text.size(); offset += piece_bytes_) {
      const int count = static_cast<int>(std::min(piece_bytes_, text.size() - offset));
      check(MPI_Bcast(text.data() + offset, count, MPI_BYTE, root, communicator_));
    }
  }

  Ticket exchange(const Transfer& transfer) override {
    auto moving = std::make_unique<MpiTransfer>();
    if (transfer.from_rank >= 0 && !transfer.receive.empty()) {
      const int tag = next_tag(next_receive_tag_, transfer.from_rank);
      moving->start_receives(communicator_, transfer.from_rank, tag, transfer.receive, piece_bytes_);
    }
    if (transfer.to_rank >= 0 && !transfer.send.empty()) {
      const int tag = next_tag(next_send_tag_, transfer.to_rank);
      moving->start_sends(communicator_, transfer.to_rank, tag, transfer.send, piece_bytes_);
      sent_bytes_ += transfer.send.size();
    }
    return Ticket(std::move(moving));
  }

  std::unique_ptr<PendingSum> start_sum(std::int64_t value) override {
    return std::make_unique<MpiSum>(communicator_, value);
  }

  std::unique_ptr<Transport> duplicate() override { return make_mpi_transport(communicator_, piece_bytes_); }

  std::unique_ptr<Transport> first_ranks(int count) override {
    assert(1 <= count && count <= world_size_);
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(communicator_, rank_ < count ? 0 : MPI_UNDEFINED, rank_, &part));
    if (part == MPI_COMM_NULL) return nullptr;
    auto transport = make_mpi_transport(part, piece_bytes_);
    check(MPI_Comm_free(&part));
    return transport;
  }

 private:
  template <typename T>
  void reduce(std::span<T> values, MPI_Datatype type, ReduceOp op) {
    const std::size_t piece = std::size_t{1} << 20;
    for (std::size_t offset = 0; offset < values.size(); offset += piece) {
      const int count = static_cast<int>(std::min(piece, values.size() - offset));
      check(MPI_Allreduce(MPI_IN_PLACE, values.data() + offset, count, type, mpi_op(op), communicator_));
    }
  }

  /// The k-th transfer between two ranks has tag k on both, so that one left out on a side never passes for another.
  int next_tag(std::vector<int>& tags, int peer) const {
    if (peer >= world_size_) {
      throw failure("transfer with rank " + std::to_string(peer) + ": there are " + std::to_string(world_size_) +
                    " ranks");
    }
    int& next = tags[static_cast<std::size_t>(peer)];
    const int tag = next;
    next = (next + 1) % kTagCount;
    return tag;
  }

  MPI_Comm communicator_ = MPI_COMM_NULL;
  std::size_t piece_bytes_;
  int rank_ = 0;
  int world_size_ = 1;
  std::vector<int> next_send_tag_;
  std::vector<int> next_receive_tag_;
};

}  // namespace

std::unique_ptr<Transport> make_mpi_transport(MPI_Comm communicator, std::size_t piece_bytes) {
  return std::make_unique<MpiTransport>(communicator, piece_bytes);
}

}  // namespace ringscan
