#include "engine/verify_head.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/streamed_row.hpp"

namespace ringscan {
namespace {

/// Keys read at once, and keys that all rows meet before the next ones: few enough for a core's second cache.
constexpr std::int64_t kReadTokens = 8192;
constexpr std::int64_t kBlockTokens = 128;

std::size_t row_elements(const DatasetInfo& dataset) {
  return dataset.shape.size() == 4 ? static_cast<std::size_t>(dataset.shape[3]) : 1;
}

/// The given rows of a head, [rows, dim], as they stand in the file. Rows close to each other are read together.
std::vector<double> read_rows(ActivationReader& reader, const DatasetInfo& dataset, const HeadTask& task) {
  constexpr std::int64_t kGap = 32;
  const std::size_t dim = row_elements(dataset);
  std::vector<double> found;
  found.reserve(task.rows.size() * dim);
  for (std::size_t first = 0; first < task.rows.size();) {
    std::size_t last = first;
    while (last + 1 < task.rows.size() && task.rows[last + 1] - task.rows[last] <= kGap &&
           task.rows[last + 1] - task.rows[first] < kReadTokens) {
      ++last;
    }
    const TokenRun run{task.rows[first], task.rows[last] + 1};
    const std::vector<double> values = reader.read_head(dataset, task.batch, run, task.head);
    for (; first <= last; ++first) {
      const auto at =
          values.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(task.rows[first] - run.begin) * dim);
      found.insert(found.end(), at, at + static_cast<std::ptrdiff_t>(dim));
    }
  }
  return found;
}

void round_as_engine(const DatasetInfo& dataset, std::vector<double>& values) {
  if (dataset.type != ElementType::kFloat64) return;
  for (double& x : values) x = static_cast<float>(x);
}

std::vector<double> read_rows_rounded(ActivationReader& reader, const DatasetInfo& dataset, const HeadTask& task) {
  std::vector<double> values = read_rows(reader, dataset, task);
  round_as_engine(dataset, values);
  return values;
}

using Rows = std::vector<oracle::StreamedRow>;

bool any_wants(const Rows& rows, const TokenRun& keys) {
  return std::any_of(rows.begin(), rows.end(), [&](const auto& row) { return !row.wanted(keys).empty(); });
}

/// All rows meet the keys of `run`, near first.
void meet_keys(const KeySegment& segment, std::int64_t batch, std::int64_t kv_head, const TokenRun& run, Rows& rows) {
  const TokenRun in_file{run.begin - segment.run.begin, run.end - segment.run.begin};
  const auto k = read_head_rounded(*segment.reader, segment.k, batch, in_file, kv_head);
  const auto v = read_head_rounded(*segment.reader, segment.v, batch, in_file, kv_head);
  const auto part = [&](const std::vector<double>& values, const TokenRun& keys) {
    const std::size_t dim = values.size() / static_cast<std::size_t>(run.size());
    return std::span(values).subspan(static_cast<std::size_t>(keys.begin - run.begin) * dim,
                                     static_cast<std::size_t>(keys.size()) * dim);
  };
  for (TokenRun keys{run.end, run.end}; keys.begin > run.begin;) {
    keys = {std::max(run.begin, keys.begin - kBlockTokens), keys.begin};
    if (!any_wants(rows, keys)) continue;
    const oracle::KeyBlock block(keys, part(k, keys), part(v, keys));
    for (oracle::StreamedRow& row : rows) row.add(block);
  }
}

/// Rows meet all keys they want.
void meet_all_keys(const LayerFiles& files, const HeadTask& task, Rows& rows) {
  const std::int64_t kv_head = files.shape.kv_head_of(task.head);
  for (auto segment = files.keys.rbegin(); segment != files.keys.rend(); ++segment) {
    const TokenRun& all = segment->run;
    for (TokenRun run{all.end, all.end}; run.begin > all.begin;) {
      run = {std::max(all.begin, (run.begin - 1) / kReadTokens * kReadTokens), run.begin};
      if (any_wants(rows, run)) meet_keys(*segment, task.batch, kv_head, run, rows);
    }
  }
}

/// NaN is as wrong as can be.
double or_infinity(double error) {
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}

/// max |found - wanted| / scale.
double vector_error(std::span<const double> found, std::span<const double> wanted, double scale) {
  double largest = 0.0;
  for (std::size_t d = 0; d < wanted.size(); ++d) {
    largest = std::max(largest, or_infinity(std::abs(found[d] - wanted[d])));
  }
  return largest > 0.0 ? or_infinity(largest / scale) : 0.0;
}

double statistic_error(const Mechanism& mechanism, double found, double wanted) {
  if (found == wanted) return 0.0;  // both -inf among them
  const double scale = has_lse(mechanism) ? std::max(1.0, std::abs(wanted)) : 1.0;
  return or_infinity(std::abs(found - wanted) / scale);
}

std::span<const double> slice(const std::vector<double>& values, std::size_t index, std::size_t size) {
  return values.empty() ? std::span<const double>() : std::span(values).subspan(index * size, size);
}

}  // namespace

