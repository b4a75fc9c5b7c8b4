#include "engine/verify_block.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "engine/block_plan.hpp"
#include "engine/row_sample.hpp"
#include "engine/verify_chela.hpp"
#include "kernels/reference/ssm_oracle.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kReadTokens = 256;

constexpr double kStateBound = 1e-5;

double bound_of(ElementType type) {
  if (type == ElementType::kFloat16) return 2e-3;
  return type == ElementType::kBfloat16 ? 1e-2 : 1e-5;
}

/// The largest errors alone, largest first.
void keep_worst(DatasetCheck& check) {
  std::stable_sort(check.worst.begin(), check.worst.end(),
                   [](const RowError& a, const RowError& b) { return a.error > b.error; });
  check.worst.resize(std::min(check.worst.size(), DatasetCheck::kWorstRows));
}

/// Some tokens and channels of all batch items.
struct Slab {
  std::vector<double> values;
  std::int64_t tokens = 0;
  std::int64_t width = 0;  ///< elements a token

  std::span<const double> row(std::int64_t batch, std::int64_t token) const {
    return std::span(values).subspan(static_cast<std::size_t>((batch * tokens + token) * width),
                                     static_cast<std::size_t>(width));
  }
};

/// Collective. Rounded to what the engine gets.
Slab read_slab(ActivationReader& reader, const std::string& layer, const std::string& dataset,
               const std::vector<TokenRun>& tokens, const std::vector<int>& heads) {
  const DatasetInfo info = *reader.find(layer, dataset);
  const SlabSelection selection{tokens, heads};
  const Buffer buffer = reader.read_slab(info, selection, false, nullptr);
  const ElementType type = type_in_memory(info.type);
  Slab slab;
  slab.values.resize(buffer.size_bytes() / size_of(type));
  convert_elements(buffer.data(), type, slab.values.data(), ElementType::kFloat64, slab.values.size());
  slab.tokens = selection.token_count();
  const std::int64_t dim = info.shape.size() == 4 ? info.shape[3] : 1;
  slab.width = static_cast<std::int64_t>(heads.size()) * dim;
  return slab;
}

/// Collective.
std::vector<double> read_parameter(ActivationReader& reader, const std::string& layer, const std::string& dataset) {
  const auto info = reader.find(layer, dataset);
  if (!info) return {};
  std::vector<double> values = reader.read_whole(*info);
  for (double& x : values) x = static_cast<float>(x);
  return values;
}

std::vector<double> slice(const std::vector<double>& values, std::int64_t first, std::int64_t count) {
  if (values.empty()) return {};
  return {values.begin() + first, values.begin() + first + count};
}

std::vector<int> iota_from(std::int64_t first, std::int64_t count) {
  std::vector<int> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), static_cast<int>(first));
  return numbers;
}

/// Channels of the output that one oracle computes for one batch item.
struct Part {
  std::int64_t batch = 0;
  std::int64_t first = 0;  ///< channel
  std::int64_t count = 0;
  std::int64_t group = 0;
};

/// The oracle of one block mechanism, as far as this rank computes it, token by token.
class BlockOracle {
 public:
  virtual ~BlockOracle() = default;
  /// Collective. The next tokens' inputs.
  virtual void read(const TokenRun& run) = 0;
  virtual const std::vector<Part>& parts() const = 0;
  /// Token `index` of those read last; in order, each once.
  virtual std::span<const double> step(std::size_t part, std::int64_t index) = 0;

  /// What stands behind the last token that was stepped over: dataset `name` under state/, of a part.
  struct State {
    std::int64_t first = 0;  ///< element of the batch item's state
    std::vector<double> values;
  };
  virtual State state(std::size_t part, std::string_view name) const = 0;
};

