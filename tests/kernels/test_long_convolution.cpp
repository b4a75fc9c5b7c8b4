// Long convolutions of many channels against direct sums in float64, on every instruction set or device.
#include <array>
#include <cmath>
#include <vector>

#include "apps/normal_values.hpp"
#include "core/buffer.hpp"
#include "kernels/reference/chela_oracle.hpp"
#include "tests/kernels/blocks_under_test.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::test;

namespace {

constexpr double kBound = 3e-6;

/// Rows of batch items, or for one item lines, with what stands before them.
struct Problem {
  std::int64_t batch = 1;
  std::int64_t tokens = 0;
  std::int64_t channels = 0;
  std::int64_t width = 0;
  bool has_past = false;
  std::vector<float> past;    // [batch, width - 1, channels]
  std::vector<float> values;  // [batch, tokens, channels]
  std::vector<float> taps;    // [channels, width]

  void fill() {
    past = normal_values(has_past ? batch * (width - 1) * channels : 0, 1);
    values = normal_values(batch * tokens * channels, 2);
    taps = normal_values(channels * width, 3);
  }
  Shape4 shape(std::int64_t rows) const { return {batch, rows, 1, channels}; }
};

std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const bool has_past : {false, true}) {
    for (const auto& [batch, tokens, channels, width] : std::vector<std::array<std::int64_t, 4>>{{1, 1, 1, 1},
                                                                                                 {1, 1, 3, 9},
                                                                                                 {2, 2, 1, 2},
                                                                                                 {2, 97, 37, 65},
                                                                                                 {1, 97, 37, 97},
                                                                                                 {2, 97, 3, 400},
                                                                                                 {1, 1000, 33, 999},
                                                                                                 {2, 9001, 3, 100},
                                                                                                 {1, 9001, 37, 64},
                                                                                                 {1, 12345, 1, 2000},
                                                                                                 {1, 5000, 37, 1300}}) {
      Problem p{batch, tokens, channels, width, has_past, {}, {}, {}};
      p.fill();
      all.push_back(p);
    }
  }
  return all;
}

/// Largest error over the largest wanted; infinite for NaN. `found` has the problem's arrangement by rows.
double error_of(const Problem& p, const std::vector<float>& found) {
  const auto at = [&](const std::vector<float>& rows, std::int64_t count, std::int64_t b, std::int64_t t,
                      std::int64_t c) { return rows[static_cast<std::size_t>((b * count + t) * p.channels + c)]; };
  double worst = 0.0, largest = 0.0;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    for (std::int64_t c = 0; c < p.channels; ++c) {
      std::vector<double> line, before;
      for (std::int64_t t = 0; t < p.tokens; ++t) line.push_back(at(p.values, p.tokens, b, t, c));
      for (std::int64_t t = 0; t < p.width - 1 && p.has_past; ++t) before.push_back(at(p.past, p.width - 1, b, t, c));
      const std::vector<double> taps(p.taps.begin() + c * p.width, p.taps.begin() + (c + 1) * p.width);
      const std::vector<double> wanted = oracle::causal_convolution(taps, before, line);
      for (std::int64_t t = 0; t < p.tokens; ++t) {
        const double error = std::abs(at(found, p.tokens, b, t, c) - wanted[static_cast<std::size_t>(t)]);
        worst = error >= 0.0 ? std::max(worst, error) : HUGE_VAL;
        largest = std::max(largest, std::abs(wanted[static_cast<std::size_t>(t)]));
      }
    }
  }
  return worst / largest;
}

std::vector<float> run_rows(const Problem& p, LongConvolution& plan) {
  std::vector<float> values = p.values;
  RowsConvTask task;
  if (p.has_past) task.halo = dense_view(p.past.data(), p.shape(p.width - 1));
  task.values = dense_view(values.data(), p.shape(p.tokens));
  task.taps = p.taps.data();
  plan.run(task);
  return values;
}

/// Likewise in the backend's own memory, where nothing has to wait.
std::vector<float> run_rows_there(const Problem& p, const ChelaKernels& kernels, LongConvolution& plan) {
  MemorySpace& space = kernels.work_memory();
  const auto place = [&](const std::vector<float>& from) {
    Buffer to(from.size() * sizeof(float), nullptr, space);
    if (!from.empty()) space.copy_in(to.data(), from.data(), to.size_bytes());
    return to;
  };
  Buffer values = place(p.values);
  const Buffer past = place(p.past), taps = place(p.taps);
  RowsConvTask task;
  if (p.has_past) task.halo = dense_view(past.as<float>(), p.shape(p.width - 1));
  task.values = dense_view(values.as<float>(), p.shape(p.tokens));
  task.taps = taps.as<float>();
  plan.run(task);
  std::vector<float> found(p.values.size());
  space.copy_out(found.data(), values.data(), values.size_bytes());
  return found;
}

