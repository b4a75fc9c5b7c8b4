#pragma once
// The measures of one layer's heads, as far as memory allows at a time.

#include <cstddef>
#include <functional>

#include "core/buffer.hpp"
#include "engine/analysis.hpp"
#include "io/activation_file.hpp"

namespace ringscan {

struct LayerTask {
  const AnalysisRequest* request = nullptr;
  Transport* transport = nullptr;
  ActivationReader* reader = nullptr;
  MemoryLedger* ledger = nullptr;
  std::size_t memory_limit_bytes = 0;  ///< a rank; the same on all
  std::function<void(double)> on_progress;
};

/// Collective. @throws Error(kBadInput) where not even one head fits in memory.
LayerAnalysis analyze_layer(const LayerTask& task, const LayerShape& layer);

}  // namespace ringscan
