#include "engine/verify_chela.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.hpp"
#include "kernels/reference/chela_oracle.hpp"

namespace ringscan {
namespace {

/// Tokens read and streamed together.
constexpr std::int64_t kBlockTokens = 1024;
constexpr double kStateBound = 1e-5;

std::vector<double> exactly(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

/// Back to [rows, columns] as in the file.
std::vector<double> transposed(const std::vector<float>& values, std::int64_t rows, std::int64_t columns) {
  std::vector<double> out(values.size());
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      out[static_cast<std::size_t>(i * columns + j)] = values[static_cast<std::size_t>(j * rows + i)];
    }
  }
  return out;
}

oracle::ChelaParameters read_parameters(const ChelaCheckTask& task) {
  const ChelaWeights weights = read_chela_weights(*task.input, *task.layer, false);
  const ChelaShape& shape = weights.shape;
  oracle::ChelaParameters p;
  p.channels = shape.channels;
  p.v_channels = shape.v_channels;
  p.num_heads = shape.num_heads;
  p.scale = task.scale;
  p.short_conv = exactly(weights.short_conv);
  p.long_conv = exactly(weights.long_conv);
  p.kq = exactly(weights.kq);
  p.mq = exactly(weights.mq);
  p.kk = exactly(weights.kk);
  p.mk = exactly(weights.mk);
  p.w_v = transposed(weights.w_v, shape.channels, shape.v_channels);
  p.w_g = transposed(weights.w_g, shape.channels, shape.v_channels);
  p.w_o = transposed(weights.w_o, shape.v_channels, shape.channels);
  return p;
}

class ChelaCheck {
 public:
  ChelaCheck(const ChelaCheckTask& task, RankGroup& group)
      : task_(task),
        layer_(*task.layer),
        shape_(task.layer->shape),
        group_(group),
        p_(read_parameters(task)),
        x_(*task.input->find(layer_.name, "chela/x")),
        num_rows_(task.rows.size()) {
    if (task.initial != nullptr) {
      DatasetInfo state;
      run_collectively(group, [&] {
        state = task.initial->require(layer_.name, "state/chela/S",
                                      {layer_.batch, shape_.num_heads, shape_.head_dim(), shape_.v_dim()});
      });
      state_ = task.initial->read_whole(state);
    }
  }

  std::vector<DatasetCheck> run() {
    DatasetCheck check;
    if (const auto state = task_.output->find(layer_.name, "state/chela/S")) {
      found_state_ = task_.output->read_whole(*state);
      state_errors_.assign(static_cast<std::size_t>(layer_.batch * shape_.num_heads), 0.0);
    }
    check.layer = layer_.name;
    check.mechanism = "chela";
    check.dataset = task_.heads.empty() ? "chela/y" : "o";
    check.bound = task_.bound;
    const std::vector<float> found = read_output_rows();
    const std::vector<float> x = read_rows(*task_.input, x_, all_channels());
    const std::size_t row_size = static_cast<std::size_t>(shape_.channels);
    double largest = 0.0;
    for (std::int64_t batch = 0; batch < layer_.batch; ++batch) {
      stream_heads(batch);
      for (std::size_t i = 0; i < num_rows_; ++i) {
        const std::size_t row = static_cast<std::size_t>(batch) * num_rows_ + i;
        const auto part = [&](const auto& values, std::size_t index, std::size_t size) {
          return std::vector<double>(values.begin() + static_cast<std::ptrdiff_t>(index * size),
                                     values.begin() + static_cast<std::ptrdiff_t>((index + 1) * size));
        };
        const std::vector<double> wanted =
            oracle::chela_output(p_, part(x, row, row_size), part(z_, i, row_size),
                                 part(o_, i, static_cast<std::size_t>(shape_.v_channels)));
        check.worst.push_back(row_error(batch, task_.rows[i], part(found, row, row_size), wanted));
        for (const double value : wanted) largest = std::max(largest, std::abs(value));
      }
    }
    for (RowError& row : check.worst) row.error = row.error > 0.0 ? row.error / largest : 0.0;
    keep_worst(check);
    if (found_state_.empty()) return {check};
    return {check, state_check()};
  }

