#pragma once
// Times exact top-k, n^0.7, beside softmax of the same shape in the same run: parts of the search, the attend, and how
// many rows keep another number of keys than they should (none).

#include <cmath>
#include <cstdio>
#include <numbers>
#include <vector>

#include "kernels/cuda/bench_support.cuh"
#include "kernels/cuda/portable_attend.hpp"
#include "kernels/cuda/topk.hpp"
#include "mechanism/growing_window.hpp"

namespace ringscan::cuda::bench {

class TopkBench {
 public:
  TopkBench(std::int64_t heads, std::int64_t seq_len, std::int64_t head_dim)
      : shape_{1, seq_len, heads, head_dim},
        rows_shape_{1, seq_len, heads, 0},
        q_(2 * element_count(shape_)),
        k_(2 * element_count(shape_)),
        v_(2 * element_count(shape_)),
        o_(2 * element_count(shape_)),
        out_(4 * element_count(shape_)),
        first_(4 * heads * seq_len),
        sum_(4 * heads * seq_len),
        rows_(static_cast<std::int64_t>(search_rows_bytes(rows_shape_))),
        words_(static_cast<std::int64_t>(search_bins_bytes(rows_shape_, true))),
        open_(static_cast<std::int64_t>(search_open_bytes(rows_shape_, true))),
        workspace_(kWorkspaceBytes),
        kept_array_(8 * seq_len) {
    std::uint64_t seed = 1;
    for (const DeviceArray* array : {&q_, &k_, &v_}) {
      fill_normal<<<1024, 256>>>(static_cast<std::uint32_t*>(array->data()), element_count(shape_) / 2, true,
                                 seed++ << 40);
      check(cudaGetLastError());
    }
    for (int h = 0; h < heads; ++h) slots_.push_back({h, h});
    kept_ = GrowingWindow({.select = SparseSelect::kTopk}, seq_len).keys_kept(TokenRun{0, seq_len});
    check(cudaMemcpy(kept_array_.data(), kept_.data(), 8 * kept_.size(), cudaMemcpyHostToDevice));
    for (cudaEvent_t& event : events_) check(cudaEventCreate(&event));
  }
  TopkBench(const TopkBench&) = delete;
  TopkBench& operator=(const TopkBench&) = delete;
  ~TopkBench() {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
  }

