// The selective scan on the device against the float64 oracle.
#include <cmath>

#include "kernels/cuda/scan.hpp"
#include "kernels/reference/ssm_oracle.hpp"
#include "tests/kernels_cuda/device_tensor.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using cuda::testing::bound_of;
using cuda::testing::DeviceArray;
using cuda::testing::random_rounded;
using cuda::testing::Tensor;

namespace {

struct Case {
  ElementType type = ElementType::kFloat32;
  std::int64_t batch = 1, tokens = 100, channels = 70, groups = 1, d_state = 16;
  std::int64_t first_cut = 0;  ///< tokens of a first run whose state the second takes; 0: one run
  bool has_z = true, has_d = true, has_bias = true;
  float delta_shift = -1.0f;
  std::int64_t gap = 0;
};

class Run {
 public:
  explicit Run(const Case& problem)
      : c_(problem),
        u_(c_.type, {c_.batch, c_.tokens, 1, c_.channels}, 0, c_.gap),
        delta_(c_.type, {c_.batch, c_.tokens, 1, c_.channels}, 0, c_.gap),
        z_(c_.type, {c_.batch, c_.tokens, 1, c_.channels}, 0, c_.gap),
        y_(c_.type, {c_.batch, c_.tokens, 1, c_.channels}, 0, c_.gap),
        b_(c_.type, {c_.batch, c_.tokens, c_.groups, c_.d_state}, c_.gap),
        cc_(c_.type, {c_.batch, c_.tokens, c_.groups, c_.d_state}, c_.gap),
        a_array_(4 * states() / batch()),
        d_array_(4 * channels()),
        bias_array_(4 * channels()),
        h_{DeviceArray(4 * states()), DeviceArray(4 * states())},
        sum_array_(4 * batch() * channels()) {
    u_host_ = filled(u_, c_.channels, 1);
    delta_host_ = filled(delta_, c_.channels, 2, c_.delta_shift);
    z_host_ = filled(z_, c_.channels, 3);
    b_host_ = filled(b_, c_.groups * c_.d_state, 4);
    c_host_ = filled(cc_, c_.groups * c_.d_state, 5);
    a_ = random_rounded(c_.channels * c_.d_state, ElementType::kFloat32, 6);
    for (float& a : a_) a = -std::exp(a);
    d_ = random_rounded(c_.channels, ElementType::kFloat32, 7);
    bias_ = random_rounded(c_.channels, ElementType::kFloat32, 8);
    a_array_.upload(a_);
    d_array_.upload(d_);
    bias_array_.upload(bias_);
  }

  void compute() {
    if (c_.first_cut > 0) launch(0, c_.first_cut, nullptr, h_[0]);
    launch(c_.first_cut, c_.tokens - c_.first_cut, c_.first_cut > 0 ? &h_[0] : nullptr, h_[1]);
    // The summary alone must say the same of the state.
    summary_state_ = summary();
    cuda::check(cudaDeviceSynchronize());
  }

  void compare() {
    const auto y = y_.download();
    const auto h = h_[1].download<float>(states());
    double worst_y = 0.0, worst_h = 0.0, unit = 1.0, h_unit = 1.0;
    for (std::int64_t b = 0; b < c_.batch; ++b) {
      for (std::int64_t group = 0; group < c_.groups; ++group)
        compare_group(b, group, y, h, worst_y, worst_h, unit, h_unit);
    }
    INFO("y off by " << worst_y / unit << ", h by " << worst_h / h_unit);
    CHECK(worst_y / unit <= bound_of(c_.type));
    CHECK(worst_h / h_unit <= bound_of(c_.type));
  }

 private:
  std::size_t batch() const { return static_cast<std::size_t>(c_.batch); }
  std::size_t channels() const { return static_cast<std::size_t>(c_.channels); }
  std::size_t states() const { return static_cast<std::size_t>(c_.batch * c_.channels * c_.d_state); }
  std::vector<float> filled(Tensor& tensor, std::int64_t width, std::uint32_t seed, float shift = 0.0f) {
    auto host = random_rounded(c_.batch * c_.tokens * width, c_.type, seed);
    for (float& x : host) x += shift;
    tensor.upload(host);
    return tensor.download();  // as rounded
  }
  ScanInputs inputs(std::int64_t first, std::int64_t count) const {
    ScanInputs in;
    in.u = AnyView(u_.view()).tokens(first, count);
    in.delta = AnyView(delta_.view()).tokens(first, count);
    if (c_.has_z) in.z = AnyView(z_.view()).tokens(first, count);
    in.b = AnyView(b_.view()).tokens(first, count);
    in.c = AnyView(cc_.view()).tokens(first, count);
    in.channels_per_group = c_.channels / c_.groups;
    in.a = a_array_.as<float>();
    in.d = c_.has_d ? d_array_.as<float>() : nullptr;
    in.delta_bias = c_.has_bias ? bias_array_.as<float>() : nullptr;
    return in;
  }
  void launch(std::int64_t first, std::int64_t count, const DeviceArray* h_in, const DeviceArray& h_out) {
    cuda::DeviceScan task;
    task.inputs = inputs(first, count);
    const DeviceArray workspace(cuda::scan_workspace_bytes(task.inputs));
    task.h_in = h_in != nullptr ? h_in->as<float>() : nullptr;
    task.h_out = h_out.as<float>();
    task.delta_sum = sum_array_.as<float>();
    task.y = y_.view().tokens(first, count);
    task.workspace = workspace.as<void>();
    cuda::scan(task, nullptr);
    cuda::check(cudaDeviceSynchronize());
  }
  /// Of two runs, each by itself, joined.
  std::vector<float> summary() {
    const std::int64_t cut = std::max<std::int64_t>(1, c_.tokens / 3);
    const DeviceArray far_h(4 * states()), near_h(4 * states()), far_sum(4 * batch() * channels()),
        near_sum(4 * batch() * channels());
    for (const bool near : {false, true}) {
      cuda::DeviceScan task;
      task.inputs = near ? inputs(cut, c_.tokens - cut) : inputs(0, cut);
      const DeviceArray workspace(cuda::scan_workspace_bytes(task.inputs));
      task.h_out = (near ? near_h : far_h).as<float>();
      task.delta_sum = (near ? near_sum : far_sum).as<float>();
      task.workspace = workspace.as<void>();
      cuda::scan(task, nullptr);
      cuda::check(cudaDeviceSynchronize());
    }
    cuda::join_scans(a_array_.as<float>(), c_.batch, c_.channels, c_.d_state,
                     {near_sum.as<float>(), near_h.as<float>()}, {far_sum.as<float>(), far_h.as<float>()}, nullptr);
    return near_h.download<float>(states());
  }

