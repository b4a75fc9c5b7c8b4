// Times linear attention and the selective scan on random normal input: bench_cuda_scans [REPEATS]. One table; medians
// of CUDA events.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "kernels/cuda/bench_support.cuh"
#include "kernels/cuda/linear.hpp"
#include "kernels/cuda/scan.hpp"

namespace {

using namespace ringscan;
using cuda::check;
using cuda::bench::DeviceArray;
using cuda::bench::fill_normal;
using cuda::bench::median_ms;

constexpr double kBytesASecond = 4.3e12;      // a device-to-device copy on an H200, read and written
constexpr double kSpecialsASecond = 132 * 16 * 1.755e9;  // exponentials
constexpr double kTensorFlops = 785e12;

void fill(const DeviceArray& array, std::int64_t elements, std::uint64_t seed) {
  fill_normal<<<1024, 256>>>(static_cast<std::uint32_t*>(array.data()), elements / 2, true, seed << 40);
  check(cudaGetLastError());
}
__global__ void make_decays(float* decays, std::int64_t count, float strongest) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    decays[i] = strongest * static_cast<float>((i * 2654435761u) % 1024) / 1024.0f;
  }
}
__global__ void make_a(float* a, std::int64_t count, int d_state) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) a[i] = -static_cast<float>(i % d_state + 1);
}

/// Log decays between `strongest` and 0; none where that is 0.
void bench_linear(std::int64_t heads, std::int64_t seq_len, std::int64_t dim, float strongest, int repeats) {
  const Shape4 shape{1, seq_len, heads, dim};
  const std::int64_t elements = element_count(shape);
  const DeviceArray q(2 * elements), k(2 * elements), v(2 * elements), o(2 * elements), g(4 * seq_len * heads);
  fill(q, elements, 1);
  fill(k, elements, 2);
  fill(v, elements, 3);
  make_decays<<<1024, 256>>>(static_cast<float*>(g.data()), seq_len * heads, strongest);
  const LinearShape state_shape{1, heads, dim, dim, false};
  const DeviceArray workspace(static_cast<std::int64_t>(cuda::linear_workspace_bytes(state_shape, seq_len)));
  std::vector<HeadSlot> slots;
  std::vector<int> columns;
  for (int h = 0; h < heads; ++h) {
    slots.push_back({h, h});
    columns.push_back(h);
  }
  const auto view = [&](const DeviceArray& array) {
    return dense_any_view(static_cast<const void*>(array.data()), ElementType::kBfloat16, shape);
  };
  LinearTask task;
  task.q = view(q);
  task.k = view(k);
  task.v = view(v);
  task.slots = slots;
  task.log_decay = dense_any_view(static_cast<const void*>(g.data()), ElementType::kFloat32, {1, seq_len, heads, 1});
  task.decay_columns = columns;
  task.scale = 1.0 / std::sqrt(static_cast<double>(dim));
  task.o = dense_any_view(o.data(), ElementType::kBfloat16, shape);
  const LinearParams params{strongest < 0.0f ? Decay::kToken : Decay::kNone};
  const double summary = median_ms(repeats, [&] {
    cuda::linear_summarize(task, params, state_shape, workspace.data(), nullptr);
    cuda::linear_carry(state_shape, seq_len, workspace.data(), {state_shape, nullptr}, {state_shape, nullptr}, nullptr);
  });
  const double output =
      median_ms(repeats, [&] { cuda::linear_output(task, params, state_shape, workspace.data(), nullptr); });
  const double n = static_cast<double>(seq_len * heads);
  const double flops = linear_output_flops(n, static_cast<double>(dim), static_cast<double>(dim));
  std::printf("| linear, log decay %g..0 | H%lld N%lld D%lld bf16 | %.3f | %.3f + %.3f | %.3f | %.3f |\n",
              static_cast<double>(strongest),
              static_cast<long long>(heads), static_cast<long long>(seq_len), static_cast<long long>(dim),
              summary + output, summary, output, flops / kTensorFlops * 1e3,
              static_cast<double>(8 * elements) / kBytesASecond * 1e3);
  std::fflush(stdout);
}

void bench_scan(std::int64_t channels, std::int64_t tokens, bool has_z, int repeats) {
  constexpr int kDState = 16;
  const Shape4 shape{1, tokens, 1, channels};
  const std::int64_t elements = element_count(shape);
  const DeviceArray u(2 * elements), delta(2 * elements), z(has_z ? 2 * elements : 16), y(2 * elements);
  const DeviceArray b(2 * tokens * kDState), c(2 * tokens * kDState), a(4 * channels * kDState), h(4 * channels * kDState);
  fill(u, elements, 1);
  fill(delta, elements, 2);
  if (has_z) fill(z, elements, 3);
  fill(b, tokens * kDState, 4);
  fill(c, tokens * kDState, 5);
  make_a<<<static_cast<unsigned>(channels * kDState / 256), 256>>>(static_cast<float*>(a.data()), channels * kDState, kDState);
  const auto view = [&](const DeviceArray& array, const Shape4& of) {
    return dense_any_view(static_cast<const void*>(array.data()), ElementType::kBfloat16, of);
  };
  cuda::DeviceScan task;
  task.inputs.u = view(u, shape);
  task.inputs.delta = view(delta, shape);
  if (has_z) task.inputs.z = view(z, shape);
  task.inputs.b = view(b, {1, tokens, 1, kDState});
  task.inputs.c = view(c, {1, tokens, 1, kDState});
  task.inputs.channels_per_group = channels;
  task.inputs.a = static_cast<const float*>(a.data());
  task.h_out = static_cast<float*>(h.data());
  const DeviceArray sums(4 * channels);
  const DeviceArray workspace(static_cast<std::int64_t>(cuda::scan_workspace_bytes(task.inputs)));
  task.delta_sum = static_cast<float*>(sums.data());
  task.workspace = workspace.data();
  const double summary = median_ms(repeats, [&] { cuda::scan(task, nullptr); });
  task.y = dense_any_view(y.data(), ElementType::kBfloat16, shape);
  const double output = median_ms(repeats, [&] { cuda::scan(task, nullptr); });
  const double pairs = static_cast<double>(elements);
  std::printf("| selective scan%s | channels %lld, state %d, N%lld bf16 | %.3f | summary alone %.3f | %.3f | %.3f |\n",
              has_z ? ", z" : "", static_cast<long long>(channels), kDState, static_cast<long long>(tokens), output,
              summary, pairs * (kDState + 2 + (has_z ? 2 : 0)) / kSpecialsASecond * 1e3,
              pairs * (has_z ? 8 : 6) / kBytesASecond * 1e3);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int repeats = argc > 1 ? std::max(1, std::atoi(argv[1])) : 20;
    std::puts("| kernel | shape | ms | of which | floor: arithmetic | bytes |");
    std::puts("|---|---|---|---|---|---|");
    for (const float strongest : {-0.05f, -0.0005f, 0.0f}) bench_linear(16, 131072, 128, strongest, repeats);
    bench_linear(32, 131072, 64, -0.05f, repeats);
    bench_scan(4096, 131072, false, repeats);
    bench_scan(4096, 131072, true, repeats);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_cuda_scans: %s\n", error.what());
    return 3;
  }
}
