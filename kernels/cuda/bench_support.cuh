#pragma once
// What the benches share: random input, device memory, times.

#include <algorithm>
#include <functional>
#include <vector>

#include "kernels/cuda/check.hpp"

namespace ringscan::cuda::bench {

/// Standard normal numbers, two a thread, from a hash of the place.
static __global__ void fill_normal(std::uint32_t* pairs, std::int64_t count, bool bf16, std::uint64_t seed) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    std::uint64_t x = (static_cast<std::uint64_t>(i) + seed) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    const float u = (static_cast<float>(x >> 40) + 1.0f) * 0x1p-24f;
    const float radius = sqrtf(-2.0f * logf(u));
    const float angle = static_cast<float>(x & 0xFFFFFF) * 0x1p-24f * 6.2831853f;
    const float a = radius * cosf(angle);
    const float b = radius * sinf(angle);
    std::uint32_t bits;
    if (bf16) {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(b), "f"(a));
    } else {
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(b), "f"(a));
    }
    pairs[i] = bits;
  }
}

class DeviceArray {
 public:
  explicit DeviceArray(std::int64_t bytes) { check(cudaMalloc(&data_, static_cast<std::size_t>(bytes))); }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

/// By events, in ms.
class EventTimer {
 public:
  EventTimer() {
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
  }
  ~EventTimer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  EventTimer(const EventTimer&) = delete;
  EventTimer& operator=(const EventTimer&) = delete;

  float ms_of(const std::function<void()>& work) {
    check(cudaEventRecord(begin_));
    work();
    check(cudaEventRecord(end_));
    check(cudaEventSynchronize(end_));
    float ms = 0.0f;
    check(cudaEventElapsedTime(&ms, begin_, end_));
    return ms;
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

/// Medians of works that are timed in turn, so that a card that grows warm slows all of them alike: `repeats` of each and
/// 300 ms of all, behind three and 100 ms that do not count, as the peers are timed (bench_cudnn.py): a cool card is faster
/// for some tenths of a second. One repeat is one behind three, for profilers.
inline std::vector<double> medians_ms(int repeats, const std::vector<std::function<void()>>& works) {
  const float warm_up_ms = repeats > 1 ? 100.0f : 0.0f;
  const float least_ms = repeats > 1 ? 300.0f : 0.0f;
  EventTimer timer;
  float taken = 0.0f;
  for (int i = 0; i < 3 || taken < warm_up_ms; ++i) {
    for (const auto& work : works) taken += timer.ms_of(work);
  }
  std::vector<std::vector<float>> times(works.size());
  taken = 0.0f;
  for (int i = 0; i < repeats || taken < least_ms; ++i) {
    for (std::size_t w = 0; w < works.size(); ++w) {
      times[w].push_back(timer.ms_of(works[w]));
      taken += times[w].back();
    }
  }
  std::vector<double> medians;
  for (std::vector<float>& of_work : times) {
    const auto middle = of_work.begin() + static_cast<std::ptrdiff_t>(of_work.size() / 2);
    std::nth_element(of_work.begin(), middle, of_work.end());
    medians.push_back(static_cast<double>(*middle));
  }
  return medians;
}

inline double median_ms(int repeats, const std::function<void()>& work) {
  return medians_ms(repeats, {work}).front();
}

}  // namespace ringscan::cuda::bench
