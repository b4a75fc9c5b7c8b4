#include "engine/verify_linear.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/linear_oracle.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kReadTokens = 4096;

std::span<const double> row_of(const std::vector<double>& values, std::int64_t row, std::size_t dim) {
  return std::span(values).subspan(static_cast<std::size_t>(row) * dim, dim);
}

/// max |found - wanted| / scale; NaN is as wrong as can be.
double relative_error(std::span<const double> found, std::span<const double> wanted, double scale) {
  double largest = 0.0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double error = std::abs(found[i] - wanted[i]);
    if (std::isnan(error)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, error);
  }
  return largest > 0.0 ? largest / scale : 0.0;
}

double max_abs(std::span<const double> values) {
  double largest = 0.0;
  for (const double x : values) largest = std::max(largest, std::abs(x));
  return largest;
}

/// One head on its way over the sequence.
class HeadWalk {
 public:
  HeadWalk(const LayerFiles& files, const LinearFiles& linear, const HeadTask& task)
      : files_(files),
        linear_(linear),
        task_(task),
        head_dim_(static_cast<std::size_t>(files.shape.head_dim)),
        v_dim_(static_cast<std::size_t>(files.shape.v_dim)),
        kv_head_(files.shape.kv_head_of(task.head)),
        place_(std::lower_bound(linear.heads.begin(), linear.heads.end(), task.head) - linear.heads.begin()),
        largest_v_(files.largest_v[static_cast<std::size_t>(task.batch * files.shape.num_kv_heads + kv_head_)]),
        recurrence_(linear.params, head_dim_, v_dim_, task.scale) {
    const std::size_t at = state_index();
    const auto copy = [&](const std::vector<double>& from, std::vector<double>& to) {
      if (!from.empty()) std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(at * to.size()), to.size(), to.begin());
    };
    copy(linear.initial.s, recurrence_.s());
    copy(linear.initial.n, recurrence_.n());
  }

  HeadErrors run() {
    const TokenRun all{0, files_.shape.seq_len};
    for (std::int64_t begin = 0; begin < all.end; begin += kReadTokens) {
      add(intersect(all, TokenRun{begin, begin + kReadTokens}));
      // Without a state to check nothing behind the last row matters.
      if (!linear_.state && next_row_ == task_.rows.size()) break;
    }
    if (linear_.state) check_state();
    return std::move(errors_);
  }

 private:
  std::size_t state_index() const {
    return static_cast<std::size_t>(task_.batch) * linear_.heads.size() + static_cast<std::size_t>(place_);
  }

  std::vector<double> read_decays(const TokenRun& run) const {
    if (linear_.params.decay == Decay::kToken) {
      const int column = decay_column(*linear_.log_decay, files_.shape, linear_.heads, task_.head);
      return read_head_rounded(*files_.input, *linear_.log_decay, task_.batch, run, column);
    }
    const double decay =
        linear_.params.decay == Decay::kHead ? linear_.head_log_decay[static_cast<std::size_t>(place_)] : 0.0;
    return std::vector<double>(static_cast<std::size_t>(run.size()), decay);
  }

  void add(const TokenRun& run) {
    const auto k = read_head_rounded(*files_.input, files_.k, task_.batch, run, kv_head_);
    const auto v = read_head_rounded(*files_.input, files_.v, task_.batch, run, kv_head_);
    const std::vector<double> decays = read_decays(run);
    std::size_t last_row = next_row_;
    while (last_row < task_.rows.size() && task_.rows[last_row] < run.end) ++last_row;
    std::vector<double> q, found;
    TokenRun rows{run.begin, run.begin};
    if (last_row > next_row_) {
      rows = {task_.rows[next_row_], task_.rows[last_row - 1] + 1};
      q = read_head_rounded(*files_.input, files_.q, task_.batch, rows, task_.head);
      found = files_.output->read_head(files_.o, task_.batch, rows, task_.head);
    }
    for (std::int64_t token = run.begin; token < run.end; ++token) {
      const std::int64_t at = token - run.begin;
      recurrence_.add(row_of(k, at, head_dim_), row_of(v, at, v_dim_), decays[static_cast<std::size_t>(at)]);
      if (next_row_ == last_row || task_.rows[next_row_] != token) continue;
      ++next_row_;
      const std::vector<double> wanted = recurrence_.output(row_of(q, token - rows.begin, head_dim_));
      errors_.o.push_back(
          relative_error(row_of(found, token - rows.begin, v_dim_), wanted, std::max(largest_v_, max_abs(wanted))));
    }
  }

  void check_state() {
    const std::vector<double>& wanted = recurrence_.s();
    std::vector<double> found;
    for (std::size_t d = 0; d < head_dim_; ++d) {
      const auto row =
          files_.output->read_head(*linear_.state, task_.batch, {place_, place_ + 1}, static_cast<std::int64_t>(d));
      found.insert(found.end(), row.begin(), row.end());
    }
    errors_.statistic.push_back(std::max(relative_error(found, wanted, max_abs(wanted)), normaliser_error()));
  }

  double normaliser_error() {
    if (!linear_.state_n) return 0.0;
    const std::vector<double>& wanted = recurrence_.n();
    std::vector<double> found;
    for (std::size_t d = 0; d < head_dim_; ++d) {
      const auto element =
          files_.output->read_head(*linear_.state_n, task_.batch, {place_, place_ + 1}, static_cast<std::int64_t>(d));
      found.insert(found.end(), element.begin(), element.end());
    }
    return relative_error(found, wanted, max_abs(wanted));
  }

  const LayerFiles& files_;
  const LinearFiles& linear_;
  const HeadTask& task_;
  std::size_t head_dim_;
  std::size_t v_dim_;
  int kv_head_;
  std::int64_t place_;
  double largest_v_;
  oracle::LinearRecurrence recurrence_;
  std::size_t next_row_ = 0;
  HeadErrors errors_;
};

}  // namespace

LinearFiles open_linear_files(const LayerFiles& files, ActivationReader* initial, const RunConfig& config) {
  LinearFiles linear;
  linear.params = *linear_params_of(config);
  linear.head_log_decay = config.linear_head_decay;
  linear.heads = linear_heads_of(config, files.shape.num_heads);
  run_collectively(files.input->group(), [&] {
    linear.log_decay = find_log_decay(*files.input, files.shape, config);
    linear.state = find_state(*files.output, files.shape, config);
    linear.state_n = find_state_n(*files.output, files.shape, config);
  });
  if (initial != nullptr) linear.initial = read_states(*initial, files.shape, config, linear.heads);
  return linear;
}

HeadErrors check_linear_head(const LayerFiles& files, const LinearFiles& linear, const HeadTask& task) {
  return HeadWalk(files, linear, task).run();
}

}  // namespace ringscan
