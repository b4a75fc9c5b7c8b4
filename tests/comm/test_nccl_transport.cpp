// Ranks as threads with a GPU each: as many as there are, from one that sends to itself.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "comm/local_transport.hpp"
#include "comm/nccl_transport.hpp"
#include "core/error.hpp"
#include "core/stopwatch.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using ringscan::test::expect;
using ringscan::test::pattern;

namespace {

constexpr double kPatienceSeconds = 20;

void require_cuda(cudaError_t status) {
  if (status != cudaSuccess) throw failure(cudaGetErrorString(status));
}

int count_devices() {
  int devices = 0;
  require_cuda(cudaGetDeviceCount(&devices));
  return devices;
}

class DeviceBytes {
 public:
  explicit DeviceBytes(std::size_t size) : size_(size) { require_cuda(cudaMalloc(&data_, size)); }
  explicit DeviceBytes(const std::vector<std::byte>& host) : DeviceBytes(host.size()) {
    require_cuda(cudaMemcpy(data_, host.data(), size_, cudaMemcpyHostToDevice));
  }
  ~DeviceBytes() { cudaFree(data_); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  std::span<std::byte> span() const { return {static_cast<std::byte*>(data_), size_}; }
  std::vector<std::byte> to_host(std::size_t offset, std::size_t count) const {
    std::vector<std::byte> host(count);
    require_cuda(cudaMemcpy(host.data(), static_cast<std::byte*>(data_) + offset, count, cudaMemcpyDeviceToHost));
    return host;
  }
  std::vector<std::byte> to_host() const { return to_host(0, size_); }

 private:
  void* data_ = nullptr;
  std::size_t size_;
};

struct Options {
  double limit_seconds = kPatienceSeconds;
  cudaStream_t work_stream = nullptr;
};

void for_each_world(const std::function<void(NcclTransport&)>& body, int min_size = 1, const Options& options = {}) {
  for (int world_size = min_size; world_size <= std::min(count_devices(), 4); ++world_size) {
    run_ranks(world_size, [&](Transport& control) {
      const auto transport = make_nccl_transport(control, {control.rank(), options.work_stream, options.limit_seconds});
      body(*transport);
    });
  }
}

int next_of(const Transport& transport) {
  return (transport.rank() + 1) % transport.world_size();
}
int prev_of(const Transport& transport) {
  return (transport.rank() + transport.world_size() - 1) % transport.world_size();
}

Ticket pass_on(Transport& transport, std::span<const std::byte> send, std::span<std::byte> receive) {
  return transport.exchange({next_of(transport), send, prev_of(transport), receive});
}

/// The message of what `call` throws; empty: it throws nothing.
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void CUDART_CB sleep_a_while(void*) {
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
}

}  // namespace

TEST_CASE("device memory goes round, in the order it was sent, at odd sizes and addresses") {
  for_each_world([](NcclTransport& transport) {
    std::size_t sent = 0;
    for (const std::size_t size : {1u, 7u, 4097u, 3u << 20, (5u << 20) + 3u}) {
      const DeviceBytes first(pattern(transport.rank(), 1, size)), second(pattern(transport.rank(), 2, size));
      const DeviceBytes one(size + 1), two(size + 1);
      {
        Ticket ticket = pass_on(transport, first.span(), one.span().subspan(1));
        const Ticket other = pass_on(transport, second.span(), two.span().subspan(1));
        ticket.wait();
      }  // the other ends here
      expect(transport, one.to_host(1, size) == pattern(prev_of(transport), 1, size));
      expect(transport, two.to_host(1, size) == pattern(prev_of(transport), 2, size));
      sent += 2 * size;
    }
    expect(transport, transport.sent_bytes() == sent);
    expect(transport, transport.hop_seconds() > 0.0 && transport.hop_seconds() < kPatienceSeconds);
  });
  SUCCEED();
}

TEST_CASE("sides that are absent or empty; polling comes to an end") {
  for_each_world([](NcclTransport& transport) {
    const DeviceBytes bytes(16);
    transport.exchange({}).wait();
    transport.exchange({next_of(transport), {}, prev_of(transport), {}}).wait();
    if (transport.world_size() > 1) {  // from the first to the last, and nothing back
      const bool sends = transport.rank() == 0, receives = transport.rank() == transport.world_size() - 1;
      transport.exchange({sends ? transport.world_size() - 1 : -1, bytes.span(), receives ? 0 : -1, bytes.span()})
          .wait();
    }
    const DeviceBytes source(pattern(transport.rank(), 3, 1000));
    const DeviceBytes target(1000);
    Ticket ticket = pass_on(transport, source.span(), target.span());
    while (!ticket.poll()) {
    }
    expect(transport, ticket.poll());
    expect(transport, target.to_host() == pattern(prev_of(transport), 3, 1000));
  });
  SUCCEED();
}

TEST_CASE("transfers of device memory that start as one, some of them absent or empty") {
  for_each_world([](NcclTransport& transport) {
    const int rank = transport.rank(), ranks = transport.world_size();
    const DeviceBytes own(pattern(rank, 4, 100'003));
    for (int repeat = 0; repeat < 2; ++repeat) {  // the ranks meet for the first time, and again
      std::vector<std::unique_ptr<DeviceBytes>> received;
      std::vector<Transfer> transfers(1);
      for (int distance = 1; distance < ranks; ++distance) {
        received.push_back(std::make_unique<DeviceBytes>(own.span().size()));
        Transfer& transfer = transfers.emplace_back();
        if (rank + distance < ranks) transfer.to_rank = rank + distance, transfer.send = own.span();
        if (rank - distance >= 0) transfer.from_rank = rank - distance, transfer.receive = received.back()->span();
      }
      transfers.push_back({next_of(transport), {}, prev_of(transport), {}});
      transport.exchange_all(transfers).wait();
      for (int distance = 1; distance <= rank; ++distance) {
        expect(transport,
               received[static_cast<std::size_t>(distance - 1)]->to_host() == pattern(rank - distance, 4, 100'003));
      }
    }
    expect(transport, transport.sent_bytes() == 2 * 100'003u * static_cast<std::size_t>(ranks - 1 - rank));
    transport.exchange_all({}).wait();
  });
  SUCCEED();
}

TEST_CASE("the first ranks as a group of their own pass on device memory, too") {
  for_each_world([](NcclTransport& transport) {
    for (int count = 1; count <= transport.world_size(); ++count) {
      const std::unique_ptr<Transport> part = transport.first_ranks(count);
      expect(transport, (part != nullptr) == (transport.rank() < count));
      if (part == nullptr) continue;
      const DeviceBytes source(pattern(part->rank(), count, 12345));
      const DeviceBytes target(12345);
      pass_on(*part, source.span(), target.span()).wait();
      expect(transport, part->name() == "nccl" && part->world_size() == count);
      expect(transport, target.to_host() == pattern(prev_of(*part), count, 12345));
    }
  });
  SUCCEED();
}

TEST_CASE("host memory goes by the other transport; one side of each is refused") {
  for_each_world([](NcclTransport& transport) {
    const std::vector<std::byte> source = pattern(transport.rank(), 4, 777);
    std::vector<std::byte> target(777);
    pass_on(transport, source, target).wait();
    expect(transport, target == pattern(prev_of(transport), 4, 777));
    const DeviceBytes device(777);
    expect(transport, message_of([&] { pass_on(transport, source, device.span()).wait(); }) ==
                          "NCCL: one side of a transfer lies on the host, the other on the device");
    expect(transport, message_of([&] {
                        transport.exchange({transport.rank(), device.span(), -1, {}}).wait();
                      }) == "NCCL: a rank sends to itself and receives from itself in one transfer, equal bytes");
    expect(transport, transport.RankGroup::all_reduce(std::int64_t{1}, ReduceOp::kSum) == transport.world_size());
  });
  SUCCEED();
}

TEST_CASE("a transfer waits on the device for the work before it, and its time is not counted") {
  run_ranks(1, [](Transport& control) {
    cudaStream_t work = nullptr;
    require_cuda(cudaStreamCreateWithFlags(&work, cudaStreamNonBlocking));
    const std::size_t size = std::size_t{1} << 20;
    const DeviceBytes ready(pattern(0, 5, size)), source(size), target(size);
    {
      const auto transport = make_nccl_transport(control, {0, work, 0.2});  // less than the work takes
      pass_on(*transport, source.span(), target.span()).wait();             // NCCL is ready
      const double before = transport->hop_seconds();
      const Stopwatch watch;
      require_cuda(cudaLaunchHostFunc(work, sleep_a_while, nullptr));
      require_cuda(cudaMemcpyAsync(source.span().data(), ready.span().data(), size, cudaMemcpyDeviceToDevice, work));
      Ticket ticket = pass_on(*transport, source.span(), target.span());
      const double started_after = watch.seconds();
      ticket.wait();
      REQUIRE(target.to_host() == pattern(0, 5, size));
      REQUIRE(started_after < 0.2);
      REQUIRE(watch.seconds() >= 0.3);
      REQUIRE(transport->hop_seconds() - before < 0.1);
    }
    require_cuda(cudaStreamDestroy(work));
  });
}

TEST_CASE("one message of more than 2 GiB") {
  for_each_world([](NcclTransport& transport) {
    const std::size_t size = (std::size_t{1} << 31) + 12345;
    const DeviceBytes source(size), target(size);
    require_cuda(cudaMemset(target.span().data(), 0, size));
    for (const std::size_t at : {std::size_t{0}, (std::size_t{1} << 31) - 500, size - 1000}) {
      const std::vector<std::byte> bytes = pattern(transport.rank(), static_cast<int>(at % 97), 1000);
      require_cuda(cudaMemcpy(source.span().data() + at, bytes.data(), 1000, cudaMemcpyHostToDevice));
    }
    pass_on(transport, source.span(), target.span()).wait();
    for (const std::size_t at : {std::size_t{0}, (std::size_t{1} << 31) - 500, size - 1000}) {
      expect(transport, target.to_host(at, 1000) == pattern(prev_of(transport), static_cast<int>(at % 97), 1000));
    }
  });
  SUCCEED();
}

TEST_CASE("a rank that fails lets go of its buffers; later calls say why") {
  const auto body = [](NcclTransport& transport) {
    const DeviceBytes source(3000000), target(3000000);
    try {
      const Ticket ticket = pass_on(transport, source.span(), target.span());
      throw std::runtime_error("no more");
    } catch (const std::runtime_error&) {
    }
    // The transfer may have been done before; then all goes on.
    const std::string message = message_of([&] { transport.announce_failure(); });
    expect(transport, message.empty());
    expect(transport, !message_of([&] { pass_on(transport, source.span(), target.span()).wait(); }).empty());
    if (transport.world_size() > 1) throw failure("ended");
  };
  // Ranks that have announced a failure have to end with one.
  const std::string message = message_of([&] { for_each_world(body); });
  REQUIRE(message == (count_devices() > 1 ? "ended" : ""));
}

TEST_CASE("work behind order() sees what arrived, the host does not wait, and the queue's standing still is measured") {
  run_ranks(1, [](Transport& control) {
    cudaStream_t work = nullptr;
    require_cuda(cudaStreamCreateWithFlags(&work, cudaStreamNonBlocking));
    const std::size_t size = std::size_t{64} << 20;
    const DeviceBytes source(pattern(0, 6, size)), there(size), target(size);
    {
      const auto transport = make_nccl_transport(control, {0, work, kPatienceSeconds});
      pass_on(*transport, source.span(), there.span()).wait();
      REQUIRE(transport->take_queue_seconds() == 0.0);
      require_cuda(cudaMemset(there.span().data(), 0, size));
      for (int hop = 0; hop < 3; ++hop) {
        require_cuda(cudaLaunchHostFunc(work, sleep_a_while, nullptr));
        const Stopwatch watch;
        Ticket ticket = pass_on(*transport, source.span(), there.span());
        ticket.order();
        require_cuda(cudaMemcpyAsync(target.span().data(), there.span().data(), size, cudaMemcpyDeviceToDevice, work));
        REQUIRE(watch.seconds() < 0.2);
        ticket.wait();
      }
      require_cuda(cudaStreamSynchronize(work));
      REQUIRE(target.to_host() == pattern(0, 6, size));
      const double stood_still = transport->take_queue_seconds();
      REQUIRE(stood_still > 0.0);
      REQUIRE(stood_still < 0.2);
    }
    require_cuda(cudaStreamDestroy(work));
  });
}

TEST_CASE("no such GPU is said on all ranks") {
  run_ranks(1, [](Transport& control) {
    const int devices = count_devices();
    REQUIRE(message_of([&] {
              make_nccl_transport(control, {devices, nullptr, 5});
            }) == "rank 0 has no GPU " + std::to_string(devices) + ": found " + std::to_string(devices));
  });
}

TEST_CASE("a rank that fails, or never comes, ends those that wait for it") {
  if (count_devices() < 2) {
    WARN("not run: it takes two GPUs");
    return;
  }
  std::atomic<int> ended{0};
  const auto wait_for_last = [&](NcclTransport& transport) {
    const DeviceBytes source(1000), target(1000);
    const std::string message = message_of([&] { pass_on(transport, source.span(), target.span()).wait(); });
    if (!message.empty()) ++ended;
    throw failure(message);
  };
  REQUIRE(message_of([&] {
            for_each_world(
                [&](NcclTransport& transport) {
                  if (transport.rank() == transport.world_size() - 1) throw failure("no dataset q");
                  wait_for_last(transport);
                },
                2);
          }) == "no dataset q");
  REQUIRE(ended > 0);
  const Stopwatch watch;
  REQUIRE_FALSE(message_of([&] {
                  for_each_world(
                      [&](NcclTransport& transport) {
                        if (transport.rank() != transport.world_size() - 1) wait_for_last(transport);
                        std::this_thread::sleep_for(std::chrono::seconds(3));
                      },
                      2, {1.0, nullptr});
                }).empty());
  REQUIRE(watch.seconds() < kPatienceSeconds);
}
