#include "engine/verify.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "core/stopwatch.hpp"
#include "engine/layer_io.hpp"
#include "engine/row_sample.hpp"
#include "engine/run_config.hpp"
#include "engine/verify_block.hpp"
#include "engine/verify_head.hpp"
#include "engine/verify_linear.hpp"
#include "io/activation_file.hpp"
#include "kernels/reference/streamed_row.hpp"

namespace ringscan {
namespace {

constexpr double kStatisticBound = 1e-5;
constexpr double kTensorCoreStatisticBound = 1e-3;  // as tests/kernels_cuda hold the kernels to
/// Rows of a head that meet its keys together; more would not fit beside each other for `rows all` on a long sequence.
constexpr std::size_t kRowsAtOnce = 8192;
/// Scores that rows of top-k hold between their two passes.
constexpr std::int64_t kScoresAtOnce = std::int64_t{1} << 24;

std::size_t rows_at_once(const Mechanism& mechanism, std::int64_t seq_len) {
  if (!oracle::StreamedRow::needs_two_passes(mechanism)) return kRowsAtOnce;
  return static_cast<std::size_t>(
      std::clamp<std::int64_t>(kScoresAtOnce / std::max<std::int64_t>(1, seq_len), 1, 8192));
}

double bound_of(ElementType type) {
  switch (type) {
    case ElementType::kFloat16:
      return 2e-3;
    case ElementType::kBfloat16:
      return 1e-2;
    case ElementType::kFloat64:
    case ElementType::kFloat32:
      break;
  }
  return 1e-5;
}

double epsilon_of(const Mechanism& mechanism) {
  const auto* stick = std::get_if<StickBreakingParams>(&mechanism);
  return stick != nullptr ? stick->epsilon : 0.0;
}

std::string attribute(const ActivationReader& reader, const std::string& name) {
  const auto attributes = reader.attributes();
  const auto found = attributes.find(name);
  if (found != attributes.end()) return found->second;
  throw bad_input(reader.path() + ": found no attribute '" + name + "'; want a complete output of `ringscan run`");
}

RunConfig read_configuration(const ActivationReader& output) {
  const std::string complete = attribute(output, "complete");
  if (complete != "1") {
    throw bad_input(output.path() + ": attribute 'complete' is " + complete + "; want a complete output (1)");
  }
  return parse_run_config(attribute(output, "configuration"));
}

LayerFiles open_layer(ActivationReader& input, ActivationReader& output, ContextFiles& earlier,
                      const std::string& layer, const RunConfig& config) {
  LayerFiles files;
  files.input = &input;
  files.output = &output;
  files.shape = inspect_layer(input, layer, config);
  earlier.inspect(files.shape);
  const LayerShape& shape = files.shape;
  files.q = *input.find(layer, "q");
  files.k = *input.find(layer, "k");
  files.v = *input.find(layer, "v");
  files.keys = earlier.segments(shape);
  files.keys.push_back({&input, shape.own_tokens(), files.k, files.v});
  files.o = output.require(layer, "o", {shape.batch, shape.seq_len, shape.num_heads, shape.v_dim});
  return files;
}

std::optional<DatasetInfo> find_statistic(const LayerFiles& files, const char* name) {
  const LayerShape& shape = files.shape;
  if (!files.output->find(shape.name, name)) return std::nullopt;
  return files.output->require(shape.name, name, {shape.batch, shape.seq_len, shape.num_heads});
}

/// Collective. max |v| of each batch item and KV head; each rank looks through a share of the tokens.
std::vector<double> find_largest_v(const LayerFiles& files, RankGroup& group) {
  constexpr std::int64_t kReadTokens = 8192;
  const LayerShape& shape = files.shape;
  std::vector<double> largest(static_cast<std::size_t>(shape.batch * shape.num_kv_heads), 0.0);
  run_collectively(group, [&] {
    for (const KeySegment& segment : files.keys) {
      const std::int64_t share = ceil_div(segment.run.size(), group.world_size());
      const TokenRun all{0, segment.run.size()};
      const TokenRun mine = intersect(all, TokenRun{group.rank() * share, (group.rank() + 1) * share});
      for (std::int64_t begin = mine.begin; begin < mine.end; begin += kReadTokens) {
        const TokenRun run = intersect(mine, TokenRun{begin, begin + kReadTokens});
        for (std::size_t i = 0; i < largest.size(); ++i) {
          const auto slot = static_cast<std::int64_t>(i);
          for (const double x : read_head_rounded(*segment.reader, segment.v, slot / shape.num_kv_heads, run,
                                                  slot % shape.num_kv_heads)) {
            largest[i] = std::max(largest[i], std::abs(x));
          }
        }
      }
    }
  });
  group.all_reduce(largest, ReduceOp::kMax);
  return largest;
}

/// Collective.
std::vector<double> read_remainder_vectors(const LayerFiles& files, const RunConfig& config) {
  const bool wanted = std::any_of(config.assignments.begin(), config.assignments.end(), [](const auto& assignment) {
    const auto* stick = std::get_if<StickBreakingParams>(&assignment.mechanism);
    return stick != nullptr && stick->remainder == RemainderPolicy::kVector;
  });
  if (!wanted) return {};
  std::vector<double> vectors = files.input->read_whole(*files.input->find(files.shape.name, "remainder_value"));
  for (double& x : vectors) x = static_cast<float>(x);
  return vectors;
}

void keep_worst(DatasetCheck& check, const RowError& row) {
  const auto place = std::upper_bound(check.worst.begin(), check.worst.end(), row,
                                      [](const RowError& a, const RowError& b) { return a.error > b.error; });
  check.worst.insert(place, row);
  if (check.worst.size() > DatasetCheck::kWorstRows) check.worst.pop_back();
}

/// Collective. The check becomes that of all ranks' rows.
void merge(DatasetCheck& check, RankGroup& group) {
  constexpr std::size_t kFields = 5;
  const auto ranks = static_cast<std::size_t>(group.world_size());
  std::vector<double> table(ranks * DatasetCheck::kWorstRows * kFields, 0.0);
  double* mine = table.data() + static_cast<std::size_t>(group.rank()) * DatasetCheck::kWorstRows * kFields;
  for (const RowError& row : check.worst) {
    *mine++ = 1.0;
    *mine++ = static_cast<double>(row.batch);
    *mine++ = static_cast<double>(row.query);
    *mine++ = static_cast<double>(row.head);
    *mine++ = row.error;
  }
  group.all_reduce(table, ReduceOp::kSum);
  check.worst.clear();
  for (const double* row = table.data(); row < table.data() + table.size(); row += kFields) {
    if (row[0] == 0.0) continue;
    keep_worst(check, {static_cast<std::int64_t>(row[1]), static_cast<std::int64_t>(row[2]),
                       static_cast<std::int64_t>(row[3]), row[4]});
  }
  check.rows = group.all_reduce(check.rows, ReduceOp::kSum);
}

/// The rows of one mechanism's heads, as they are checked by this rank.
class AssignmentCheck {
 public:
  /// `linear` is read for linear heads, else null.
  AssignmentCheck(const LayerFiles& files, const LinearFiles* linear, const Mechanism& mechanism, double scale,
                  const VerifyRequest& request)
      : files_(files), linear_(linear), mechanism_(mechanism), scale_(scale) {
    const char* statistic = has_lse(mechanism) ? "lse" : has_remainder(mechanism) ? "remainder" : "state";
    const double epsilon = epsilon_of(mechanism);
    const bool rounds_inside = files.by_tensor_cores;
    const double bound = std::max(bound_of(files.o.type), rounds_inside ? bound_of(files.shape.kv_type) : 0.0);
    o_.dataset = "o";
    o_.bound = request.tolerance.value_or(bound) + epsilon;
    statistic_.dataset = statistic;
    // A state is a sum of products as o is; the other statistics are sums of weights.
    const double by_tensor_cores = linear != nullptr ? bound_of(files.shape.kv_type) : kTensorCoreStatisticBound;
    statistic_.bound = (rounds_inside ? by_tensor_cores : kStatisticBound) + epsilon;
    statistic_info_ = linear != nullptr ? linear->state : find_statistic(files, statistic);
    kept_mass_.dataset = "kept_mass";
    kept_mass_.bound = kStatisticBound;
    if (std::holds_alternative<SparseParams>(mechanism)) kept_mass_info_ = find_statistic(files, "kept_mass");
    for (DatasetCheck* check : {&o_, &statistic_, &kept_mass_}) {
      check->layer = files.shape.name;
      check->mechanism = name_of(mechanism);
    }
  }