  static void note(double& worst, double& unit, float found, double exact) {
    const double off = std::abs(static_cast<double>(found) - exact);
    worst = std::max(worst, std::isnan(off) ? INFINITY : off);
    unit = std::max(unit, std::abs(exact));
  }
  void compare_group(std::int64_t batch_index, std::int64_t group, const std::vector<float>& y,
                     const std::vector<float>& h, double& worst_y, double& worst_h, double& unit, double& h_unit) {
    const std::int64_t width = c_.channels / c_.groups;
    const std::int64_t first = group * width;
    const auto part = [&](const std::vector<float>& all, std::int64_t at, std::int64_t count) {
      return std::vector<double>(all.begin() + at, all.begin() + at + count);
    };
    oracle::SelectiveScan scan(part(a_, first * c_.d_state, width * c_.d_state),
                               c_.has_d ? part(d_, first, width) : std::vector<double>{},
                               c_.has_bias ? part(bias_, first, width) : std::vector<double>{});
    for (std::int64_t t = 0; t < c_.tokens; ++t) {
      const std::int64_t row = batch_index * c_.tokens + t;
      const auto at = [&](const std::vector<float>& all) { return part(all, row * c_.channels + first, width); };
      const auto at_group = [&](const std::vector<float>& all) {
        return part(all, (row * c_.groups + group) * c_.d_state, c_.d_state);
      };
      const auto exact = scan.step(at(u_host_), at(delta_host_), c_.has_z ? at(z_host_) : std::vector<double>{},
                                   at_group(b_host_), at_group(c_host_));
      for (std::int64_t i = 0; i < width; ++i) {
        note(worst_y, unit, y[static_cast<std::size_t>(row * c_.channels + first + i)],
             exact[static_cast<std::size_t>(i)]);
      }
    }
    for (std::int64_t i = 0; i < width * c_.d_state; ++i) {
      const auto at = static_cast<std::size_t>((batch_index * c_.channels + first) * c_.d_state + i);
      note(worst_h, h_unit, h[at], scan.h()[static_cast<std::size_t>(i)]);
      note(worst_h, h_unit, summary_state_[at], scan.h()[static_cast<std::size_t>(i)]);
    }
  }

  const Case& c_;
  Tensor u_, delta_, z_, y_, b_, cc_;
  DeviceArray a_array_, d_array_, bias_array_;
  DeviceArray h_[2];
  DeviceArray sum_array_;
  std::vector<float> u_host_, delta_host_, z_host_, b_host_, c_host_, a_, d_, bias_, summary_state_;
};

void expect_right(const Case& problem) {
  INFO(name_of(problem.type) << " tokens " << problem.tokens << " channels " << problem.channels << " d_state "
                             << problem.d_state << " groups " << problem.groups << " cut " << problem.first_cut);
  Run run(problem);
  run.compute();
  run.compare();
}

}  // namespace

TEST_CASE("scan: tokens and channels off every tile edge") {
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBfloat16, ElementType::kFloat16}) {
    for (const std::int64_t tokens : {2, 15, 16, 17, 100}) {
      for (const std::int64_t channels : {1, 64, 70}) {
        expect_right({.type = type, .tokens = tokens, .channels = channels});
      }
    }
  }
}

TEST_CASE("scan: state sizes, groups, batches, gaps and optional inputs") {
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBfloat16}) {
    for (const std::int64_t d_state : {1, 8, 16, 20, 64, 128}) {
      expect_right({.type = type, .batch = 2, .tokens = 50, .channels = 96, .groups = 3, .d_state = d_state, .gap = 3});
    }
    expect_right({.type = type, .has_z = false});
    expect_right({.type = type, .has_d = false});
    expect_right({.type = type, .has_bias = false});
  }
}

TEST_CASE("scan: segments find their own state, quickly forgotten or not at all") {
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBfloat16}) {
    for (const float shift : {-7.0f, -1.0f, 3.0f}) {
      expect_right({.type = type, .tokens = 5000, .channels = 6, .delta_shift = shift});
    }
  }
}

TEST_CASE("scan: a second run goes on from the first one's state") {
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBfloat16}) {
    for (const std::int64_t cut : {1, 37, 64}) {
      expect_right({.type = type, .tokens = 90, .first_cut = cut, .delta_shift = -4.0f});
    }
  }
}