 private:
  static void keep_worst(DatasetCheck& check) {
    check.rows = static_cast<std::int64_t>(check.worst.size());
    std::stable_sort(check.worst.begin(), check.worst.end(),
                     [](const RowError& a, const RowError& b) { return a.error > b.error; });
    check.worst.resize(std::min(check.worst.size(), DatasetCheck::kWorstRows));
  }

  /// Collective. Each head's state was compared by the rank that streamed it.
  DatasetCheck state_check() {
    group_.all_reduce(std::span<double>(state_errors_), ReduceOp::kMax);
    DatasetCheck check;
    check.layer = layer_.name;
    check.mechanism = "chela";
    check.dataset = "state/S";
    check.bound = kStateBound;
    for (std::size_t i = 0; i < state_errors_.size(); ++i) {
      const auto index = static_cast<std::int64_t>(i);
      check.worst.push_back(
          {index / shape_.num_heads, layer_.seq_len - 1, static_cast<int>(index % shape_.num_heads), state_errors_[i]});
    }
    keep_worst(check);
    return check;
  }

  /// Relative to the largest element; infinite for NaN.
  void compare_state(std::int64_t batch, std::int64_t head, const std::vector<double>& wanted) {
    const auto index = static_cast<std::size_t>(batch * shape_.num_heads + head);
    double largest = 0.0, error = 0.0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const double difference = std::abs(found_state_[index * wanted.size() + i] - wanted[i]);
      error = difference >= 0.0 ? std::max(error, difference) : std::numeric_limits<double>::infinity();
      largest = std::max(largest, std::abs(wanted[i]));
    }
    state_errors_[index] = error > 0.0 ? error / largest : 0.0;
  }

