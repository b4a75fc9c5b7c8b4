#include <nlohmann/json.hpp>

#include "core/units.hpp"
#include "engine/verify.hpp"

namespace ringscan {
namespace {

std::string layer_title(const std::string& layer) {
  return layer.empty() ? "(root)" : layer;
}

std::string worst_rows_text(const DatasetCheck& check) {
  std::string text =
      "worst rows of layer " + layer_title(check.layer) + ", " + check.mechanism + ", " + check.dataset + ":\n";
  for (const RowError& row : check.worst) {
    if (row.error <= check.bound) continue;
    text += printed("  layer %s  batch %lld  query %lld  head %lld  error %.3g\n", layer_title(check.layer).c_str(),
                    static_cast<long long>(row.batch), static_cast<long long>(row.query),
                    static_cast<long long>(row.head), row.error);
  }
  return text;
}

}  // namespace

std::string summarize(const VerifyReport& report) {
  std::string text =
      printed("%-16s %-16s %-10s %10s %12s %12s\n", "layer", "mechanism", "dataset", "rows", "worst error", "bound");
  std::int64_t rows = 0;
  for (const DatasetCheck& check : report.checks) {
    text += printed("%-16s %-16s %-10s %10lld %12.3g %12.3g  %s\n", layer_title(check.layer).c_str(),
                    check.mechanism.c_str(), check.dataset.c_str(), static_cast<long long>(check.rows),
                    check.worst_error(), check.bound, check.passed() ? "ok" : "FAILED");
    if (check.dataset == "o" || check.dataset.ends_with("/y")) rows += check.rows;
  }
  for (const DatasetCheck& check : report.checks) {
    if (!check.passed()) text += worst_rows_text(check);
  }
  text += std::string(report.passed() ? "verified: " : "VERIFICATION FAILED: ") + std::to_string(rows) +
          " rows against the float64 oracle in " + human_seconds(report.seconds) + "\n";
  return text;
}

std::string to_json(const VerifyReport& report) {
  nlohmann::ordered_json checks = nlohmann::ordered_json::array();
  for (const DatasetCheck& check : report.checks) {
    nlohmann::ordered_json worst = nlohmann::ordered_json::array();
    for (const RowError& row : check.worst) {
      worst.push_back({{"batch", row.batch}, {"query", row.query}, {"head", row.head}, {"error", row.error}});
    }
    checks.push_back({{"layer", check.layer},
                      {"mechanism", check.mechanism},
                      {"dataset", check.dataset},
                      {"rows", check.rows},
                      {"worst_error", check.worst_error()},
                      {"bound", check.bound},
                      {"passed", check.passed()},
                      {"worst_rows", worst}});
  }
  const nlohmann::ordered_json json = {{"program", "ringscan " RINGSCAN_VERSION},
                                       {"input", report.request.input},
                                       {"output", report.request.output},
                                       {"backend", report.backend},
                                       {"seed", report.request.seed},
                                       {"passed", report.passed()},
                                       {"seconds", report.seconds},
                                       {"checks", checks},
                                       {"configuration", report.configuration}};
  return json.dump(2);
}

}  // namespace ringscan
