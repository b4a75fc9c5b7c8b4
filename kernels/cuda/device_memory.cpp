#include "kernels/cuda/device_memory.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <thread>

#include "core/stopwatch.hpp"
#include "core/units.hpp"
#include "kernels/cuda/check.hpp"

namespace ringscan::cuda {
namespace {

constexpr std::size_t kStagingBytes = std::size_t{16} << 20;
/// A pass may take a few milliseconds, and sleeping overshoots by most of a tenth: shorter waits spin.
constexpr double kSpinSeconds = 0.02;

}  // namespace

Stream::Stream() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

Stream::~Stream() {
  cudaStreamDestroy(stream_);
}

void Stream::wait() const {
  check(cudaStreamSynchronize(stream_));
}

void Stream::wait(Heartbeat& heartbeat) const {
  const Stopwatch waited;
  cudaError_t status = cudaErrorNotReady;
  while ((status = cudaStreamQuery(stream_)) == cudaErrorNotReady) {
    heartbeat.beat();
    if (waited.seconds() < kSpinSeconds) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }
  check(status);
}

void DeviceUsage::add(std::size_t bytes) {
  const std::size_t now = current_ += bytes;
  std::size_t most = peak_;
  while (most < now && !peak_.compare_exchange_weak(most, now)) {
  }
}

DeviceMemory::DeviceMemory(const Stream& stream, DeviceUsage& usage, bool is_shared)
    : stream_(stream.get()), usage_(usage), is_shared_(is_shared) {
  check(cudaGetDevice(&device_));
  check(cudaDeviceGetDefaultMemPool(&pool_, device_));
  std::uint64_t keep_all = std::numeric_limits<std::uint64_t>::max();
  check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all));
  for (Staging& staging : staging_) {
    check(cudaMallocHost(reinterpret_cast<void**>(&staging.data), kStagingBytes));
    check(cudaEventCreateWithFlags(&staging.done, cudaEventDisableTiming));
  }
}

DeviceMemory::~DeviceMemory() {
  cudaStreamSynchronize(stream_);
  for (Staging& staging : staging_) {
    cudaFreeHost(staging.data);
    cudaEventDestroy(staging.done);
  }
}

void* DeviceMemory::allocate(std::size_t bytes) {
  check(cudaSetDevice(device_));  // of this thread, which may be another than the one before
  void* data = nullptr;
  const cudaError_t status = cudaMallocAsync(&data, bytes, stream_);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: forget it
    throw failure("out of GPU memory: could not allocate " + human_bytes(bytes) + " beside " +
                  human_bytes(usage_.current_bytes()) + " in use; give a smaller --memory");
  }
  check(status);
  usage_.add(bytes);
  return data;
}

void DeviceMemory::release(void* data, std::size_t bytes) noexcept {
  cudaFreeAsync(data, stream_);
  usage_.remove(bytes);
}

void DeviceMemory::copy_in(void* to, const void* from_host, std::size_t bytes) {
  check(cudaSetDevice(device_));
  const auto* from = static_cast<const std::byte*>(from_host);
  auto* target = static_cast<std::byte*>(to);
  for (std::size_t at = 0, turn = 0; at < bytes; at += kStagingBytes, ++turn) {
    const Staging& staging = staging_[turn % staging_.size()];
    const std::size_t count = std::min(kStagingBytes, bytes - at);
    check(cudaEventSynchronize(staging.done));
    std::memcpy(staging.data, from + at, count);
    check(cudaMemcpyAsync(target + at, staging.data, count, cudaMemcpyHostToDevice, stream_));
    check(cudaEventRecord(staging.done, stream_));
  }
  if (is_shared_) check(cudaStreamSynchronize(stream_));
}

void DeviceMemory::copy_out(void* to_host, const void* from, std::size_t bytes) {
  check(cudaSetDevice(device_));
  const auto* source = static_cast<const std::byte*>(from);
  auto* target = static_cast<std::byte*>(to_host);
  const std::size_t pieces = (bytes + kStagingBytes - 1) / kStagingBytes;
  const auto size_of_piece = [&](std::size_t piece) { return std::min(kStagingBytes, bytes - piece * kStagingBytes); };
  for (std::size_t piece = 0; piece <= pieces; ++piece) {
    if (piece < pieces) {
      const Staging& staging = staging_[piece % staging_.size()];
      check(cudaMemcpyAsync(staging.data, source + piece * kStagingBytes, size_of_piece(piece), cudaMemcpyDeviceToHost,
                            stream_));
      check(cudaEventRecord(staging.done, stream_));
    }
    if (piece == 0) continue;
    const Staging& arrived = staging_[(piece - 1) % staging_.size()];
    check(cudaEventSynchronize(arrived.done));
    std::memcpy(target + (piece - 1) * kStagingBytes, arrived.data, size_of_piece(piece - 1));
  }
}

void DeviceMemory::fill_zero(void* data, std::size_t bytes) {
  check(cudaMemsetAsync(data, 0, bytes, stream_));
}

void DeviceMemory::copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                             std::size_t row_bytes, std::size_t rows) {
  if (row_bytes == 0 || rows == 0) return;
  check(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, row_bytes, rows, cudaMemcpyDeviceToDevice, stream_));
}

bool DeviceMemory::holds(const void* data) const {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, data));
  return attributes.type == cudaMemoryTypeDevice && attributes.device == device_;
}

std::size_t DeviceMemory::free_bytes() const {
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total));
  return free;
}

}  // namespace ringscan::cuda