  /// Not collective.
  void check(std::int64_t batch, int head, std::span<const std::int64_t> rows) {
    if (linear_ != nullptr) return check_linear(batch, head, rows);
    const std::size_t at_once = rows_at_once(mechanism_, files_.shape.own_tokens().end);
    for (std::size_t first = 0; first < rows.size(); first += at_once) {
      const auto part = rows.subspan(first, std::min(at_once, rows.size() - first));
      const HeadErrors errors =
          check_head(files_, {mechanism_, scale_, batch, head, statistic_info_, kept_mass_info_, part});
      for (std::size_t i = 0; i < part.size(); ++i) {
        add(o_, {batch, part[i], head, errors.o[i]});
        if (statistic_info_) add(statistic_, {batch, part[i], head, errors.statistic[i]});
        if (kept_mass_info_) add(kept_mass_, {batch, part[i], head, errors.kept_mass[i]});
      }
    }
  }

  /// Collective.
  void finish(RankGroup& group, std::vector<DatasetCheck>& checks) {
    merge(o_, group);
    checks.push_back(o_);
    if (statistic_info_) {
      merge(statistic_, group);
      checks.push_back(statistic_);
    }
    if (!kept_mass_info_) return;
    merge(kept_mass_, group);
    checks.push_back(kept_mass_);
  }

