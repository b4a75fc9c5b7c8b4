#pragma once
// A problem of linear attention given to kernels, whole or in parts.

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "kernels/linear_kernels.hpp"
#include "tests/kernels/kernels_under_test.hpp"
#include "tests/support/linear_problem.hpp"

namespace ringscan::test {

using testing::LinearProblem;

/// One problem's inputs in their element type, and how a state goes over parts of it.
class LinearRunner {
 public:
  explicit LinearRunner(const LinearProblem& problem)
      : problem_(problem),
        kernels_(make_kernels_under_test()),
        slots_(problem.slots()),
        q_(stored(problem.q)),
        k_(stored(problem.k)),
        v_(stored(problem.v)),
        o_(problem.q.size() / static_cast<std::size_t>(problem.head_dim) * static_cast<std::size_t>(problem.v_dim),
           std::numeric_limits<float>::quiet_NaN()) {
    for (int head = 0; head < problem.num_heads; ++head) columns_.push_back(head);
  }

  const LinearKernels& kernels() const { return kernels_->linear(); }
  LinearState new_state() const {
    LinearState state;
    kernels().make(state,
                   {problem_.batch, problem_.num_heads, problem_.head_dim, problem_.v_dim,
                    problem_.params.normalizer == Normalizer::kZ},
                   nullptr);
    return state;
  }
  /// The tokens [begin, end).
  void advance(LinearState& state, std::int64_t begin, std::int64_t end, bool with_output, Buffer* summary = nullptr) {
    const LinearProblem& p = problem_;
    LinearTask task;
    const auto view = [&](const std::vector<std::byte>& bytes, std::int64_t heads, std::int64_t dim) {
      return dense_any_view(bytes.data(), p.type, {p.batch, p.seq_len, heads, dim}).tokens(begin, end - begin);
    };
    task.q = view(q_, p.num_heads, p.head_dim);
    task.k = view(k_, p.num_kv_heads, p.head_dim);
    task.v = view(v_, p.num_kv_heads, p.v_dim);
    task.slots = slots_;
    task.log_decay = dense_any_view(p.log_decay.data(), ElementType::kFloat32, {p.batch, p.seq_len, p.num_heads, 1})
                         .tokens(begin, end - begin);
    task.decay_columns = columns_;
    task.head_log_decay = p.head_log_decay;
    task.scale = p.scale();
    task.summary = summary;
    if (with_output) {
      task.o = dense_any_view(static_cast<void*>(o_.data()), ElementType::kFloat32,
                              {p.batch, p.seq_len, p.num_heads, p.v_dim})
                   .tokens(begin, end - begin);
    }
    Heartbeat heartbeat;
    kernels().advance(task, p.params, state, heartbeat);
  }
  std::vector<double> output() const { return {o_.begin(), o_.end()}; }

 private:
  std::vector<std::byte> stored(const std::vector<float>& values) const {
    std::vector<std::byte> bytes(values.size() * size_of(problem_.type));
    convert_elements(values.data(), ElementType::kFloat32, bytes.data(), problem_.type, values.size());
    return bytes;
  }

  const LinearProblem& problem_;
  std::unique_ptr<Kernels> kernels_;
  std::vector<HeadSlot> slots_;
  std::vector<int> columns_;
  std::vector<std::byte> q_, k_, v_;
  std::vector<float> o_;
};

/// Of the whole problem, against the oracle.
inline double error_of(const LinearProblem& problem) {
  LinearRunner runner(problem);
  LinearState state = runner.new_state();
  runner.advance(state, 0, problem.seq_len, true);
  return testing::linear_error(problem, runner.output(), testing::exact_linear(problem));
}

}  // namespace ringscan::test
