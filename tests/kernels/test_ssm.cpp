// The selective scan, convolution and projection, against the oracle, on every instruction set or device.
#include "core/buffer.hpp"
#include "tests/kernels/blocks_under_test.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/ssm_problem.hpp"

using namespace ringscan;
using namespace ringscan::test;
using namespace ringscan::testing;

namespace {

constexpr double kBound = 1e-5;

/// Two ways to one result: bit for bit where the backend says so, else each as near the other as to the oracle.
void require_same(const std::vector<float>& found, const std::vector<float>& wanted) {
  if (blocks_have_fixed_bits()) {
    REQUIRE(found == wanted);
  } else {
    REQUIRE(relative_error(found, std::vector<double>(wanted.begin(), wanted.end())) <= kBound);
  }
}

struct Scan {
  std::vector<float> y, h, delta_sum;
};

Scan scan_whole(SsmKernels& kernels, const SsmProblem& p, const std::vector<float>& h_start = {}) {
  Scan scan;
  scan.y.resize(p.u.size());
  scan.h = h_start.empty() ? std::vector<float>(p.state_size(), 0.0f) : h_start;
  scan.delta_sum.resize(static_cast<std::size_t>(p.batch * p.channels));
  Heartbeat heartbeat;
  kernels.scan(p.inputs({0, p.seq_len}), {scan.delta_sum.data(), scan.h.data()},
               dense_view(scan.y.data(), {p.batch, p.seq_len, 1, p.channels}), heartbeat);
  return scan;
}

}  // namespace

TEST_CASE("the selective scan equals the oracle at odd sizes, with and without what is optional") {
  for_each_ssm([](SsmKernels& kernels) {
    for (const auto& [seq_len, channels, d_state, groups, batch] : std::vector<std::array<std::int64_t, 5>>{
             {1, 1, 1, 1, 1}, {67, 5, 3, 1, 2}, {130, 34, 16, 2, 1}, {200, 300, 4, 3, 1}, {65, 17, 7, 17, 1}}) {
      for (const int optional : {0, 1, 2, 4, 7}) {
        SsmProblem p = make_ssm_problem(seq_len, channels, d_state, groups, batch);
        p.has_d = (optional & 1) != 0;
        p.has_bias = (optional & 2) != 0;
        p.has_z = (optional & 4) != 0;
        const SsmResult exact = exact_result(p);
        const Scan scan = scan_whole(kernels, p);
        REQUIRE(relative_error(scan.y, exact.y) <= kBound);
        REQUIRE(relative_error(scan.h, exact.h) <= kBound);
      }
    }
  });
}

TEST_CASE("tokens in runs and channels in runs give what the whole gives") {
  const SsmProblem p = make_ssm_problem(300, 40, 8, 2);
  const auto kernels = make_ssm_under_test();
  const Scan whole = scan_whole(*kernels, p);
  Scan parts;
  parts.y.resize(p.u.size());
  parts.h.assign(p.state_size(), 0.0f);
  Heartbeat heartbeat;
  for (std::int64_t begin = 0; begin < p.seq_len; begin += 77) {
    const TokenRun run = intersect(TokenRun{begin, begin + 77}, TokenRun{0, p.seq_len});
    auto y = dense_view(parts.y.data() + begin * p.channels, {1, run.size(), 1, p.channels});
    kernels->scan(p.inputs(run), {nullptr, parts.h.data()}, y, heartbeat);
  }
  require_same(parts.y, whole.y);
  require_same(parts.h, whole.h);

  parts.h.assign(p.state_size(), 0.0f);
  for (const auto& [first, count] : std::vector<std::array<std::int64_t, 2>>{{0, 7}, {7, 21}, {28, 12}}) {
    const ScanInputs inputs = p.inputs({0, p.seq_len}).slice(first, count);
    auto y = dense_view(parts.y.data() + first, {1, p.seq_len, 1, p.channels});
    y.shape[3] = count;
    kernels->scan(inputs, {nullptr, parts.h.data() + first * p.d_state}, y, heartbeat);
  }
  require_same(parts.y, whole.y);
  require_same(parts.h, whole.h);
}