class SsmOracle final : public BlockOracle {
 public:
  SsmOracle(const BlockShape& shape, const BlockFiles& files, const RankGroup& group) : shape_(shape), files_(files) {
    const auto read = [&](const char* dataset) { return read_parameter(*files.input, shape.layer, dataset); };
    const std::vector<double> a = read("ssm/A"), d = read("ssm/D"), bias = read("ssm/delta_bias");
    const std::vector<double> h = files.initial_state == nullptr
                                      ? std::vector<double>()
                                      : read_parameter(*files.initial_state, shape.layer, "state/ssm/h");
    const std::int64_t begin = shape.channels * group.rank() / group.world_size();
    const std::int64_t end = shape.channels * (group.rank() + 1) / group.world_size();
    channels_ = iota_from(begin, end - begin);
    const std::int64_t group_width = shape.channels / shape.groups;
    const std::int64_t states = shape.d_state;
    for (std::int64_t batch = 0; batch < shape.batch; ++batch) {
      for (std::int64_t first = begin; first < end;) {
        const std::int64_t last = std::min(end, (first / group_width + 1) * group_width);
        parts_.push_back({batch, first, last - first, first / group_width});
        scans_.emplace_back(slice(a, first * states, (last - first) * states), slice(d, first, last - first),
                            slice(bias, first, last - first),
                            slice(h, (batch * shape.channels + first) * states, (last - first) * states));
        first = last;
      }
    }
  }

  void read(const TokenRun& run) override {
    const auto read = [&](const char* dataset, const std::vector<int>& heads) {
      return read_slab(*files_.input, shape_.layer, dataset, {run}, heads);
    };
    u_ = read("ssm/u", channels_);
    delta_ = read("ssm/delta", channels_);
    if (shape_.has_z) z_ = read("ssm/z", channels_);
    b_ = read("ssm/B", iota_from(0, shape_.groups));
    c_ = read("ssm/C", iota_from(0, shape_.groups));
  }

  const std::vector<Part>& parts() const override { return parts_; }

  std::span<const double> step(std::size_t index, std::int64_t token) override {
    const Part& part = parts_[index];
    const auto channels = [&](const Slab& slab) {
      return slab.row(part.batch, token)
          .subspan(static_cast<std::size_t>(part.first - channels_.front()), static_cast<std::size_t>(part.count));
    };
    const auto states = [&](const Slab& slab) {
      return slab.row(part.batch, token)
          .subspan(static_cast<std::size_t>(part.group * shape_.d_state), static_cast<std::size_t>(shape_.d_state));
    };
    return scans_[index].step(channels(u_), channels(delta_), shape_.has_z ? channels(z_) : std::span<const double>(),
                              states(b_), states(c_));
  }

  State state(std::size_t index, std::string_view) const override {
    return {parts_[index].first * shape_.d_state, scans_[index].h()};
  }

 private:
  const BlockShape& shape_;
  const BlockFiles& files_;
  std::vector<int> channels_;
  std::vector<Part> parts_;
  std::vector<oracle::SelectiveScan> scans_;
  Slab u_, delta_, z_, b_, c_;
};

class MambaOracle final : public BlockOracle {
 public:
  MambaOracle(const BlockShape& shape, const BlockFiles& files, const RankGroup& group) : shape_(shape), files_(files) {
    const MambaShape& m = shape.mamba;
    const auto read = [&](const char* dataset) {
      return read_parameter(*files.input, shape.layer, std::string("mamba/") + dataset);
    };
    parameters_ = {m.d_model,       m.d_inner,       m.d_state,           m.dt_rank,         m.d_out,
                   m.conv_width,    read("in_proj"), read("conv_weight"), read("conv_bias"), read("x_proj"),
                   read("dt_proj"), read("dt_bias"), read("A_log"),       read("D"),         read("out_proj")};
    std::vector<double> h, conv;
    if (files.initial_state != nullptr) {
      h = read_parameter(*files.initial_state, shape.layer, "state/mamba/h");
      conv = read_parameter(*files.initial_state, shape.layer, "state/mamba/conv");
    }
    const std::int64_t states = m.d_inner * m.d_state;
    const std::int64_t inputs = m.d_inner * (m.conv_width - 1);
    for (std::int64_t batch = group.rank(); batch < shape.batch; batch += group.world_size()) {
      parts_.push_back({batch, 0, m.d_out, 0});
      blocks_.emplace_back(parameters_, slice(h, batch * states, states), slice(conv, batch * inputs, inputs));
    }
  }

  void read(const TokenRun& run) override {
    x_ = read_slab(*files_.input, shape_.layer, "mamba/x", {run}, iota_from(0, shape_.mamba.d_model));
  }
  const std::vector<Part>& parts() const override { return parts_; }
  std::span<const double> step(std::size_t index, std::int64_t token) override {
    return blocks_[index].step(x_.row(parts_[index].batch, token));
  }
  State state(std::size_t index, std::string_view name) const override {
    return {0, name == "conv" ? blocks_[index].conv() : blocks_[index].h()};
  }

