#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "core/units.hpp"
#include "engine/analysis.hpp"
#include "engine/settings.hpp"

namespace ringscan {
namespace {

using Json = nlohmann::ordered_json;

std::string layer_title(const std::string& layer) {
  return layer.empty() ? "(root)" : layer;
}

const char* select_name(SparseSelect select) {
  return select == SparseSelect::kTopk ? "topk" : "window";
}

/// Cells to the right under their titles, two spaces apart.
std::string table_text(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) text += "  " + std::string(widths[i] - row[i].size(), ' ') + row[i];
    text += "\n";
  }
  return text;
}

std::vector<std::vector<std::string>> titles(const AnalysisRequest& request) {
  std::vector<std::string> above{"", ""};
  std::vector<std::string> below{"head", "kv"};
  const auto column = [&](const std::string& first, const std::string& second) {
    above.push_back(first);
    below.push_back(second);
  };
  if (request.measures.recency) column("recency", "ratio");
  for (std::size_t i = 0; request.measures.reach && i < request.epsilons.size(); ++i) {
    column(printed("reach %.3g", request.epsilons[i]), "median");
    column("", "99 %");
    column("", "never");
  }
  for (std::size_t i = 0; request.measures.kept_mass && i < request.exponents.size(); ++i) {
    column(i == 0 ? "kept at" : "", printed("n^%.3g", request.exponents[i]));
  }
  if (request.measures.kept_mass) column("C for", "95 %");
  if (request.measures.sign_balance) column("cog's", "negative");
  return {above, below};
}

std::vector<std::string> cells(const HeadFigures& head) {
  std::vector<std::string> row{std::to_string(head.head), std::to_string(head.kv_head)};
  if (head.recency_ratio) row.push_back(printed("%.3f", *head.recency_ratio));
  for (const StickReach& reach : head.reach) {
    row.push_back(std::to_string(reach.median));
    row.push_back(std::to_string(reach.percentile_99));
    row.push_back(printed("%.1f %%", 100.0 * reach.never_share));
  }
  for (const double kept : head.kept_mass) row.push_back(printed("%.3f", kept));
  if (!head.kept_mass.empty()) {
    row.push_back(head.smallest_exponent ? printed("%.2f", *head.smallest_exponent) : std::string("-"));
  }
  if (head.cog_negative_share) row.push_back(printed("%.3f", *head.cog_negative_share));
  return row;
}

std::string proposal_text(const Analysis& analysis, const HybridProposal& proposal) {
  const AnalysisRequest& request = analysis.request;
  return printed("  recency-aware (ratio >= %.3g): heads ", request.recency_threshold) +
         human_ranges(proposal.replaced) + " -> " + request.replace_with + "; " + request.keep + ": heads " +
         human_ranges(proposal.kept) + "; KV heads freed: " + human_ranges(proposal.freed_kv_heads) + "\n";
}

Json head_json(const HeadFigures& head, const AnalysisRequest& request) {
  Json json{{"head", head.head}, {"kv_head", head.kv_head}};
  if (head.recency_ratio) json["recency_ratio"] = *head.recency_ratio;
  if (request.measures.reach) {
    json["stick_reach"] = Json::array();
    for (std::size_t i = 0; i < head.reach.size(); ++i) {
      json["stick_reach"].push_back({{"epsilon", request.epsilons[i]},
                                     {"median", head.reach[i].median},
                                     {"percentile_99", head.reach[i].percentile_99},
                                     {"never_share", head.reach[i].never_share}});
    }
  }
  if (request.measures.kept_mass) {
    json["kept_mass"] = Json::array();
    for (std::size_t i = 0; i < head.kept_mass.size(); ++i) {
      json["kept_mass"].push_back({{"exponent", request.exponents[i]}, {"mean", head.kept_mass[i]}});
    }
    json["kept_mass_error"] = head.kept_mass_error;
    json["smallest_exponent_95"] = head.smallest_exponent ? Json(*head.smallest_exponent) : Json(nullptr);
  }
  if (head.cog_negative_share) json["cog_negative_share"] = *head.cog_negative_share;
  return json;
}

}  // namespace

std::vector<HybridProposal> propose_hybrids(const Analysis& analysis) {
  std::vector<HybridProposal> proposals;
  for (const LayerAnalysis& layer : analysis.layers) {
    HybridProposal proposal;
    proposal.layer = layer.shape.name;
    std::vector<int> heads_left(static_cast<std::size_t>(layer.shape.num_kv_heads), 0);
    for (const HeadFigures& head : layer.heads) {
      const bool is_recent = head.recency_ratio.value() >= analysis.request.recency_threshold;
      (is_recent ? proposal.replaced : proposal.kept).push_back(head.head);
      if (!is_recent) ++heads_left[static_cast<std::size_t>(head.kv_head)];
    }
    for (int kv_head = 0; kv_head < layer.shape.num_kv_heads; ++kv_head) {
      if (heads_left[static_cast<std::size_t>(kv_head)] == 0) proposal.freed_kv_heads.push_back(kv_head);
    }
    proposals.push_back(std::move(proposal));
  }
  return proposals;
}

