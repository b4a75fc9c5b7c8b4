// Convolutions, gates and affine maps of the CHELA block against the oracle, on every instruction set or device.
#include <array>
#include <cmath>
#include <vector>

#include "apps/normal_values.hpp"
#include "kernels/reference/chela_oracle.hpp"
#include "tests/kernels/blocks_under_test.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::test;

namespace {

std::vector<double> exactly(std::span<const float> values) {
  return {values.begin(), values.end()};
}

/// Largest |found - wanted| over the largest |wanted|; infinite for NaN.
double relative_error(std::span<const float> found, std::span<const double> wanted) {
  double worst = 0.0, largest = 0.0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double error = std::abs(found[i] - wanted[i]);
    worst = error >= 0.0 ? std::max(worst, error) : HUGE_VAL;
    largest = std::max(largest, std::abs(wanted[i]));
  }
  return largest > 0.0 ? worst / largest : worst;
}

}  // namespace

TEST_CASE("the oracle's transform equals its direct sums") {
  for (const auto& [tokens, width, before] :
       std::vector<std::array<std::size_t, 3>>{{1, 1, 0}, {5, 3, 2}, {100, 170, 0}, {100, 170, 169}, {333, 64, 20}}) {
    const auto taps = exactly(normal_values(width, 1));
    const auto in = exactly(normal_values(tokens, 2));
    const auto past = exactly(normal_values(before, 3));
    const auto direct = oracle::causal_convolution(taps, past, in);
    const auto transformed = oracle::causal_convolution_by_transform(taps, past, in);
    for (std::size_t t = 0; t < tokens; ++t) REQUIRE(std::abs(direct[t] - transformed[t]) <= 1e-11);
  }
}

TEST_CASE("the direct convolution equals the oracle, and does not depend on where runs begin") {
  for_each_chela([](ChelaKernels& kernels) {
    for (const auto& [tokens, channels, width] :
         std::vector<std::array<std::int64_t, 3>>{{1, 1, 1}, {7, 5, 20}, {50, 33, 4}, {65, 16, 64}}) {
      const std::int64_t before = width - 1;
      const auto taps = normal_values(channels * width, 11);
      const auto inputs = normal_values((before + tokens) * channels, 12);
      std::vector<float> whole(static_cast<std::size_t>(tokens * channels));
      std::vector<float> pieces(whole.size());
      const auto convolve = [&](std::int64_t begin, std::int64_t count, std::vector<float>& out) {
        PlainConvTask task;
        task.halo = dense_view(inputs.data() + begin * channels, {1, before, 1, channels});
        task.in = dense_view(inputs.data() + (before + begin) * channels, {1, count, 1, channels});
        task.out = dense_view(out.data() + begin * channels, {1, count, 1, channels});
        task.taps = taps.data();
        task.width = width;
        kernels.convolve(task);
      };
      convolve(0, tokens, whole);
      for (std::int64_t begin = 0; begin < tokens; begin += 3)
        convolve(begin, std::min<std::int64_t>(3, tokens - begin), pieces);
      REQUIRE(whole == pieces);
      for (std::int64_t c = 0; c < channels; ++c) {
        std::vector<double> line, found;
        for (std::int64_t t = 0; t < before + tokens; ++t)
          line.push_back(inputs[static_cast<std::size_t>(t * channels + c)]);
        const auto wanted = oracle::causal_convolution(
            exactly(std::span(taps).subspan(static_cast<std::size_t>(c * width), static_cast<std::size_t>(width))),
            std::span(line).first(static_cast<std::size_t>(before)),
            std::span(line).subspan(static_cast<std::size_t>(before)));
        std::vector<float> column;
        for (std::int64_t t = 0; t < tokens; ++t) column.push_back(whole[static_cast<std::size_t>(t * channels + c)]);
        REQUIRE(relative_error(column, wanted) <= 2e-6);
      }
    }
  });
}

TEST_CASE("gates and affine maps") {
  for_each_chela([](ChelaKernels& kernels) {
    for (const std::size_t count : {1u, 7u, 16u, 100u}) {
      const auto x = normal_values(count, 13), factor = normal_values(count, 14), offset = normal_values(count, 15);
      std::vector<float> rows(x);
      rows.insert(rows.end(), factor.begin(), factor.end());
      kernels.affine(rows.data(), 2, factor, offset, rows.data());
      auto silu = x, gate = x;
      kernels.silu(silu);
      kernels.gate(gate, factor.data());
      for (std::size_t i = 0; i < count; ++i) {
        const double exact = oracle::silu(x[i]);
        REQUIRE(std::abs(silu[i] - exact) <= 1e-6);
        REQUIRE(std::abs(gate[i] - exact * factor[i]) <= 2e-6);
        REQUIRE(std::abs(rows[i] - (double(factor[i]) * x[i] + offset[i])) <=
                1e-6 * (1.0 + std::abs(factor[i] * x[i])));
        REQUIRE(std::abs(rows[count + i] - (double(factor[i]) * factor[i] + offset[i])) <= 4e-6);
      }
    }
  });
}