std::vector<float> transposed(const ChelaKernels& kernels, const float* from, std::int64_t rows, std::int64_t columns) {
  std::vector<float> to(static_cast<std::size_t>(rows * columns));
  kernels.transpose({from, columns, to.data(), rows, rows, columns});
  return to;
}

std::vector<float> run_lines(const Problem& p, const ChelaKernels& kernels, LongConvolution& plan) {
  std::vector<float> found;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const float* const rows = p.values.data() + b * p.tokens * p.channels;
    std::vector<float> lines = transposed(kernels, rows, p.tokens, p.channels), past;
    const std::int64_t before = p.width - 1;
    if (p.has_past) past = transposed(kernels, p.past.data() + b * before * p.channels, before, p.channels);
    plan.run(LinesConvTask{past.empty() ? nullptr : past.data(), lines.data(), p.taps.data(), p.channels});
    const std::vector<float> back = transposed(kernels, lines.data(), p.channels, p.tokens);
    found.insert(found.end(), back.begin(), back.end());
  }
  return found;
}

}  // namespace

TEST_CASE("long convolutions equal direct sums at odd lengths, widths and numbers of channels, by rows and by lines") {
  for_each_chela([](ChelaKernels& kernels) {
    for (const Problem& p : problems()) {
      CAPTURE(p.batch, p.tokens, p.channels, p.width, p.has_past);
      const auto plan = kernels.plan_convolution(p.tokens, p.width, p.channels);
      const std::vector<float> rows = run_rows(p, *plan);
      REQUIRE(error_of(p, rows) <= kBound);
      REQUIRE(run_rows_there(p, kernels, *plan) == rows);
      REQUIRE(error_of(p, run_lines(p, kernels, *plan)) <= kBound);
    }
  });
}

TEST_CASE("a plan for fewer channels than a task has goes over them in groups") {
  for_each_chela([](ChelaKernels& kernels) {
    Problem p{2, 700, 11, 150, true, {}, {}, {}};
    p.fill();
    for (const std::int64_t channels : {1, 4, 16}) {
      const auto plan = kernels.plan_convolution(p.tokens, p.width, channels);
      REQUIRE(error_of(p, run_rows(p, *plan)) <= kBound);
      REQUIRE(error_of(p, run_lines(p, kernels, *plan)) <= kBound);
    }
  });
}

TEST_CASE("a long convolution gives the same bits every time, with fresh plans too") {
  const auto kernels = make_chela_under_test();
  Problem p{1, 1500, 5, 700, true, {}, {}, {}}, other{2, 1500, 5, 700, false, {}, {}, {}};
  p.fill();
  other.fill();
  std::vector<float> first;
  for (int round = 0; round < 3; ++round) {
    const auto plan = kernels->plan_convolution(p.tokens, p.width, p.channels);
    run_rows(other, *plan);
    const std::vector<float> found = run_rows(p, *plan);
    if (round == 0) first = found;
    REQUIRE(found == first);
  }
}

TEST_CASE("transposing reads and writes rows that lie apart, and leaves what lies between") {
  for_each_chela([](ChelaKernels& kernels) {
    for (const auto& [rows, columns] :
         std::vector<std::array<std::int64_t, 2>>{{1, 1}, {3, 70}, {70, 3}, {33, 65}, {200, 37}}) {
      const std::int64_t from_stride = columns + 5, to_stride = rows + 3;
      const std::vector<float> from = normal_values(rows * from_stride, 4);
      std::vector<float> to(static_cast<std::size_t>(columns * to_stride), -7.0f);
      kernels.transpose({from.data(), from_stride, to.data(), to_stride, rows, columns});
      for (std::int64_t column = 0; column < columns; ++column) {
        for (std::int64_t row = 0; row < to_stride; ++row) {
          const float wanted = row < rows ? from[static_cast<std::size_t>(row * from_stride + column)] : -7.0f;
          REQUIRE(to[static_cast<std::size_t>(column * to_stride + row)] == wanted);
        }
      }
    }
  });
}
