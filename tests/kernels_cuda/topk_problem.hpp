#pragma once
// Exact top-k on Hopper on a problem of any layout: searched, attended, and compared with the float64 oracle.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/topk.hpp"
#include "mechanism/mechanism.hpp"
#include "tests/kernels_cuda/device_partial.hpp"
#include "tests/kernels_cuda/device_tensor.hpp"

namespace ringscan::cuda::testing {

/// An element before rounding, from a normal number: of token, head and dimension.
using Fill = std::function<float(std::int64_t token, std::int64_t dim, float normal)>;

inline float as_it_is(std::int64_t, std::int64_t, float normal) {
  return normal;
}

struct TopkCase {
  const char* name = "normal";
  SparseParams params{.select = SparseSelect::kTopk, .alpha = 1.0, .exponent = 0.7};
  ElementType type = ElementType::kBfloat16;
  std::int64_t batch = 1, seq_len = 300, heads = 2, kv_heads = 1, head_dim = 64;
  Fill q = as_it_is, k = as_it_is;
  TokenRun queries{0, -1};
  std::vector<std::int64_t> cuts = {0};  ///< descending: keys [cut, last cut), near first
  std::int64_t head_gap = 0, row_gap = 0;
  TokenRun sample{0, -1};
  float scale = 0.0f;  ///< 0: 1 / sqrt(head_dim)
  bool adds = true;
  int most_rounds = 14;
  std::int64_t row_step = 1;  ///< rows compared
  std::uint32_t seed = 1;
};

std::string describe(const TopkCase& problem);

/// On the device; the case must outlive it.
class TopkRun {
 public:
  explicit TopkRun(const TopkCase& problem);

  /// Returns the rounds it took; fails where they are more than the case's most.
  int search();
  /// @pre search().
  void attend();
  /// What attend() gave with the oracle, every row_step-th row.
  void compare();
  /// Where all weights are 1, their sum is the number of keys kept.
  void expect_as_many_as_wanted();

 private:
  PartialShape shape(std::int64_t v_dim) const { return {c_.batch, queries_.size(), c_.heads, v_dim}; }
  int kv_head(std::int64_t head) const { return static_cast<int>(head / (c_.heads / c_.kv_heads)); }
  float scale() const;
  std::vector<float> upload(Tensor& tensor, std::int64_t heads, const Fill& fill, std::uint32_t stream);
  DeviceSearch device_search() const;
  TensorView<float> rows_of(const Tensor& tensor) const;
  AttendTask task(const TokenRun& keys);
  template <typename F>
  void for_each_run(F&& f);
  std::vector<double> head_of(const std::vector<float>& all, std::int64_t heads, std::int64_t batch,
                              std::int64_t head) const;
  void compare_head(std::int64_t b, std::int64_t h, double unit, const std::vector<float>& o,
                    const std::vector<float>& statistic, const std::vector<float>& kept_mass);

  const TopkCase& c_;
  TokenRun queries_;
  Tensor q_, k_, v_, o_;
  Partial out_, all_;
  DeviceArray rows_, words_, open_, workspace_, kept_array_;
  Tensor statistic_, kept_mass_;
  std::vector<HeadSlot> slots_;
  std::vector<std::int64_t> kept_;
  std::vector<float> q_host_, k_host_, v_host_;
  double worst_o_ = 0.0, worst_statistic_ = 0.0;
};

}  // namespace ringscan::cuda::testing
