#pragma once
// Inputs of selective scans and Mamba blocks in a file of their own.

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "io/activation_file.hpp"
#include "tests/engine/access.hpp"
#include "tests/support/mamba_problem.hpp"
#include "tests/support/ssm_problem.hpp"

namespace ringscan::testing {

/// Collective; rank 0 writes it all.
class FileMaker {
 public:
  FileMaker(const std::string& path, Transport& transport)
      : access_(test::make_access(transport)), writer_(*access_, path, false), is_root_(transport.rank() == 0) {}

  /// Tokens [run) of [batch, seq, ...]; or a parameter, whose second extent then is its "tokens".
  void add(const std::string& name, const std::vector<float>& values, std::vector<std::int64_t> shape,
           TokenRun run = {}, ElementType type = ElementType::kFloat32) {
    const std::int64_t all = shape.size() > 1 ? shape[1] : 1;
    if (run.empty()) run = {0, all};
    std::int64_t token = 1;
    for (std::size_t i = 2; i < shape.size(); ++i) token *= shape[i];
    std::vector<float> part;
    for (std::int64_t batch = 0; batch < shape[0]; ++batch) {
      const auto first = values.begin() + (batch * all + run.begin) * token;
      part.insert(part.end(), first, first + run.size() * token);
    }
    if (shape.size() > 1) shape[1] = run.size();
    const DatasetInfo info = writer_.create("0", name, type, shape);
    std::vector<std::byte> bytes(part.size() * size_of(type));
    convert_elements(part.data(), ElementType::kFloat32, bytes.data(), type, part.size());
    SlabSelection selection;
    for (int head = 0; head < (shape.size() > 2 ? shape[2] : 1); ++head) selection.heads.push_back(head);
    if (is_root_) selection.tokens = {{0, run.size()}};
    writer_.write_slab(info, selection, bytes.data());
  }

  void add(const SsmProblem& p, const TokenRun& run, ElementType type = ElementType::kFloat32) {
    const std::vector<std::int64_t> shape{p.batch, p.seq_len, p.channels};
    const std::vector<std::int64_t> states{p.batch, p.seq_len, p.groups, p.d_state};
    add("ssm/u", p.u, shape, run, type);
    add("ssm/delta", p.delta, shape, run);
    if (p.has_z) add("ssm/z", p.z, shape, run, type);
    add("ssm/B", p.b, states, run, type);
    add("ssm/C", p.c, states, run, type);
    add("ssm/A", p.a, {p.channels, p.d_state});
    if (p.has_d) add("ssm/D", p.d, {p.channels});
    if (p.has_bias) add("ssm/delta_bias", p.bias, {p.channels});
  }

  void add(const MambaProblem& p, const TokenRun& run, bool as_in_pytorch = false) {
    const MambaWeights& w = p.weights;
    const MambaShape& s = w.shape;
    std::vector<float> a_log = w.a;
    for (float& a : a_log) a = std::log(-a);
    add("mamba/x", p.x, {p.batch, p.seq_len, s.d_model}, run);
    add("mamba/in_proj", w.in_proj, {2 * s.d_inner, s.d_model});
    if (as_in_pytorch) {
      add("mamba/conv_weight", w.conv_weight, {s.d_inner, 1, s.conv_width});
    } else {
      add("mamba/conv_weight", w.conv_weight, {s.d_inner, s.conv_width});
    }
    add("mamba/conv_bias", w.conv_bias, {s.d_inner});
    add("mamba/x_proj", w.x_proj, {s.dt_b_c(), s.d_inner});
    add("mamba/dt_proj", w.dt_proj, {s.d_inner, s.dt_rank});
    add("mamba/dt_bias", w.dt_bias, {s.d_inner});
    add("mamba/A_log", a_log, {s.d_inner, s.d_state});
    add("mamba/D", w.d, {s.d_inner});
    add("mamba/out_proj", w.out_proj, {s.d_out, s.d_inner});
  }

  /// q, k and v of 4 heads with v_dim 6.
  void add_heads(std::int64_t batch, std::int64_t seq_len) {
    std::vector<float> values(static_cast<std::size_t>(batch * seq_len * 4 * 6));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
    for (const char* name : {"q", "k", "v"}) add(name, values, {batch, seq_len, 4, 6});
  }

  void finish() { writer_.finish(); }

 private:
  std::unique_ptr<FileAccess> access_;
  ActivationWriter writer_;
  bool is_root_;
};

inline SsmProblem make_ssm(std::int64_t seq_len, std::int64_t channels) {
  SsmProblem p;
  p.seq_len = seq_len;
  p.channels = channels;
  p.groups = 2;
  p.d_state = 5;
  p.batch = 2;
  p.delta_low = 1e-3;
  p.delta_high = 1e-1;
  p.fill();
  return p;
}

template <typename Problem>
void write_input(const std::string& path, const Problem& problem, Transport& transport, TokenRun run = {}) {
  FileMaker maker(path, transport);
  maker.add(problem, run);
  maker.finish();
}

}  // namespace ringscan::testing
