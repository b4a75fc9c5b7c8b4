#include "apps/bench_ssm.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "apps/normal_values.hpp"
#include "core/stopwatch.hpp"
#include "kernels/cpu/exp_rate.hpp"
#include "kernels/ssm_kernels.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kStates = 16;
constexpr double kSampleSeconds = 0.05;

/// Bytes read and written a second.
double measure_copy_rate(std::vector<float>& to, const std::vector<float>& from) {
  const ThreadStopwatch watch;
  double bytes = 0.0;
  do {
    std::memcpy(to.data(), from.data(), from.size() * sizeof(float));
    bytes += 2.0 * static_cast<double>(from.size() * sizeof(float));
  } while (watch.seconds() < kSampleSeconds);
  return bytes / watch.seconds();
}

}  // namespace

SsmFigures bench_ssm(std::int64_t seq_len, int repeats) {
  const std::int64_t rows = seq_len * kSsmBenchChannels;
  const auto u = normal_values(rows, 1), z = normal_values(rows, 2), delta = normal_values(rows, 3, -4.6f);
  const auto b = normal_values(seq_len * kStates, 4), c = normal_values(seq_len * kStates, 5);
  std::vector<float> a(static_cast<std::size_t>(kSsmBenchChannels * kStates));
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = -static_cast<float>(i % kStates + 1);
  const std::vector<float> d(static_cast<std::size_t>(kSsmBenchChannels), 1.0f);
  const auto view = [&](const std::vector<float>& values, std::int64_t dim) {
    return dense_any_view(values.data(), ElementType::kFloat32, {1, seq_len, 1, dim});
  };
  ScanInputs inputs;
  inputs.u = view(u, kSsmBenchChannels);
  inputs.delta = view(delta, kSsmBenchChannels);
  inputs.z = view(z, kSsmBenchChannels);
  inputs.b = view(b, kStates);
  inputs.c = view(c, kStates);
  inputs.channels_per_group = kSsmBenchChannels;
  inputs.a = a.data();
  inputs.d = d.data();
  std::vector<float> y(u.size(), 0.0f);
  const auto kernels = make_cpu_ssm_kernels();
  const double elements = static_cast<double>(rows);
  // Of the decays, of softplus and of the gate; u, delta, z and y, and B and C once.
  const double exponentials = elements * static_cast<double>(kStates + 2);
  const double bytes = (4.0 * elements + 2.0 * static_cast<double>(seq_len * kStates)) * sizeof(float);
  std::vector<double> seconds, exp_seconds, memory_seconds, ratios;
  for (int repeat = -1; repeat < repeats; ++repeat) {  // the first is the warm-up
    const double of_exponentials = exponentials / measure_exp_rate(kSampleSeconds);
    const double of_bytes = bytes / measure_copy_rate(y, u);
    std::vector<float> h(a.size(), 0.0f);
    Heartbeat heartbeat;
    const ThreadStopwatch watch;
    kernels->scan(inputs, {nullptr, h.data()}, dense_view(y.data(), {1, seq_len, 1, kSsmBenchChannels}), heartbeat);
    const double of_scan = watch.seconds();
    if (repeat < 0) continue;
    seconds.push_back(of_scan);
    exp_seconds.push_back(of_exponentials);
    memory_seconds.push_back(of_bytes);
    ratios.push_back(of_scan / std::max(of_exponentials, of_bytes));
  }
  return {quartiles(seconds).median, quartiles(exp_seconds).median, quartiles(memory_seconds).median,
          quartiles(ratios)};
}

}  // namespace ringscan