 private:
  const BlockShape& shape_;
  const BlockFiles& files_;
  oracle::MambaParameters parameters_;
  std::vector<Part> parts_;
  std::vector<oracle::MambaBlock> blocks_;
  Slab x_;
};

/// Largest |found - wanted| (infinite for NaN) and |wanted| of a row, over channels seen so far.
struct RowDifference {
  double error = 0.0;
  double largest = 0.0;
  void add(std::span<const double> found, std::span<const double> wanted) {
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const double difference = std::abs(found[i] - wanted[i]);
      error = std::max(error, std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
      largest = std::max(largest, std::abs(wanted[i]));
    }
  }
};

/// Collective. [batch, rows]: the differences of all ranks' channels.
std::vector<RowDifference> compare(const BlockShape& shape, const BlockFiles& files, BlockOracle& oracle,
                                   const std::vector<std::int64_t>& rows, RankGroup& group) {
  const bool is_whole_layer = shape.heads.empty();
  const std::string dataset = is_whole_layer ? std::string(name_of(shape.mechanism)) + "/y" : "o";
  const std::vector<int> heads = is_whole_layer ? iota_from(0, shape.channels) : shape.heads;
  std::vector<RowDifference> differences(static_cast<std::size_t>(shape.batch) * rows.size());
  for (std::size_t row = 0, next_row = 0; row < rows.size(); row = next_row) {
    const std::int64_t from = rows[row] / kReadTokens * kReadTokens;
    const std::int64_t done = row == 0 ? 0 : (rows[row - 1] / kReadTokens + 1) * kReadTokens;
    for (std::int64_t begin = done; begin <= from; begin += kReadTokens) {
      const TokenRun run{begin, std::min(shape.seq_len, begin + kReadTokens)};
      oracle.read(run);
      std::vector<TokenRun> wanted;
      while (next_row < rows.size() && rows[next_row] < run.end)
        wanted.push_back({rows[next_row], rows[next_row] + 1}), ++next_row;
      const Slab found = wanted.empty() ? Slab() : read_slab(*files.output, shape.layer, dataset, wanted, heads);
      for (std::size_t index = 0; index < oracle.parts().size(); ++index) {
        const Part& part = oracle.parts()[index];
        std::size_t at = 0;
        for (std::int64_t token = run.begin; token < run.end; ++token) {
          const auto y = oracle.step(index, token - run.begin);
          if (at == wanted.size() || wanted[at].begin != token) continue;
          const std::size_t place = static_cast<std::size_t>(part.batch) * rows.size() + next_row - wanted.size() + at;
          differences[place].add(
              found.row(part.batch, static_cast<std::int64_t>(at))
                  .subspan(static_cast<std::size_t>(part.first), static_cast<std::size_t>(part.count)),
              y);
          ++at;
        }
      }
    }
  }
  std::vector<double> flat;
  for (const RowDifference& difference : differences) flat.insert(flat.end(), {difference.error, difference.largest});
  group.all_reduce(flat, ReduceOp::kMax);
  for (std::size_t i = 0; i < differences.size(); ++i) differences[i] = {flat[2 * i], flat[2 * i + 1]};
  return differences;
}

/// Collective. The state that the output holds, relative to the largest element of the oracle's; no check where it
/// holds none. @pre the oracle has stepped over all tokens.
void check_state(const BlockShape& shape, const BlockFiles& files, const BlockOracle& oracle, RankGroup& group,
                 std::vector<DatasetCheck>& checks) {
  for (const std::string name : {"h", "conv"}) {
    const std::string mechanism(name_of(shape.mechanism));
    const auto info = files.output->find(shape.layer, "state/" + mechanism + "/" + name);
    if (!info) continue;
    const std::vector<double> found = files.output->read_whole(*info);
    const std::int64_t item = std::ssize(found) / std::max<std::int64_t>(1, shape.batch);
    std::vector<double> flat(static_cast<std::size_t>(shape.batch) * 2, 0.0);  // error, largest
    for (std::size_t index = 0; index < oracle.parts().size(); ++index) {
      const std::int64_t batch = oracle.parts()[index].batch;
      const BlockOracle::State state = oracle.state(index, name);
      RowDifference difference;
      difference.add(
          std::span(found).subspan(static_cast<std::size_t>(batch * item + state.first), state.values.size()),
          state.values);
      double* const of_item = flat.data() + 2 * batch;
      of_item[0] = std::max(of_item[0], difference.error);
      of_item[1] = std::max(of_item[1], difference.largest);
    }
    group.all_reduce(std::span<double>(flat), ReduceOp::kMax);
    DatasetCheck check;
    check.layer = shape.layer;
    check.mechanism = mechanism;
    check.dataset = "state/" + name;
    check.bound = kStateBound;
    check.rows = shape.batch;
    for (std::int64_t batch = 0; batch < shape.batch; ++batch) {
      const double* const of_item = flat.data() + 2 * batch;
      check.worst.push_back({batch, shape.seq_len - 1, 0, of_item[0] / std::max(of_item[1], 1e-30)});
    }
    keep_worst(check);
    checks.push_back(check);
  }
}