namespace {

/// "a.ini", "3" -> "a.3.ini"; without several layers the name as it is.
std::string with_layer(const Analysis& analysis, const std::string& name, const std::string& ending,
                       const std::string& layer) {
  if (analysis.layers.size() < 2) return name;
  const bool has_ending = name.ends_with(ending);
  return name.substr(0, name.size() - (has_ending ? ending.size() : 0)) + "." + layer + (has_ending ? ending : "");
}

}  // namespace

std::string config_path(const Analysis& analysis, const HybridProposal& proposal) {
  return with_layer(analysis, analysis.request.write_config, ".ini", proposal.layer);
}

std::string config_text(const Analysis& analysis, const HybridProposal& proposal) {
  const AnalysisRequest& request = analysis.request;
  const std::string& input = request.input;
  const std::string stem = input.ends_with(".h5") ? input.substr(0, input.size() - 3) : input;
  std::string text = "# Proposed by ringscan analyze: heads with a mean of " +
                     printed("%.3g", request.recency_threshold) + " or more of their softmax mass on keys\n# at most " +
                     std::to_string(request.recency_window) + " back get " + request.replace_with + ", the others " +
                     request.keep + ". KV heads freed: " + human_ranges(proposal.freed_kv_heads) + ".\n";
  text += setting_line("input", input);
  text += setting_line("output", with_layer(analysis, stem + ".hybrid.h5", ".h5", proposal.layer));
  if (!proposal.layer.empty()) text += setting_line("layers", proposal.layer);
  if (!proposal.replaced.empty())
    text += setting_line("heads." + request.replace_with, human_ranges(proposal.replaced));
  if (!proposal.kept.empty()) text += setting_line("heads." + request.keep, human_ranges(proposal.kept));
  return text;
}

std::string summarize(const Analysis& analysis) {
  const AnalysisRequest& request = analysis.request;
  const std::vector<HybridProposal> proposals =
      request.measures.recency ? propose_hybrids(analysis) : std::vector<HybridProposal>();
  std::string text;
  double error = 0.0;
  for (std::size_t index = 0; index < analysis.layers.size(); ++index) {
    const LayerAnalysis& layer = analysis.layers[index];
    text += "layer " + layer_title(layer.shape.name) + ": " + std::to_string(layer.shape.seq_len) + " tokens, batch " +
            std::to_string(layer.shape.batch) + ", " + std::to_string(layer.shape.num_heads) + " heads (" +
            std::to_string(layer.shape.num_kv_heads) + " kv)\n";
    std::vector<std::vector<std::string>> rows = titles(request);
    for (const HeadFigures& head : layer.heads) {
      rows.push_back(cells(head));
      error = std::max(error, head.kept_mass_error);
    }
    text += table_text(rows);
    if (!proposals.empty()) text += proposal_text(analysis, proposals[index]);
  }
  if (request.measures.recency) {
    text += "recency ratio: mean mass on keys at most " + std::to_string(request.recency_window) + " back\n";
  }
  if (request.measures.reach) text += "reach: keys, near first, until less than this is left of the stick\n";
  if (request.measures.kept_mass) {
    text += std::string("kept: mean mass of the n^C ") +
            (request.select == SparseSelect::kTopk ? "strongest" : "nearest") + " keys" +
            printed(", to within %.1g; C for 95 %% in steps of 0.01\n", std::max(error, 5e-5));
  }
  return text + std::to_string(analysis.world_size) + (analysis.world_size == 1 ? " rank, " : " ranks, ") +
         human_seconds(analysis.seconds) + ", at most " + human_bytes(analysis.peak_bytes) + " a rank in buffers\n";
}

std::string to_json(const Analysis& analysis) {
  const AnalysisRequest& request = analysis.request;
  const std::vector<HybridProposal> proposals =
      request.measures.recency ? propose_hybrids(analysis) : std::vector<HybridProposal>();
  Json layers = Json::array();
  for (std::size_t index = 0; index < analysis.layers.size(); ++index) {
    const LayerAnalysis& layer = analysis.layers[index];
    Json heads = Json::array();
    for (const HeadFigures& head : layer.heads) heads.push_back(head_json(head, request));
    Json json{{"layer", layer.shape.name},
              {"batch", layer.shape.batch},
              {"seq_len", layer.shape.seq_len},
              {"num_heads", layer.shape.num_heads},
              {"num_kv_heads", layer.shape.num_kv_heads},
              {"head_dim", layer.shape.head_dim},
              {"heads", heads}};
    if (!proposals.empty()) {
      json["proposal"] = {{"replaced", proposals[index].replaced},
                          {"kept", proposals[index].kept},
                          {"freed_kv_heads", proposals[index].freed_kv_heads}};
    }
    layers.push_back(std::move(json));
  }
  const Json json{{"program", "ringscan " RINGSCAN_VERSION},
                  {"input", request.input},
                  {"world_size", analysis.world_size},
                  {"transport", analysis.transport},
                  {"seconds", analysis.seconds},
                  {"memory", {{"peak_bytes", analysis.peak_bytes}}},
                  {"recency_window", request.recency_window},
                  {"recency_threshold", request.recency_threshold},
                  {"select", select_name(request.select)},
                  {"replace_with", request.replace_with},
                  {"keep", request.keep},
                  {"layers", layers}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace ringscan
