#pragma once
// The oracle for sequences whose keys do not fit in memory as float64: the same definitions as oracle.hpp, met in runs
// of keys, near first. Float64 and plain loops; shares no code with the kernels.

#include <cstdint>
#include <span>
#include <vector>

#include "core/token_run.hpp"
#include "kernels/reference/oracle.hpp"
#include "mechanism/band.hpp"
#include "mechanism/mechanism.hpp"

namespace ringscan::oracle {

/// A run of one head's keys and values, arranged for many rows to meet it.
class KeyBlock {
 public:
  /// `k` [run.size(), head_dim] and `v` [run.size(), v_dim], row-major; `v` must outlive the block.
  KeyBlock(const TokenRun& run, std::span<const double> k, std::span<const double> v);

  const TokenRun& run() const { return run_; }
  std::span<const double> v(std::int64_t key) const {
    return v_.subspan(static_cast<std::size_t>((key - run_.begin)) * v_dim_, v_dim_);
  }
  /// |k_j|, and a hash of its elements.
  double norm(std::int64_t key) const;
  std::uint64_t hash(std::int64_t key) const;
  /// z[j] = scale <q, k_j> for every key of the block.
  void scores(std::span<const double> q, double scale, std::vector<double>& z) const;

 private:
  TokenRun run_;
  std::size_t v_dim_;
  std::vector<double> k_by_dim_;  // [head_dim, run.size()]: the loop over keys has no sum in it
  std::span<const double> v_;
};

/// One row as its keys go by. The blocks it is given end where the last one began.
class StreamedRow {
 public:
  /// Query `query` (global) with vector q [head_dim], which must outlive the row.
  /// `seq_len` is read by SparseCount::kTotal.
  StreamedRow(const Mechanism& mechanism, std::span<const double> q, std::int64_t query, double scale,
              std::int64_t v_dim, std::int64_t seq_len = 0);

  std::int64_t query() const { return query_; }
  /// The keys of `all` that this row sees and that can still change it in float64; none once the stick is used up.
  TokenRun wanted(const TokenRun& all) const;
  void add(const KeyBlock& block);
  /// Top-k: all keys go by twice; the scores of the first time (8 bytes a key) are chosen from between the two.
  static bool needs_two_passes(const Mechanism& mechanism);
  void begin_second_pass();
  /// `v_own` [v_dim] is read where the policy is kValue, `remainder_vector` [v_dim] where it is kVector.
  Row finish(std::span<const double> v_own, std::span<const double> remainder_vector) const;

 private:
  void add_softmax(const KeyBlock& block, const TokenRun& seen, std::span<const double> z);
  void add_cog(const KeyBlock& block, const TokenRun& seen, std::span<const double> z);
  void add_window(const KeyBlock& block, const TokenRun& seen, std::span<const double> z);
  void keep_scores(const KeyBlock& block, const TokenRun& seen, std::span<const double> z);
  void add_chosen(const KeyBlock& block, const TokenRun& seen);
  void count_near_ties();
  void raise_max(double largest);
  void raise_all_max(double largest);
  void add_stick_breaking(const KeyBlock& block, const TokenRun& seen, std::span<const double> z);

  const Mechanism* mechanism_;
  Band band_;
  std::span<const double> q_;
  std::int64_t query_;
  double scale_;
  std::vector<double> out_;
  double max_;  // softmax: largest z (cog: |z|) so far, and the sum of e^(z - max)
  double sum_ = 0.0;
  std::int64_t num_kept_ = 0;  // sparse
  double all_max_;             // sparse: as max_ and sum_, over all visible keys
  double all_sum_ = 0.0;
  struct Score {
    double z;
    std::int64_t key;
    std::uint64_t hash;  // of the key's elements
  };
  std::vector<Score> scores_;  // top-k: of the first pass, then the kept ones by key
  bool chosen_ = false;
  double largest_k_ = 0.0;
  double slack_ = 0.0;
  double spent_ = 0.0;  // stick-breaking: -log of the stick that is left
};

}  // namespace ringscan::oracle