TEST_CASE("a summary and the correction for an incoming state give what one scan gives") {
  for_each_ssm([](SsmKernels& kernels) {
    SsmProblem p = make_ssm_problem(400, 21, 5, 3, 2);
    p.delta_low = 1e-4;
    p.delta_high = 1e-2;
    p.fill();
    std::vector<float> h_start(p.state_size());
    for (std::size_t i = 0; i < h_start.size(); ++i) h_start[i] = std::sin(static_cast<float>(i));
    const SsmResult exact = exact_result(p, h_start);
    Scan scan = scan_whole(kernels, p);
    Heartbeat heartbeat;
    auto y = dense_view(scan.y.data(), {p.batch, p.seq_len, 1, p.channels});
    REQUIRE(kernels.add_incoming(p.inputs({0, p.seq_len}), h_start.data(), y, heartbeat) > 0);
    REQUIRE(relative_error(scan.y, exact.y) <= kBound);
    std::vector<float> far_sum(scan.delta_sum.size(), 1.0f);
    const std::vector<float> near_sum = scan.delta_sum;
    kernels.join(p.a.data(), p.batch, p.channels, p.d_state, {scan.delta_sum.data(), scan.h.data()},
                 {far_sum.data(), h_start.data()});
    REQUIRE(relative_error(scan.h, exact.h) <= kBound);
    for (std::size_t i = 0; i < near_sum.size(); ++i) REQUIRE(scan.delta_sum[i] == near_sum[i] + 1.0f);
  });
}

