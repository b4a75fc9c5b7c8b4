#pragma once
// What the heads of activations look like: measures of every head, whatever mechanism it was trained for. Streaming
// over the ranks; no N x N matrix.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/transport.hpp"
#include "engine/analysis_request.hpp"
#include "engine/run_plan.hpp"
#include "io/file_access.hpp"

namespace ringscan {

/// Of one epsilon, over all rows: nearest-rank quantiles of the number of keys until the stick is under it.
struct StickReach {
  std::int64_t median = 0;
  std::int64_t percentile_99 = 0;
  double never_share = 0.0;  ///< of rows whose stick never came under epsilon: they count with all their keys
};

/// Figures that were not asked for are empty. Means are over all rows and batch items.
struct HeadFigures {
  int head = 0;
  int kv_head = 0;
  std::optional<double> recency_ratio;       ///< mean of (mass on keys with i - j <= window) / (mass on all)
  std::vector<StickReach> reach;             ///< one an epsilon
  std::vector<double> kept_mass;             ///< mean, one an exponent
  double kept_mass_error = 0.0;              ///< no kept mass is further off than this
  std::optional<double> smallest_exponent;   ///< the smallest C, in steps of 0.01, whose kept mass is 0.95 or more
  std::optional<double> cog_negative_share;  ///< mean of the share of |weights| whose score is negative
};

struct LayerAnalysis {
  LayerShape shape;
  std::vector<HeadFigures> heads;
};

struct Analysis {
  AnalysisRequest request;
  int world_size = 1;
  std::string transport;
  double seconds = 0.0;
  std::size_t peak_bytes = 0;  ///< of the largest rank, in buffers
  std::vector<LayerAnalysis> layers;
};

struct AnalysisContext {
  Transport* transport = nullptr;
  FileAccess* access = nullptr;
  int ranks_on_node = 1;
  std::function<void(double fraction, std::string_view phase)> on_progress;
};

/// Collective; the result is the same on all ranks. @throws Error.
Analysis analyze(const AnalysisRequest& request, const AnalysisContext& context);

/// A hybrid for one layer.
struct HybridProposal {
  std::string layer;
  std::vector<int> replaced;        ///< recency-aware heads
  std::vector<int> kept;            ///< the others
  std::vector<int> freed_kv_heads;  ///< all their query heads are replaced
};

/// One a layer. @pre recency was measured. A ratio that is no number keeps its head.
std::vector<HybridProposal> propose_hybrids(const Analysis& analysis);

/// A run configuration with that assignment: `name = value` lines, with comments.
std::string config_text(const Analysis& analysis, const HybridProposal& proposal);

/// Where the proposal for a layer goes: the name asked for; with several layers NAME.LAYER.ini.
std::string config_path(const Analysis& analysis, const HybridProposal& proposal);

/// For people: a table a layer, and what is proposed.
std::string summarize(const Analysis& analysis);
std::string to_json(const Analysis& analysis);

}  // namespace ringscan
