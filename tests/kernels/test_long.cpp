// Long sticks, and offsets past 2^31 elements.
#include <sys/mman.h>

#include <cmath>
#include <vector>

#include "kernels/reference/oracle.hpp"
#include "tests/kernels/attention_case.hpp"
#include "tests/kernels/kernels_under_test.hpp"
#include "tests/support/catch.hpp"

namespace ringscan::test {
namespace {

/// A hundred thousand keys, each of which takes a millionth.
AttentionCase long_stick(std::function<float(std::int64_t, std::int64_t)> key) {
  AttentionCase problem;
  StickBreakingParams params;
  params.epsilon = 0.0;
  problem.mechanism = params;
  problem.seq_len = 120'001;
  problem.queries = {120'000, 120'001};
  problem.head_dim = 4;
  problem.v_dim = 3;
  problem.scale = 1.0f;
  problem.key_block = 512;
  problem.q = [](std::int64_t, std::int64_t i) { return i == 0 ? 1.0f : 0.0f; };
  problem.k = std::move(key);
  return problem;
}

}  // namespace

TEST_CASE("A stick of very many tiny pieces stays precise") {
  const auto kernels = make_kernels_under_test();
  REQUIRE(error_of(*kernels, long_stick([](std::int64_t, std::int64_t) { return -12.0f; })) <= 1.0);
  REQUIRE(error_of(*kernels, long_stick([](std::int64_t, std::int64_t) { return -10.3f; })) <= 1.0);
  AttentionCase constant = long_stick([](std::int64_t j, std::int64_t) { return -11.0f - 0.1f * float(j % 37); });
  constant.v = [](std::int64_t, std::int64_t) { return 1.0f; };
  REQUIRE(error_of(*kernels, constant) <= 1.0);
}

TEST_CASE("A long softmax over equal scores stays precise") {
  const auto kernels = make_kernels_under_test();
  AttentionCase problem = long_stick([](std::int64_t j, std::int64_t) { return 0.01f * float(j % 11); });
  problem.mechanism = SoftmaxParams{};
  REQUIRE(error_of(*kernels, problem) <= 1.0);
  problem.v = [](std::int64_t, std::int64_t) { return 1.0f; };
  REQUIRE(error_of(*kernels, problem) <= 1.0);
}

TEST_CASE("Offsets past 2^31 elements") {
  // Two heads, so far apart that only the pages touched are ever made.
  constexpr std::int64_t kHeadStride = (std::int64_t{1} << 31) + 4096;
  constexpr std::int64_t kRows = 70;
  constexpr std::int64_t kDim = 8;
  constexpr std::size_t kBytes = (static_cast<std::size_t>(kHeadStride) + kRows * kDim) * sizeof(std::uint16_t);
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    WARN("not tested: this machine gives no 4 GiB of address space without backing");
    return;
  }
  AttentionCase near_case;
  near_case.seq_len = kRows;
  near_case.head_dim = near_case.v_dim = kDim;
  near_case.type = near_case.output_type = ElementType::kBfloat16;
  near_case.mechanism = SoftmaxParams{};
  const Activations activations(near_case);
  auto* far_rows = static_cast<std::byte*>(memory) + kHeadStride * 2;
  std::copy_n(activations.k().data, kRows * kDim * 2, far_rows);

  // q, k, v and o are all the far head of one view.
  const AnyView view{
      static_cast<const std::byte*>(memory), ElementType::kBfloat16, {1, kRows, 2, kDim}, {0, kDim, kHeadStride, 1}};
  const HeadSlot slot{1, 1};
  const auto kernels = make_kernels_under_test();
  LseBlock block;
  kernels->make(block, {1, kRows, 1, kDim}, nullptr);
  Heartbeat heartbeat;
  kernels->attend({view, view, view, {&slot, 1}, {0, kRows}, {0, kRows}, band_of(SoftmaxParams{}), 0.5f, 64},
                  SoftmaxParams{}, block, heartbeat);
  const auto rows = activations.head_of(activations.k(), 0, 0);
  FinishTask task;
  task.o = {static_cast<std::byte*>(memory), ElementType::kBfloat16, view.shape, view.strides};
  task.slots = {&slot, 1};
  kernels->finish(task, SoftmaxParams{}, block);

  const oracle::HeadKeys keys{rows, rows, kRows, kDim, kDim};
  for (std::int64_t i = 0; i < kRows; ++i) {
    const auto q = std::span(rows).subspan(static_cast<std::size_t>(i * kDim), kDim);
    const oracle::Row want = oracle::softmax_row({}, keys, q, i, 0.5);
    std::vector<double> o(kDim);
    convert_elements(task.o.row(0, i, 1), ElementType::kBfloat16, o.data(), ElementType::kFloat64, kDim);
    for (std::size_t d = 0; d < kDim; ++d) REQUIRE(std::abs(o[d] - want.o[d]) <= 4e-2);
  }
  munmap(memory, kBytes);
}

}  // namespace ringscan::test