  void run(int repeats) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape_[3]));
    DeviceAttend softmax = launch(scale);
    softmax.finishes = true;
    softmax.finish.o = dense_any_view(o_.data(), ElementType::kBfloat16, shape_);
    const double softmax_ms = median_ms(repeats, [&] { cuda::attend(softmax, SoftmaxParams{}, nullptr); });
    std::vector<float> times[5];
    for (int i = -2; i < repeats; ++i) {
      search_and_attend(scale);
      for (int part = 0; i >= 0 && part < 5; ++part) times[part].push_back(between(part));
    }
    double ms[5];
    double total = 0.0;
    for (int part = 0; part < 5; ++part) {
      std::nth_element(times[part].begin(), times[part].begin() + repeats / 2, times[part].end());
      total += ms[part] = static_cast<double>(times[part][static_cast<std::size_t>(repeats / 2)]);
    }
    std::printf("top-k n^0.7 H%lld N%lld D%lld bf16: start %.3f, first round %.3f, narrow %.3f (%u rows open), %d more rounds "
                "%.3f, attend %.3f, in all %.3f ms; softmax %.3f ms; ratio %.2f; ",
                static_cast<long long>(shape_[2]), static_cast<long long>(shape_[1]), static_cast<long long>(shape_[3]),
                ms[0], ms[1], ms[2], open_after_first_, rounds_ - 1, ms[3], ms[4], total, softmax_ms,
                total / softmax_ms);
    diagnose(scale);
    // Where all weights are 1, their sum is the number of keys.
    search_and_attend(0x1p-40f);
    std::vector<float> sums(kept_.size() * slots_.size());
    check(cudaMemcpy(sums.data(), sum_.data(), 4 * sums.size(), cudaMemcpyDeviceToHost));
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if (!(std::abs(sums[i] - static_cast<float>(kept_[i % kept_.size()])) < 0.4f)) ++wrong;
    }
    std::printf("rows with a wrong number of keys: %zu\n", wrong);
    std::fflush(stdout);
  }

 private:
  DeviceAttend launch(float scale) const {
    DeviceAttend launch;
    launch.task.q = dense_any_view(static_cast<const void*>(q_.data()), ElementType::kBfloat16, shape_);
    launch.task.k = dense_any_view(static_cast<const void*>(k_.data()), ElementType::kBfloat16, shape_);
    launch.task.v = dense_any_view(static_cast<const void*>(v_.data()), ElementType::kBfloat16, shape_);
    launch.task.slots = slots_;
    launch.task.query_run = launch.task.key_run = {0, shape_[1]};
    launch.task.band = {0, Band::kUnbounded};
    launch.task.scale = scale;
    launch.partial = {{1, shape_[1], shape_[2], shape_[3]},
                      static_cast<float*>(out_.data()),
                      static_cast<float*>(first_.data()),
                      static_cast<float*>(sum_.data())};
    launch.workspace = static_cast<std::uint32_t*>(workspace_.data());
    return launch;
  }
  /// Why rows are open after the first round, and how long lists are.
  void diagnose(float scale) {
    const DeviceAttend launched = launch(scale);
    const DeviceSearch search = device_search(scale);
    cuda::start_search(launched.task, static_cast<const std::int64_t*>(kept_array_.data()), most_kept(), search,
                       launched.workspace, nullptr);
    cuda::count(launched.task, search, nullptr, launched.workspace, nullptr);
    const std::size_t rows = kept_.size() * slots_.size();
    std::vector<std::uint32_t> lengths(4 * rows);
    check(cudaMemcpy2D(lengths.data(), 4, static_cast<std::uint32_t*>(words_.data()) + kPartKeys, 4 * kPartWords, 4,
                       lengths.size(), cudaMemcpyDeviceToHost));
    portable::narrow(search, nullptr);
    std::vector<SearchRow> states(rows);
    check(cudaMemcpy(states.data(), rows_.data(), rows * sizeof(SearchRow), cudaMemcpyDeviceToHost));
    std::size_t ties = 0, again = 0, bins = 0, listed = 0, overflowed = 0;
    for (const SearchRow& row : states) {
      ties += row.phase == kTies || row.phase == kListedTies ? 1 : 0;
      again += row.phase == kListed ? 1 : 0;
      bins += row.phase == kNarrowing ? 1 : 0;
    }
    for (const std::uint32_t length : lengths) {
      listed += length;
      overflowed += length > kPartKeys ? 1 : 0;
    }
    std::printf("(after the first round: %zu rows with ties, %zu to be listed once more, %zu for bins; %.1f keys in the "
                "range a row, %zu parts overflowed) ",
                ties, again, bins, static_cast<double>(listed) / static_cast<double>(rows), overflowed);
    std::printf("start without a sample %.3f ms, with 2000 keys %.3f ms; ", start_ms(launched.task, search, 0),
                start_ms(launched.task, search, 2000));
  }
  double start_ms(AttendTask task, const DeviceSearch& search, std::int64_t sample) const {
    task.key_run.end = task.key_run.begin + sample;
    task.k.shape[1] = sample;
    return median_ms(5, [&] {
      cuda::start_search(task, static_cast<const std::int64_t*>(kept_array_.data()), most_kept(), search,
                         static_cast<std::uint32_t*>(workspace_.data()), nullptr);
    });
  }
  std::int64_t most_kept() const { return *std::max_element(kept_.begin(), kept_.end()); }
  DeviceSearch device_search(float scale) const {
    return {rows_shape_,
            0,
            static_cast<SearchRow*>(rows_.data()),
            static_cast<std::uint32_t*>(words_.data()),
            static_cast<std::uint32_t*>(open_.data()),
            true,
            scale * std::numbers::log2e_v<float>};
  }
  void search_and_attend(float scale) {
    const DeviceAttend launched = launch(scale);
    const DeviceSearch search = device_search(scale);
    mark(0);
    cuda::start_search(launched.task, static_cast<const std::int64_t*>(kept_array_.data()), most_kept(), search,
                       launched.workspace, nullptr);
    mark(1);
    rounds_ = 0;
    std::uint32_t open = 1;
    while (open > 0) {
      cuda::count(launched.task, search, nullptr, launched.workspace, nullptr);
      if (rounds_ == 0) mark(2);
      portable::narrow(search, nullptr);
      if (rounds_ == 0) mark(3);
      check(cudaMemcpy(&open, open_.data(), sizeof open, cudaMemcpyDeviceToHost));
      if (rounds_++ == 0) open_after_first_ = open;
      if (rounds_ > 20) {
        std::puts("top-k: the search does not end");
        return;
      }
    }
    mark(4);
    cuda::attend(launched, search, nullptr);
    mark(5);
    check(cudaEventSynchronize(events_[5]));
  }
  void mark(int event) { check(cudaEventRecord(events_[event])); }
  float between(int part) const {
    float ms = 0.0f;
    check(cudaEventElapsedTime(&ms, events_[part], events_[part + 1]));
    return ms;
  }

  Shape4 shape_;
  PartialShape rows_shape_;
  DeviceArray q_, k_, v_, o_, out_, first_, sum_, rows_, words_, open_, workspace_, kept_array_;
  std::vector<HeadSlot> slots_;
  std::vector<std::int64_t> kept_;
  cudaEvent_t events_[6] = {};
  std::uint32_t open_after_first_ = 0;
  int rounds_ = 0;
};

inline void run_topk(int repeats, std::int64_t heads, std::int64_t seq_len, std::int64_t head_dim) {
  TopkBench(heads, seq_len, head_dim).run(repeats);
}

}  // namespace ringscan::cuda::bench