/// Collective.
std::vector<DatasetCheck> check_chela(const VerifyRequest& request, const RunConfig& config, const BlockShape& shape,
                                      const BlockFiles& files, RankGroup& group) {
  const std::int64_t rows_an_item =
      request.rows ? ceil_div(*request.rows, std::max<std::int64_t>(1, shape.batch)) : shape.seq_len;
  const std::vector<std::int64_t> rows = sample_rows(shape.seq_len, rows_an_item, request.seed);
  ChelaCheckTask task;
  task.layer = &shape.chela;
  task.scale = chela_scale(config, shape.chela);
  task.input = files.input;
  task.initial = files.initial_state;
  task.output = files.output;
  task.rows = rows;
  task.heads = shape.heads;
  task.bound = request.tolerance.value_or(bound_of(shape.output_type));
  return check_chela_layer(task, group);
}

/// Collective.
std::vector<DatasetCheck> check_block(const VerifyRequest& request, const BlockShape& shape, const BlockFiles& files,
                                      RankGroup& group) {
  const std::int64_t rows_an_item =
      request.rows ? ceil_div(*request.rows, std::max<std::int64_t>(1, shape.batch)) : shape.seq_len;
  const std::vector<std::int64_t> rows = sample_rows(shape.seq_len, rows_an_item, request.seed);
  std::unique_ptr<BlockOracle> oracle;
  if (std::holds_alternative<SsmParams>(shape.mechanism)) {
    oracle = std::make_unique<SsmOracle>(shape, files, group);
  } else {
    oracle = std::make_unique<MambaOracle>(shape, files, group);
  }
  const std::vector<RowDifference> differences = compare(shape, files, *oracle, rows, group);
  DatasetCheck check;
  check.layer = shape.layer;
  check.mechanism = name_of(shape.mechanism);
  check.dataset = shape.heads.empty() ? check.mechanism + "/y" : "o";
  check.bound = request.tolerance.value_or(bound_of(shape.output_type));
  for (std::int64_t batch = 0; batch < shape.batch; ++batch) {
    const auto item = std::span(differences).subspan(static_cast<std::size_t>(batch) * rows.size(), rows.size());
    double largest = 1e-30;
    for (const RowDifference& row : item) largest = std::max(largest, row.largest);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      check.worst.push_back({batch, rows[i], shape.heads.empty() ? 0 : shape.heads.front(), item[i].error / largest});
    }
  }
  check.rows = std::ssize(check.worst);
  keep_worst(check);
  std::vector<DatasetCheck> checks{check};
  check_state(shape, files, *oracle, group, checks);
  return checks;
}

}  // namespace

std::vector<DatasetCheck> verify_blocks(const VerifyRequest& request, const RunConfig& config, const std::string& layer,
                                        const BlockFiles& files, RankGroup& group) {
  std::vector<DatasetCheck> checks;
  for (const BlockAssignment& assignment : config.blocks) {
    BlockShape shape;
    run_collectively(group, [&] {
      shape = inspect_block(*files.input, layer, assignment, config);
      shape.output_type =
          shape.heads.empty()
              ? files.output
                    ->require(layer, std::string(name_of(shape.mechanism)) + "/y",
                              {shape.batch, shape.seq_len, shape.channels})
                    .type
              : files.output->require(layer, "o", {shape.batch, shape.seq_len, shape.num_heads, shape.v_dim}).type;
    });
    const auto found = std::holds_alternative<ChelaParams>(shape.mechanism)
                           ? check_chela(request, config, shape, files, group)
                           : check_block(request, shape, files, group);
    checks.insert(checks.end(), found.begin(), found.end());
  }
  return checks;
}

}  // namespace ringscan
