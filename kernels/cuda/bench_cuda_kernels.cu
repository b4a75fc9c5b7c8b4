// Times the attend kernels on random normal input: bench_cuda_kernels [REPEATS [HEAD_DIM]]. One table; medians of CUDA
// events, cog in turn with the softmax that it is compared with.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <vector>

#include "kernels/cuda/attend.hpp"
#include "kernels/cuda/bench_support.cuh"
#include "kernels/cuda/bench_topk.cuh"
#include "kernels/cuda/check.hpp"
#include "mechanism/growing_window.hpp"

namespace {

using namespace ringscan;
using cuda::check;
using cuda::bench::DeviceArray;
using cuda::bench::fill_normal;
using cuda::bench::median_ms;
using cuda::bench::medians_ms;

struct Case {
  const char* name;
  enum { kSoftmax, kStick, kCog, kWindow } mechanism = kSoftmax;
  ElementType type = ElementType::kBfloat16;
  std::int64_t heads = 16;
  std::int64_t seq_len = 0;
  std::int64_t head_dim = 128;
  double epsilon = 0.0;
};

void run_case(const Case& c, int repeats) {
  const Shape4 shape{1, c.seq_len, c.heads, c.head_dim};
  const std::int64_t elements = element_count(shape);
  const DeviceArray q(2 * elements), k(2 * elements), v(2 * elements), o(2 * elements);
  const DeviceArray workspace(cuda::kWorkspaceBytes);
  std::uint64_t seed = 1;
  for (const DeviceArray* array : {&q, &k, &v}) {
    fill_normal<<<1024, 256>>>(static_cast<std::uint32_t*>(array->data()), elements / 2,
                               c.type == ElementType::kBfloat16, seed++ << 40);
    check(cudaGetLastError());
  }
  std::vector<HeadSlot> slots;
  for (int h = 0; h < c.heads; ++h) slots.push_back({h, h});
  cuda::DeviceAttend launch;
  launch.task.q = dense_any_view(static_cast<const void*>(q.data()), c.type, shape);
  launch.task.k = dense_any_view(static_cast<const void*>(k.data()), c.type, shape);
  launch.task.v = dense_any_view(static_cast<const void*>(v.data()), c.type, shape);
  launch.task.slots = slots;
  launch.task.query_run = launch.task.key_run = {0, c.seq_len};
  launch.task.band = {c.mechanism == Case::kStick ? 1 : 0, Band::kUnbounded};
  launch.task.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  const GrowingWindow window({.select = SparseSelect::kWindow}, c.seq_len);
  const std::vector<std::int64_t> reaches = GrowingWindow::reaches_of(window.keys_kept(TokenRun{0, c.seq_len}));
  const DeviceArray max_deltas(8 * c.seq_len);
  check(cudaMemcpy(max_deltas.data(), reaches.data(), 8 * reaches.size(), cudaMemcpyHostToDevice));
  if (c.mechanism == Case::kWindow) {
    launch.task.max_deltas = {static_cast<const std::int64_t*>(max_deltas.data()), reaches.size()};
  }
  launch.finishes = true;
  launch.finish.o = dense_any_view(o.data(), c.type, shape);
  launch.workspace = static_cast<std::uint32_t*>(workspace.data());
  const auto softmax = [&] { cuda::attend(launch, SoftmaxParams{}, nullptr); };
  const auto cog = [&] { cuda::attend(launch, CogParams{}, nullptr); };
  const auto stick = [&] { cuda::attend(launch, StickBreakingParams{.epsilon = c.epsilon}, nullptr); };
  double ms = 0.0;
  if (c.mechanism == Case::kCog) {
    const std::vector<double> both = medians_ms(repeats, {softmax, cog});
    ms = both[1];
    std::printf("| softmax, in turn with cog: %.3f of cog's time | | %8.3f | | | | | |\n", both[0] / ms, both[0]);
  } else {
    ms = c.mechanism == Case::kStick ? median_ms(repeats, stick) : median_ms(repeats, softmax);
  }
  std::uint32_t counts[2];
  check(cudaMemcpy(counts, workspace.data(), sizeof counts, cudaMemcpyDeviceToHost));

  // Floors: the tensor cores at 785 TFLOP/s and memory at 2,994 GB/s, both as measured on this kind of card; the
  // special-function units at 16 results a clock and multiprocessor, 1.755 GHz.
  const double dense_pairs = 0.5 * static_cast<double>(c.seq_len) * static_cast<double>(c.seq_len);
  const double window_pairs = static_cast<double>(window.count_kept({0, c.seq_len}));
  const double pairs = (c.mechanism == Case::kWindow ? window_pairs : dense_pairs) * static_cast<double>(c.heads);
  const double flops = 4.0 * pairs * static_cast<double>(c.head_dim);
  const double done = c.epsilon > 0.0
                          ? static_cast<double>(counts[1]) * static_cast<double>(cuda::key_tile(c.head_dim)) *
                                static_cast<double>(cuda::query_tile(c.head_dim)) / pairs
                          : 1.0;
  const double specials = pairs * (c.mechanism == Case::kStick ? 1.25 : 1.0);
  std::printf("| %-24s | H%-2lld N%-7lld D%-3lld %s | %8.3f | %7.1f | %7.3f | %7.3f | %7.3f | %9u |\n", c.name,
              static_cast<long long>(c.heads), static_cast<long long>(c.seq_len), static_cast<long long>(c.head_dim),
              c.type == ElementType::kBfloat16 ? "bf16" : "fp16", ms, flops / ms * 1e-9, done * flops / 785e12 * 1e3,
              done * specials / (132 * 16 * 1.755e9) * 1e3, static_cast<double>(8 * elements) / 2994e9 * 1e3,
              counts[1]);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int repeats = argc > 1 ? std::max(1, std::atoi(argv[1])) : 20;
    std::puts("| kernel | shape | ms | TFLOP/s | floor: tensor cores | special functions | bytes | tiles loaded |");
    std::puts("|---|---|---|---|---|---|---|---|");
    constexpr double kEpsilon = 0x1p-24;
    const Case cases[] = {
        {.name = "softmax", .seq_len = 8192},
        {.name = "softmax", .seq_len = 32768},
        {.name = "softmax", .type = ElementType::kFloat16, .seq_len = 32768},
        {.name = "softmax", .heads = 32, .seq_len = 32768, .head_dim = 64},
        {.name = "softmax", .heads = 8, .seq_len = 32768, .head_dim = 256},
        {.name = "softmax", .seq_len = 131072},
        {.name = "cog", .mechanism = Case::kCog, .seq_len = 32768},
        {.name = "cog", .mechanism = Case::kCog, .heads = 32, .seq_len = 32768, .head_dim = 64},
        {.name = "window n^0.7", .mechanism = Case::kWindow, .seq_len = 32768},
        {.name = "window n^0.7", .mechanism = Case::kWindow, .seq_len = 131072},
        {.name = "stick-breaking, dense", .mechanism = Case::kStick, .seq_len = 8192},
        {.name = "stick-breaking, dense", .mechanism = Case::kStick, .seq_len = 32768},
        {.name = "stick-breaking, dense", .mechanism = Case::kStick, .type = ElementType::kFloat16, .seq_len = 32768},
        {.name = "stick-breaking, dense", .mechanism = Case::kStick, .heads = 32, .seq_len = 32768, .head_dim = 64},
        {.name = "stick-breaking, dense", .mechanism = Case::kStick, .heads = 8, .seq_len = 32768, .head_dim = 256},
        {.name = "stick-breaking, 2^-24", .mechanism = Case::kStick, .seq_len = 32768, .epsilon = kEpsilon},
        {.name = "stick-breaking, 2^-24", .mechanism = Case::kStick, .seq_len = 131072, .epsilon = kEpsilon},
    };
    const int head_dim = argc > 2 ? std::atoi(argv[2]) : 0;
    for (const Case& c : cases) {
      if (head_dim == 0 || head_dim == c.head_dim) run_case(c, c.seq_len > 100000 && c.epsilon == 0.0 ? 5 : repeats);
    }
    if (head_dim == 0 || head_dim == 128) cuda::bench::run_topk(repeats, 16, 32768, 128);
    if (head_dim == 0 || head_dim == 64) cuda::bench::run_topk(repeats, 32, 32768, 64);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_cuda_kernels: %s\n", error.what());
    return 3;
  }
}