  /// Absolute; infinite for NaN.
  static RowError row_error(std::int64_t batch, std::int64_t token, const std::vector<double>& found,
                            const std::vector<double>& wanted) {
    RowError error;
    error.batch = batch;
    error.query = token;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const double difference = std::abs(found[i] - wanted[i]);
      error.error = std::max(error.error, difference >= 0.0 ? difference : std::numeric_limits<double>::infinity());
    }
    return error;
  }

  std::vector<int> all_channels() const {
    std::vector<int> channels(static_cast<std::size_t>(shape_.channels));
    std::iota(channels.begin(), channels.end(), 0);
    return channels;
  }

  /// Collective. [batch, tokens of the selection, channels] on every rank.
  std::vector<float> read(ActivationReader& reader, const DatasetInfo& info, const SlabSelection& selection) {
    const Buffer slab = reader.read_slab(info, selection, false, nullptr);
    std::vector<float> values(static_cast<std::size_t>(layer_.batch * selection.token_count() * shape_.channels));
    convert_elements(slab.data(), type_in_memory(info.type), values.data(), ElementType::kFloat32, values.size());
    return values;
  }

  std::vector<float> read_output_rows() {
    std::vector<std::int64_t> wanted{layer_.batch, layer_.seq_len, shape_.channels};
    if (!task_.heads.empty()) wanted = {layer_.batch, layer_.seq_len, -1, shape_.channels / std::ssize(task_.heads)};
    DatasetInfo y;
    run_collectively(group_,
                     [&] { y = task_.output->require(layer_.name, task_.heads.empty() ? "chela/y" : "o", wanted); });
    return read_rows(*task_.output, y, task_.heads.empty() ? all_channels() : task_.heads);
  }

  std::vector<float> read_rows(ActivationReader& reader, const DatasetInfo& info, const std::vector<int>& heads) {
    SlabSelection selection{{}, heads};
    for (const std::int64_t row : task_.rows) selection.tokens.push_back({row, row + 1});
    return read(reader, info, selection);
  }

  /// Not collective.
  std::vector<double> past_inputs(const char* name, std::int64_t width, std::int64_t batch, std::int64_t channel) {
    if (task_.initial == nullptr || width == 1) return {};
    const DatasetInfo info = task_.initial->require(layer_.name, name, {layer_.batch, width - 1, shape_.channels});
    return task_.initial->read_head(info, batch, {0, width - 1}, channel);
  }

  /// Not collective. Z of a head's channels, [seq_len, head_dim].
  std::vector<double> head_z(std::int64_t batch, std::int64_t head) {
    const std::int64_t dim = shape_.head_dim();
    std::vector<double> z(static_cast<std::size_t>(layer_.seq_len * dim));
    for (std::int64_t i = 0; i < dim; ++i) {
      const std::int64_t channel = head * dim + i;
      std::vector<double> x = task_.input->read_head(x_, batch, {0, layer_.seq_len}, channel);
      for (double& value : x) value = static_cast<float>(value);
      const oracle::ChelaPast past{past_inputs("state/chela/short_inputs", shape_.short_width, batch, channel),
                                   past_inputs("state/chela/long_inputs", shape_.long_width, batch, channel)};
      const std::vector<double> line = oracle::chela_z(p_, channel, x, past);
      for (std::size_t t = 0; t < line.size(); ++t)
        z[t * static_cast<std::size_t>(dim) + static_cast<std::size_t>(i)] = line[t];
    }
    return z;
  }

  std::vector<double> head_state(std::int64_t batch, std::int64_t head) const {
    if (state_.empty()) return {};
    const std::int64_t size = shape_.head_dim() * shape_.v_dim();
    const auto first = state_.begin() + (batch * shape_.num_heads + head) * size;
    return {first, first + size};
  }

  /// Collective. z_ [rows, channels] and o_ [rows, v_channels] of one batch item, on every rank.
  void stream_heads(std::int64_t batch) {
    z_.assign(num_rows_ * static_cast<std::size_t>(shape_.channels), 0.0);
    o_.assign(num_rows_ * static_cast<std::size_t>(shape_.v_channels), 0.0);
    for (std::int64_t first = 0; first < shape_.num_heads; first += group_.world_size()) {
      const std::int64_t head = first + group_.rank();
      const bool has_head = head < shape_.num_heads;
      std::vector<double> z;
      run_collectively(group_, [&] {
        if (has_head) z = head_z(batch, head);
      });
      oracle::ChelaHead recurrence(p_, has_head ? head : 0, has_head ? head_state(batch, head) : std::vector<double>{});
      for (std::int64_t begin = 0; begin < layer_.seq_len; begin += kBlockTokens) {
        const TokenRun run = intersect(TokenRun{0, layer_.seq_len}, TokenRun{begin, begin + kBlockTokens});
        const std::vector<float> rows = read(*task_.input, x_, {{run}, all_channels()});
        if (has_head) stream(recurrence, head, batch, run, rows, z);
      }
      if (has_head && !found_state_.empty()) compare_state(batch, head, recurrence.state());
    }
    group_.all_reduce(std::span<double>(z_), ReduceOp::kSum);
    group_.all_reduce(std::span<double>(o_), ReduceOp::kSum);
  }

  void stream(oracle::ChelaHead& recurrence, std::int64_t head, std::int64_t batch, const TokenRun& run,
              const std::vector<float>& rows, const std::vector<double>& z) {
    const auto dim = static_cast<std::size_t>(shape_.head_dim());
    for (std::int64_t token = run.begin; token < run.end; ++token) {
      const auto first = rows.begin() + (batch * run.size() + token - run.begin) * shape_.channels;
      const std::vector<double> x(first, first + shape_.channels);
      const auto z_row = std::span(z).subspan(static_cast<std::size_t>(token) * dim, dim);
      recurrence.step(z_row, x);
      const auto found = std::lower_bound(task_.rows.begin(), task_.rows.end(), token);
      if (found == task_.rows.end() || *found != token) continue;
      const std::int64_t row = found - task_.rows.begin();
      const std::vector<double> o = recurrence.output();
      std::copy(z_row.begin(), z_row.end(), z_.begin() + row * shape_.channels + head * shape_.head_dim());
      std::copy(o.begin(), o.end(), o_.begin() + row * shape_.v_channels + head * shape_.v_dim());
    }
  }

  const ChelaCheckTask& task_;
  const ChelaLayer& layer_;
  const ChelaShape& shape_;
  RankGroup& group_;
  oracle::ChelaParameters p_;
  DatasetInfo x_;
  std::size_t num_rows_;
  std::vector<double> state_;  // [batch, heads, head_dim, v_dim], or empty
  std::vector<double> z_, o_;
  std::vector<double> found_state_, state_errors_;  // [batch, heads(, head_dim, v_dim)]; empty: the output has none
};

}  // namespace

std::vector<DatasetCheck> check_chela_layer(const ChelaCheckTask& task, RankGroup& group) {
  return ChelaCheck(task, group).run();
}

}  // namespace ringscan