 private:
  void check_linear(std::int64_t batch, int head, std::span<const std::int64_t> rows) {
    if (rows.empty()) return;
    const HeadTask task{mechanism_, scale_, batch, head, std::nullopt, std::nullopt, rows};
    const HeadErrors errors = check_linear_head(files_, *linear_, task);
    for (std::size_t i = 0; i < rows.size(); ++i) add(o_, {batch, rows[i], head, errors.o[i]});
    for (const double error : errors.statistic) add(statistic_, {batch, files_.shape.seq_len - 1, head, error});
  }

  static void add(DatasetCheck& check, const RowError& row) {
    ++check.rows;
    keep_worst(check, row);
  }

  const LayerFiles& files_;
  const LinearFiles* linear_;
  const Mechanism& mechanism_;
  double scale_;
  std::optional<DatasetInfo> statistic_info_;
  std::optional<DatasetInfo> kept_mass_info_;
  DatasetCheck o_;
  DatasetCheck statistic_;
  DatasetCheck kept_mass_;
};

/// This rank's share of a head's rows. The heavy late rows go round the ranks, beginning elsewhere for each head; a
/// recurrence goes over all tokens for any row, so that a rank has all of a head or none.
std::vector<std::int64_t> rows_of_rank(const std::vector<std::int64_t>& rows, std::int64_t slot, bool is_recurrence,
                                       const RankGroup& group) {
  std::vector<std::int64_t> mine;
  const std::int64_t ranks = group.world_size();
  if (is_recurrence) return slot % ranks == group.rank() ? rows : mine;
  for (std::int64_t i = (group.rank() + slot) % ranks; i < static_cast<std::int64_t>(rows.size()); i += ranks) {
    mine.push_back(rows[static_cast<std::size_t>(i)]);
  }
  return mine;
}

std::vector<int> heads_of(const HeadAssignment& assignment, int num_heads) {
  std::vector<int> heads = assignment.heads;
  for (int head = 0; assignment.heads.empty() && head < num_heads; ++head) heads.push_back(head);
  return heads;
}

/// Collective.
void verify_layer(const VerifyRequest& request, const RunConfig& config, const LayerFiles& files,
                  ActivationReader* initial, std::uint64_t layer_seed, RankGroup& group,
                  std::vector<DatasetCheck>& checks) {
  const LayerShape& shape = files.shape;
  const double scale = config.scale.value_or(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
  const std::int64_t rows_a_head =
      request.rows ? ceil_div(*request.rows, std::max<std::int64_t>(1, shape.batch * shape.num_heads)) : shape.seq_len;
  for (const HeadAssignment& assignment : config.assignments) {
    std::optional<AssignmentCheck> check;
    const bool is_recurrence = carries_state(assignment.mechanism);
    std::optional<LinearFiles> linear;
    if (is_recurrence) linear = open_linear_files(files, initial, config);
    const double own_scale = is_recurrence ? config.linear_scale.value_or(scale) : scale;
    run_collectively(group, [&] {
      check.emplace(files, linear ? &*linear : nullptr, assignment.mechanism, own_scale, request);
      for (std::int64_t batch = 0; batch < shape.batch; ++batch) {
        for (const int head : heads_of(assignment, shape.num_heads)) {
          const std::int64_t slot = batch * shape.num_heads + head;
          const auto rows = sample_rows(shape.seq_len, rows_a_head, layer_seed + static_cast<std::uint64_t>(slot));
          check->check(batch, head, rows_of_rank(rows, slot, is_recurrence, group));
        }
      }
    });
    check->finish(group, checks);
  }
}

}  // namespace

bool VerifyReport::passed() const {
  return std::all_of(checks.begin(), checks.end(), [](const DatasetCheck& check) { return check.passed(); });
}

VerifyReport verify(const VerifyRequest& request, FileAccess& access) {
  const Stopwatch watch;
  RankGroup& group = access.group();
  VerifyReport report;
  report.request = request;
  ActivationReader output(access, request.output);
  ActivationReader input(access, request.input);
  RunConfig config;
  run_collectively(group, [&] { config = read_configuration(output); });
  ContextFiles earlier(access, config.context);
  std::vector<LayerFiles> layers;
  run_collectively(group, [&] {
    report.configuration = attribute(output, "configuration");
    report.backend = attribute(output, "backend");
    for (const std::string& layer : output.layers()) {
      if (!config.assignments.empty()) layers.push_back(open_layer(input, output, earlier, layer, config));
    }
  });
  std::optional<ActivationReader> initial;
  if (!config.initial_state.empty()) initial.emplace(access, config.initial_state);
  std::uint64_t layer_seed = request.seed;
  for (LayerFiles& files : layers) {
    files.by_tensor_cores = report.backend == "cuda" && files.shape.kv_type != ElementType::kFloat32;
    files.largest_v = find_largest_v(files, group);
    files.remainder_vectors = read_remainder_vectors(files, config);
    layer_seed = layer_seed * 6364136223846793005u + 1442695040888963407u;  // apart for each layer
    verify_layer(request, config, files, initial ? &*initial : nullptr, layer_seed, group, report.checks);
  }
  const BlockFiles files{&input, &output, initial ? &*initial : nullptr};
  for (const std::string& layer : output.layers()) {
    const auto checks = verify_blocks(request, config, layer, files, group);
    report.checks.insert(report.checks.end(), checks.begin(), checks.end());
  }
  report.seconds = group.all_reduce(watch.seconds(), ReduceOp::kMax);
  return report;
}

}  // namespace ringscan