TEST_CASE("a correction ends where the incoming state has decayed to nothing") {
  SsmProblem p = make_ssm_problem(20'000, 4, 2);
  const auto kernels = make_ssm_under_test();
  Scan scan = scan_whole(*kernels, p);
  const std::vector<float> h_start(p.state_size(), 1.0f);
  Heartbeat heartbeat;
  const std::int64_t visited = kernels->add_incoming(
      p.inputs({0, p.seq_len}), h_start.data(), dense_view(scan.y.data(), {1, p.seq_len, 1, p.channels}), heartbeat);
  REQUIRE(visited > 0);
  if (blocks_have_fixed_bits()) REQUIRE(visited < p.seq_len * p.channels / 4);
  REQUIRE(relative_error(scan.y, exact_result(p, h_start).y) <= kBound);
}

TEST_CASE("a long sequence that forgets slowly stays precise") {
  SsmProblem p = make_ssm_problem(200'000, 3, 2);
  p.has_bias = false;
  p.delta_low = 1e-5;
  p.delta_high = 2e-5;
  p.fill();
  const auto kernels = make_ssm_under_test();
  const Scan scan = scan_whole(*kernels, p);
  const SsmResult exact = exact_result(p);
  REQUIRE(relative_error(scan.y, exact.y) <= kBound);
  REQUIRE(relative_error(scan.h, exact.h) <= kBound);
}

TEST_CASE("softplus is right from tiny to linear, and NaN comes through") {
  for_each_ssm([](SsmKernels& kernels) {
    SsmProblem p = make_ssm_problem(9, 18, 1);
    p.has_z = p.has_bias = false;
    const std::vector<float> raw{-90.0f, -30.0f, -10.0f, -1.0f, 0.0f, 1.0f, 19.9f, 20.1f, 80.0f};
    for (std::size_t t = 0; t < raw.size(); ++t) {
      for (std::int64_t i = 0; i < p.channels; ++i) p.delta[t * static_cast<std::size_t>(p.channels) + i] = raw[t];
    }
    const SsmResult exact = exact_result(p);
    REQUIRE(relative_error(scan_whole(kernels, p).y, exact.y) <= 1e-6);
    p.u[3] = NAN;
    const Scan scan = scan_whole(kernels, p);
    REQUIRE(std::isnan(scan.y[3]));
    REQUIRE_FALSE(std::isnan(scan.y[2]));
  });
}

TEST_CASE("16-bit inputs are taken as they are") {
  const SsmProblem p = make_ssm_problem(70, 20, 4);
  const auto kernels = make_ssm_under_test();
  SsmProblem rounded = p;
  std::vector<Bfloat16> u;
  for (float& x : rounded.u) {
    u.push_back(to_bfloat16(x));
    x = to_float(u.back());
  }
  ScanInputs inputs = rounded.inputs({0, p.seq_len});
  inputs.u = dense_any_view(u.data(), ElementType::kBfloat16, {1, p.seq_len, 1, p.channels});
  std::vector<float> y(p.u.size()), h(p.state_size(), 0.0f);
  Heartbeat heartbeat;
  kernels->scan(inputs, {nullptr, h.data()}, dense_view(y.data(), {1, p.seq_len, 1, p.channels}), heartbeat);
  require_same(y, scan_whole(*kernels, rounded).y);
}

TEST_CASE("the convolution reads its halo, any width and channel count") {
  for_each_ssm([](SsmKernels& kernels) {
    for (const std::int64_t width : {1, 2, 4, 9}) {
      for (const std::int64_t channels : {1, 16, 37}) {
        SsmProblem p = make_ssm_problem(30, channels, 1, 1, 2);
        std::vector<float> halo(static_cast<std::size_t>(2 * std::max<std::int64_t>(1, width - 1) * channels));
        for (std::size_t i = 0; i < halo.size(); ++i) halo[i] = std::cos(static_cast<float>(i));
        std::vector<float> weight(static_cast<std::size_t>(channels * width));
        for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = std::sin(static_cast<float>(i + 1));
        std::vector<float> out(p.u.size());
        ConvTask task;
        task.halo = dense_view(std::as_const(halo).data(), {2, width - 1, 1, channels});
        task.in = dense_view(std::as_const(p.u).data(), {2, 30, 1, channels});
        task.out = dense_view(out.data(), {2, 30, 1, channels});
        task.weight = weight.data();
        task.bias = p.bias.data();
        task.width = width;
        kernels.conv1d(task);
        std::vector<double> exact;
        for (std::int64_t batch = 0; batch < 2; ++batch) {
          for (std::int64_t t = 0; t < 30; ++t) {
            for (std::int64_t i = 0; i < channels; ++i) {
              double sum = p.bias[static_cast<std::size_t>(i)];
              for (std::int64_t k = 0; k < width; ++k) {
                const std::int64_t from = t - width + 1 + k;
                const float x =
                    from >= 0 ? task.in.row(batch, from, 0)[i] : task.halo.row(batch, from + width - 1, 0)[i];
                sum += static_cast<double>(weight[static_cast<std::size_t>(i * width + k)]) * x;
              }
              exact.push_back(sum / (1.0 + std::exp(-sum)));
            }
          }
        }
        REQUIRE(relative_error(out, exact) <= 1e-6);
      }
    }
  });
}

TEST_CASE("a projection's row does not depend on what rows it comes with, and adds up") {
  const auto kernels = make_ssm_under_test();
  const SsmProblem p = make_ssm_problem(1000, 48, 1);
  const SsmProblem w = make_ssm_problem(33, 48, 1);
  std::vector<float> whole(1000 * 33), parts(1000 * 33, 1.0f);
  ProjectTask task{p.u.data(), 48, w.u.data(), 48, whole.data(), 33, 1000, 48, 33, false};
  kernels->project(task);
  for (std::int64_t row = 0; row < 1000; row += 301) {
    task.in = p.u.data() + row * 48;
    task.out = parts.data() + row * 33;
    task.rows = std::min<std::int64_t>(301, 1000 - row);
    kernels->project(task);
  }
  require_same(parts, whole);
  task = {p.u.data(), 48, w.u.data(), 48, parts.data(), 33, 1000, 48, 33, true};
  kernels->project(task);
  std::vector<double> exact(1000 * 33, 0.0);
  for (std::size_t row = 0; row < 1000; ++row) {
    for (std::size_t out = 0; out < 33; ++out) {
      for (std::size_t i = 0; i < 48; ++i) {
        exact[row * 33 + out] += 2.0 * static_cast<double>(p.u[row * 48 + i]) * w.u[out * 48 + i];
      }
    }
  }
  REQUIRE(relative_error(parts, exact) <= 1e-6);
}

TEST_CASE("rows are converted from and to every type, dense and apart, and what lies between stays") {
  for_each_ssm([](SsmKernels& kernels) {
    const Shape4 shape{2, 5, 3, 7};
    std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = 3.0f * std::sin(static_cast<float>(i));
    const MutableAnyView floats = dense_any_view(static_cast<void*>(values.data()), ElementType::kFloat32, shape);
    for (const auto type :
         {ElementType::kFloat64, ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16}) {
      std::vector<std::byte> rounded(values.size() * size_of(type)), wanted(rounded.size());
      const MutableAnyView there = dense_any_view(static_cast<void*>(rounded.data()), type, shape);
      kernels.convert(floats, there);
      convert_elements(values.data(), ElementType::kFloat32, wanted.data(), type, values.size());
      REQUIRE(rounded == wanted);

      constexpr std::int64_t kApart = 11;
      std::vector<float> back(static_cast<std::size_t>(2 * 5 * 3 * kApart), -7.0f);
      MutableAnyView rows = dense_any_view(static_cast<void*>(back.data()), ElementType::kFloat32, shape);
      rows.strides = {5 * 3 * kApart, 3 * kApart, kApart, 1};
      kernels.convert(there, rows);
      std::vector<float> exact(values.size());
      convert_elements(wanted.data(), type, exact.data(), ElementType::kFloat32, values.size());
      for (std::size_t i = 0; i < back.size(); ++i) {
        const std::size_t row = i / kApart, place = i % kApart;
        REQUIRE(back[i] == (place < 7 ? exact[row * 7 + place] : -7.0f));
      }
    }
  });
}

TEST_CASE("scans in the backend's own memory, of more states than a device's kernel takes, too") {
  for (const std::int64_t d_state : {5, 130}) {
    const SsmProblem p = make_ssm_problem(60, 9, d_state, 1, 2);
    const auto kernels = make_ssm_under_test();
    MemorySpace& space = kernels->work_memory();
    std::vector<Buffer> placed;
    const auto place = [&](const void* from, std::size_t bytes) {
      placed.emplace_back(bytes, nullptr, space);
      space.copy_in(placed.back().data(), from, bytes);
      return placed.back().data();
    };
    const auto place_floats = [&](const std::vector<float>& values) {
      return static_cast<float*>(place(values.data(), values.size() * sizeof(float)));
    };
    ScanInputs inputs = p.inputs({0, p.seq_len});
    for (AnyView* view : {&inputs.u, &inputs.delta, &inputs.z, &inputs.b, &inputs.c}) {
      const auto count = static_cast<std::size_t>(element_count(view->shape));
      view->data = static_cast<const std::byte*>(place(view->data, count * size_of(view->type)));
    }
    inputs.a = place_floats(p.a);
    inputs.d = place_floats(p.d);
    inputs.delta_bias = place_floats(p.bias);
    std::vector<float> y(p.u.size()), h(p.state_size(), 0.0f);
    float* const y_there = place_floats(y);
    float* const h_there = place_floats(h);
    Heartbeat heartbeat;
    const Shape4 shape{p.batch, p.seq_len, 1, p.channels};
    kernels->scan(inputs, {nullptr, h_there}, dense_view(y_there, shape), heartbeat);
    space.copy_out(y.data(), y_there, y.size() * sizeof(float));
    space.copy_out(h.data(), h_there, h.size() * sizeof(float));
    const Scan wanted = scan_whole(*kernels, p);
    require_same(y, wanted.y);
    require_same(h, wanted.h);
  }
}
