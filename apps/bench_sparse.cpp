#include "apps/bench_sparse.hpp"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "core/stopwatch.hpp"
#include "mechanism/growing_window.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kMostPairs = std::int64_t{1} << 29;
constexpr std::int64_t kSampleKeys = 256;

class SparseBench {
 public:
  SparseBench(Kernels& kernels, SparseSelect select, std::int64_t seq_len, std::int64_t head_dim)
      : kernels_(kernels),
        seq_len_(seq_len),
        head_dim_(head_dim),
        scale_(1.0 / std::sqrt(static_cast<double>(head_dim))) {
    params_.select = select;
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    for (std::vector<float>* values : {&q_, &k_, &v_}) {
      values->resize(static_cast<std::size_t>(seq_len * head_dim));
      for (float& value : *values) value = normal(generator);
    }
    kept_ = GrowingWindow(params_, seq_len).keys_kept(TokenRun{0, seq_len});
    deltas_ = GrowingWindow::reaches_of(kept_);
  }

  /// GFLOP/s of dense softmax.
  double dense() {
    const AttendTask task = task_of(dense_rows());
    LseBlock block = block_of(task, head_dim_);
    const ThreadStopwatch watch;
    const AttendStats stats = kernels_.attend(task, SoftmaxParams{}, block, heartbeat_);
    return rate(stats.pairs, watch.seconds());
  }

  double window() {
    AttendTask task = task_of({0, seq_len_});
    task.max_deltas = deltas_;
    LseBlock block = block_of(task, head_dim_);
    const ThreadStopwatch watch;
    const AttendStats stats = kernels_.attend(task, SoftmaxParams{}, block, heartbeat_);
    return rate(stats.pairs, watch.seconds());
  }

  double topk() {
    const AttendTask task = task_of(dense_rows());
    LseBlock block = block_of(task, head_dim_);
    TopkBlock search;
    kernels_.make(search, shape_of(task, head_dim_), nullptr);
    const ThreadStopwatch watch;
    AttendTask keys = task;
    keys.v.shape[3] = 0;
    kernels_.start_search(sample_of(keys), std::span(kept_).subspan(static_cast<std::size_t>(task.query_run.begin)),
                          search);
    rounds_ = 0;
    do {
      kernels_.count(keys, search, heartbeat_);
      ++rounds_;
    } while (!kernels_.narrow(search));
    const AttendStats stats = kernels_.attend(task, search, block, heartbeat_);
    return rate(stats.pairs, watch.seconds());
  }

  int rounds() const { return rounds_; }

 private:
  TokenRun dense_rows() const {
    const std::int64_t rows = std::clamp<std::int64_t>(kMostPairs / seq_len_ / 64 * 64, 64, seq_len_);
    return {rows * 2 >= seq_len_ ? 0 : seq_len_ - rows, seq_len_};
  }
  AttendTask task_of(const TokenRun& queries) const {
    const Shape4 shape{1, seq_len_, 1, head_dim_};
    AttendTask task;
    task.q = dense_any_view(q_.data(), ElementType::kFloat32, shape).tokens(queries.begin, queries.size());
    task.k = dense_any_view(k_.data(), ElementType::kFloat32, shape);
    task.v = dense_any_view(v_.data(), ElementType::kFloat32, shape);
    task.slots = {&slot_, 1};
    task.query_run = queries;
    task.key_run = {0, seq_len_};
    task.band = band_of(params_);
    task.scale = static_cast<float>(scale_);
    return task;
  }
  AttendTask sample_of(AttendTask task) const {
    const std::int64_t step = ceil_div(seq_len_, kSampleKeys);
    task.k.shape[1] = seq_len_ / step;
    task.k.strides[1] *= step;
    task.v.shape[1] = task.k.shape[1];
    task.key_run = {0, task.k.shape[1]};
    task.band = Band{};
    task.key_block = kSampleKeys;
    return task;
  }
  static PartialShape shape_of(const AttendTask& task, std::int64_t v_dim) {
    return {1, task.query_run.size(), 1, v_dim};
  }
  LseBlock block_of(const AttendTask& task, std::int64_t v_dim) const {
    LseBlock block;
    kernels_.make(block, shape_of(task, v_dim), nullptr);
    return block;
  }
  double rate(std::int64_t pairs, double seconds) const {
    return 4.0 * static_cast<double>(head_dim_) * static_cast<double>(pairs) / seconds * 1e-9;
  }

  Kernels& kernels_;
  SparseParams params_;
  std::int64_t seq_len_;
  std::int64_t head_dim_;
  double scale_;
  std::vector<float> q_, k_, v_;
  std::vector<std::int64_t> kept_, deltas_;
  HeadSlot slot_;
  Heartbeat heartbeat_;
  int rounds_ = 0;
};

}  // namespace

SparseFigures bench_sparse(Kernels& kernels, SparseSelect select, std::int64_t seq_len, std::int64_t head_dim,
                           int repeats) {
  SparseBench bench(kernels, select, seq_len, head_dim);
  std::vector<double> rates, dense_rates, ratios;
  for (int repeat = -1; repeat < repeats; ++repeat) {  // the first is the warm-up
    const double dense = bench.dense();
    const double rate = select == SparseSelect::kWindow ? bench.window() : bench.topk();
    if (repeat < 0) continue;
    dense_rates.push_back(dense);
    rates.push_back(rate);
    ratios.push_back(rates.back() / dense_rates.back());
  }
  return {quartiles(rates).median, quartiles(dense_rates).median, quartiles(ratios), bench.rounds()};
}

}  // namespace ringscan
