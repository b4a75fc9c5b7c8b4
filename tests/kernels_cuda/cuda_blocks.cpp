#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cuda/device_memory.hpp"
#include "kernels/cuda/long_convolution.hpp"
#include "kernels/kernels.hpp"
#include "tests/kernels/blocks_under_test.hpp"
#include "tests/support/catch.hpp"

namespace ringscan::test {
namespace {

const Kernels& backend() {
  static const std::unique_ptr<Kernels> kernels = make_cuda_kernels(0);
  return *kernels;
}

}  // namespace

void for_each_ssm(const std::function<void(SsmKernels&)>& body) {
  body(*make_ssm_under_test());
}

void for_each_chela(const std::function<void(ChelaKernels&)>& body) {
  body(*make_chela_under_test());
}

std::unique_ptr<SsmKernels> make_ssm_under_test() {
  return backend().make_ssm();
}

std::unique_ptr<ChelaKernels> make_chela_under_test() {
  return backend().make_chela();
}

bool blocks_have_fixed_bits() {
  return false;
}

}  // namespace ringscan::test

// Here, since only a device cuts lines, which the other backends take whole: in problems of their sizes it would not.
TEST_CASE("a long convolution cut to little scratch, to single transforms of a line, gives what one with much gives") {
  using namespace ringscan;
  const std::int64_t tokens = 30'011, width = 300, channels = 5;
  const cuda::Stream stream;
  std::vector<float> taps(static_cast<std::size_t>(channels * width)), in(static_cast<std::size_t>(channels * tokens));
  for (std::size_t i = 0; i < taps.size(); ++i) taps[i] = std::sin(static_cast<float>(i));
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = std::cos(0.7f * static_cast<float>(i));
  std::vector<float> wanted;
  for (const std::int64_t scratch : {std::int64_t{256} << 20, std::int64_t{1'200'000}, std::int64_t{400'000},
                                     std::int64_t{280'000}, std::int64_t{1}}) {
    std::vector<float> values = in;
    RowsConvTask task;
    task.values = dense_view(values.data(), {1, tokens, 1, channels});
    task.taps = taps.data();
    cuda::make_long_convolution(tokens, width, channels, stream.get(), scratch)->run(task);
    if (wanted.empty()) wanted = values;
    float worst = 0.0f, largest = 0.0f;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const float error = std::abs(values[i] - wanted[i]);
      worst = error >= 0.0f ? std::max(worst, error) : HUGE_VALF;
      largest = std::max(largest, std::abs(wanted[i]));
    }
    REQUIRE(largest > 0.0f);
    REQUIRE(worst <= 3e-6f * largest);
  }
}