std::vector<double> read_head_rounded(ActivationReader& reader, const DatasetInfo& dataset, std::int64_t batch,
                                      const TokenRun& run, std::int64_t head) {
  std::vector<double> values = reader.read_head(dataset, batch, run, head);
  round_as_engine(dataset, values);
  return values;
}

HeadErrors check_head(const LayerFiles& files, const HeadTask& task) {
  const auto head_dim = static_cast<std::size_t>(files.shape.head_dim);
  const auto v_dim = static_cast<std::size_t>(files.shape.v_dim);
  const auto* stick = std::get_if<StickBreakingParams>(&task.mechanism);
  const RemainderPolicy policy = stick != nullptr ? stick->remainder : RemainderPolicy::kDrop;

  const std::vector<double> q = read_rows_rounded(*files.input, files.q, task);
  const std::vector<double> found_o = read_rows(*files.output, files.o, task);
  const std::vector<double> found_statistic =
      task.statistic ? read_rows(*files.output, *task.statistic, task) : std::vector<double>();
  const std::vector<double> found_mass =
      task.kept_mass ? read_rows(*files.output, *task.kept_mass, task) : std::vector<double>();
  HeadTask own = task;
  own.head = files.shape.kv_head_of(task.head);
  const std::vector<double> v_own =
      policy == RemainderPolicy::kValue ? read_rows_rounded(*files.input, files.v, own) : std::vector<double>();
  const auto remainder_vector = slice(files.remainder_vectors, static_cast<std::size_t>(task.head), v_dim);

  Rows rows;
  const TokenRun own_tokens = files.shape.own_tokens();
  for (std::size_t i = 0; i < task.rows.size(); ++i) {
    rows.emplace_back(task.mechanism, slice(q, i, head_dim), own_tokens.begin + task.rows[i], task.scale,
                      files.shape.v_dim, own_tokens.end);
  }
  meet_all_keys(files, task, rows);
  if (oracle::StreamedRow::needs_two_passes(task.mechanism)) {
    for (oracle::StreamedRow& row : rows) row.begin_second_pass();
    meet_all_keys(files, task, rows);
  }

  double largest = files.largest_v[static_cast<std::size_t>(task.batch * files.shape.num_kv_heads + own.head)];
  if (policy == RemainderPolicy::kVector) {
    for (const double x : remainder_vector) largest = std::max(largest, std::abs(x));
  }
  HeadErrors errors;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const oracle::Row wanted = rows[i].finish(slice(v_own, i, v_dim), remainder_vector);
    errors.o.push_back(std::max(0.0, vector_error(slice(found_o, i, v_dim), wanted.o, largest) - wanted.slack));
    if (task.kept_mass) errors.kept_mass.push_back(or_infinity(std::abs(found_mass[i] - wanted.kept_mass)));
    if (task.statistic) {
      errors.statistic.push_back(statistic_error(task.mechanism, found_statistic[i], wanted.statistic));
    }
  }
  return errors;
}

}  // namespace ringscan
