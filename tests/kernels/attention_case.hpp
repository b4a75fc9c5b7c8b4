#pragma once
// An attention problem with random activations, run through a backend and held against the oracle row by row.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/kernels.hpp"

namespace ringscan::test {

/// Keys and queries that meet in one attend().
struct AttendStep {
  TokenRun keys;
  Band band;
};

struct AttentionCase {
  Mechanism mechanism;
  std::int64_t batch = 1;
  std::int64_t seq_len = 64;
  int num_heads = 1;
  int num_kv_heads = 1;
  std::int64_t head_dim = 32;
  std::int64_t v_dim = 32;
  ElementType type = ElementType::kFloat32;
  ElementType output_type = ElementType::kFloat32;
  float scale = 0.0f;           ///< 0: 1 / sqrt(head_dim)
  std::vector<HeadSlot> slots;  ///< empty: every head, grouped
  std::int64_t key_block = 128;
  TokenRun queries{-1, -1};       ///< negative: all
  std::vector<AttendStep> steps;  ///< empty: all keys at once
  bool ends_at_once = false;      ///< the last step by attend_last(), not by attend() and finish()
  std::int64_t row_padding = 0;   ///< elements between rows that belong to nobody
  /// q and k, and v, at (token, element); random normal where not given.
  std::function<float(std::int64_t, std::int64_t)> q, k, v;
};

/// The problem's inputs, as the backend gets them and in float64.
class Activations {
 public:
  explicit Activations(const AttentionCase& problem);

  AnyView q() const { return view(q_); }
  AnyView k() const { return view(k_); }
  AnyView v() const { return view(v_); }
  AnyView remainder_value() const { return view(remainder_value_); }
  double max_abs_v() const { return max_abs_v_; }
  /// Rows of one head, [seq_len, dim].
  std::vector<double> head_of(const AnyView& view, std::int64_t batch, std::int64_t head) const;

 private:
  struct Tensor {
    ElementType type;
    Shape4 shape;
    Shape4 strides;
    std::vector<std::byte> bytes;
  };
  using Value = std::function<float(std::int64_t, std::int64_t)>;

  static AnyView view(const Tensor& tensor) { return {tensor.bytes.data(), tensor.type, tensor.shape, tensor.strides}; }
  static Tensor make(const AttentionCase& problem, const Shape4& shape, unsigned seed, const Value& value);

  Tensor q_, k_, v_, remainder_value_;
  double max_abs_v_ = 0.0;
};

struct Result {
  std::vector<float> o;          ///< [batch, rows, heads, v_dim]; NaN where nothing was written
  std::vector<float> statistic;  ///< [batch, rows, heads]
  AttendStats stats;
  bool all_done = false;         ///< stick-breaking; false where the rows were finished at once
  std::vector<float> kept_mass;  ///< [batch, rows, heads]; sparse
  int search_rounds = 0;         ///< top-k
};

TokenRun queries_of(const AttentionCase& problem);
float scale_of(const AttentionCase& problem);
std::vector<HeadSlot> slots_of(const AttentionCase& problem);

Result run_case(Kernels& kernels, const AttentionCase& problem, const Activations& activations);
inline Result run_case(Kernels& kernels, const AttentionCase& problem) {
  return run_case(kernels, problem, Activations(problem));
}

/// The largest error over o and the statistic of the sampled rows, in units of what is allowed (fp32 1e-5, fp16 2e-3,
/// bf16 1e-2, relative to max|v|); over 1, or NaN, is wrong. Rows are all of a short run, else a sample with its edges.
double worst_error(const AttentionCase& problem, const Activations& activations, const Result& result);

/// Both at once.
double error_of(Kernels& kernels, const AttentionCase& problem);

/// For messages.
std::string describe(const AttentionCase& problem);

}  // namespace ringscan::test
