#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/context_files.hpp"
#include "engine/run_plan.hpp"
#include "io/activation_file.hpp"
#include "mechanism/mechanism.hpp"

namespace ringscan {

/// A layer's datasets in the input and in the output that is checked.
struct LayerFiles {
  ActivationReader* input = nullptr;
  ActivationReader* output = nullptr;
  LayerShape shape;
  DatasetInfo q;
  DatasetInfo k;
  DatasetInfo v;
  DatasetInfo o;
  bool by_tensor_cores = false;   ///< the backend multiplied weights and values in their 16-bit type
  std::vector<KeySegment> keys;   ///< of the joined sequence, earliest first: the context's, then the input's own
  std::vector<double> largest_v;  ///< [batch, num_kv_heads]: max |v|, the context's too
  std::vector<double> remainder_vectors;  ///< [num_heads, v_dim]; empty where no head wants them
};

/// One head of one batch item, and its rows to check.
struct HeadTask {
  Mechanism mechanism;
  double scale = 1.0;
  std::int64_t batch = 0;
  int head = 0;
  std::optional<DatasetInfo> statistic;  ///< lse or remainder, where the output has it
  std::optional<DatasetInfo> kept_mass;  ///< sparse, where the output has it
  std::span<const std::int64_t> rows;    ///< of the input, ascending
};

/// One a row; infinite where the output is NaN.
struct HeadErrors {
  std::vector<double> o;          ///< relative to max|v|, beyond what near ties of top-k account for
  std::vector<double> statistic;  ///< empty without; lse: relative to max(1, |lse|), remainder: absolute
  std::vector<double> kept_mass;  ///< absolute; empty without
};

/// Elements as the engine gets them: float64 files are rounded to float32. Not collective.
std::vector<double> read_head_rounded(ActivationReader& reader, const DatasetInfo& dataset, std::int64_t batch,
                                      const TokenRun& run, std::int64_t head);

/// Not collective. Holds a few thousand keys at a time.
HeadErrors check_head(const LayerFiles& files, const HeadTask& task);

}  // namespace ringscan
