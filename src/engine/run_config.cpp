#include "engine/run_config.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include "core/units.hpp"
#include "engine/run_options.hpp"
#include "engine/settings.hpp"

namespace ringscan {

namespace {

std::string on_off(bool value) {
  return value ? "on" : "off";
}

/// The shortest text that reads back to the same number.
std::string number_text(double number) {
  char text[40];
  const auto [end, problem] = std::to_chars(text, text + sizeof(text), number);
  return problem == std::errc() ? std::string(text, end) : std::to_string(number);
}

std::string file_list_text(const std::vector<std::string>& files) {
  std::string text;
  for (const std::string& file : files) text += (text.empty() ? "" : ",") + file;
  return text;
}

std::string params_text(const SoftmaxParams& params) {
  return setting_line("softmax.window", std::to_string(params.window));
}

std::string params_text(const StickBreakingParams& params) {
  const char* policy = "drop";
  if (params.remainder == RemainderPolicy::kValue) policy = "value";
  if (params.remainder == RemainderPolicy::kVector) policy = "vector";
  return setting_line("stick-breaking.epsilon", number_text(params.epsilon)) +
         setting_line("stick-breaking.attend-current", on_off(params.attend_current)) +
         setting_line("stick-breaking.remainder", policy);
}

std::string params_text(const CogParams&) {
  return "";
}

std::string params_text(const SparseParams& params) {
  return setting_line("sparse.select", params.select == SparseSelect::kWindow ? "window" : "topk") +
         setting_line("sparse.alpha", number_text(params.alpha)) +
         setting_line("sparse.exponent", number_text(params.exponent)) +
         setting_line("sparse.min", std::to_string(params.min_keys)) +
         setting_line("sparse.count", params.count == SparseCount::kTotal ? "total" : "visible");
}

std::string params_text(const LinearParams& params) {
  constexpr const char* kDecays[] = {"none", "head", "token"};
  return setting_line("linear.decay", kDecays[static_cast<int>(params.decay)]) +
         setting_line("linear.feature-map", params.feature_map == FeatureMap::kElu1 ? "elu1" : "identity") +
         setting_line("linear.normalizer", params.normalizer == Normalizer::kZ ? "z" : "none");
}

/// What linear heads have beside their parameters.
std::string linear_text(const RunConfig& config) {
  std::string decays;
  for (const double decay : config.linear_head_decay) decays += (decays.empty() ? "" : ",") + number_text(decay);
  std::string lines;
  if (!decays.empty()) lines += setting_line("linear.head-decay", decays);
  if (config.linear_scale) lines += setting_line("linear.scale", number_text(*config.linear_scale));
  return lines;
}

/// One option for all mechanisms that have it.
std::string causal_text(const RunConfig& config) {
  for (const HeadAssignment& assignment : config.assignments) {
    const auto* softmax = std::get_if<SoftmaxParams>(&assignment.mechanism);
    const auto* cog = std::get_if<CogParams>(&assignment.mechanism);
    if (softmax != nullptr) return setting_line("causal", on_off(softmax->causal));
    if (cog != nullptr) return setting_line("causal", on_off(cog->causal));
  }
  return "";
}

std::string outputs_text(const RunConfig& config) {
  std::string list;
  if (config.want_lse) list = "lse";
  if (config.want_remainder) list += list.empty() ? "remainder" : ",remainder";
  if (config.want_kept_mass) list += list.empty() ? "kept_mass" : ",kept_mass";
  if (config.want_state) list += list.empty() ? "state" : ",state";
  return list.empty() ? "" : setting_line("outputs", list);
}

}  // namespace

std::string RunConfig::result_text() const {
  std::string lines = setting_line("input", input);
  if (!output.empty()) lines += setting_line("output", output);
  lines += setting_line("layers", layers);
  for (const HeadAssignment& assignment : assignments) {
    const std::string name(name_of(assignment.mechanism));
    lines += assignment.heads.empty() ? setting_line("mechanism", name)
                                      : setting_line("heads." + name, human_ranges(assignment.heads));
    lines += std::visit([](const auto& params) { return params_text(params); }, assignment.mechanism);
  }
  for (const BlockAssignment& block : blocks) {
    const std::string name(name_of(block.mechanism));
    lines += block.heads.empty() ? setting_line("mechanism", name)
                                 : setting_line("heads." + name, human_ranges(block.heads));
    const auto* chela = std::get_if<ChelaParams>(&block.mechanism);
    if (chela != nullptr && chela->heads > 0) lines += setting_line("chela.heads", std::to_string(chela->heads));
  }
  lines += causal_text(*this);
  lines += linear_text(*this);
  if (scale) lines += setting_line("scale", number_text(*scale));
  lines += setting_line("backend", backend);
  lines += setting_line("layout", layout ? name_of(*layout) : "auto");
  lines += setting_line("reproducible", on_off(reproducible));
  lines += outputs_text(*this);
  if (!initial_state.empty()) lines += setting_line("initial-state", initial_state);
  if (!context.empty()) lines += setting_line("context", file_list_text(context));
  if (output_dtype) lines += setting_line("output-dtype", name_of(*output_dtype));
  lines += setting_line("allow-nonfinite", on_off(allow_nonfinite));
  return lines;
}

std::string RunConfig::text() const {
  std::string lines = result_text();
  lines += setting_line("overwrite", on_off(overwrite));
  lines += setting_line("resume", on_off(resume));
  if (memory_bytes) lines += setting_line("memory", std::to_string(*memory_bytes));
  if (hop_limit_seconds != RunConfig().hop_limit_seconds)
    lines += setting_line("hop-limit", number_text(hop_limit_seconds));
  if (kv_heads_at_once > 0) lines += setting_line("kv-heads-at-once", std::to_string(kv_heads_at_once));
  if (!report.empty()) lines += setting_line("report", report);
  if (!trace.empty()) lines += setting_line("trace", trace);
  constexpr const char* kModes[] = {"auto", "on", "off"};
  lines += setting_line("progress", kModes[static_cast<int>(progress)]);
  lines += setting_line("dry-run", on_off(dry_run));
  return lines;
}

RunConfig parse_run_config(const std::string& text) {
  return make_run_config(parse_settings(text, "configuration"));
}

std::vector<int> parse_head_list(const std::string& text) {
  constexpr int kMost = 65535;
  const auto wrong = [&] {
    return bad_input("found '" + text + "', want heads as numbers and ranges, such as 0-3,8 (at most " +
                     std::to_string(kMost) + ")");
  };
  std::vector<int> heads;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto read_head = [&] {
    int head = 0;
    const auto [stop, problem] = std::from_chars(at, end, head);
    if (problem != std::errc() || head < 0 || head > kMost) throw wrong();
    at = stop;
    return head;
  };
  while (true) {
    const int first = read_head();
    int last = first;
    if (at != end && *at == '-') {
      ++at;
      last = read_head();
    }
    if (last < first) throw wrong();
    for (int head = first; head <= last; ++head) heads.push_back(head);
    if (at == end) break;
    if (*at != ',') throw wrong();
    ++at;
  }
  std::sort(heads.begin(), heads.end());
  const auto twice = std::adjacent_find(heads.begin(), heads.end());
  if (twice != heads.end()) {
    throw bad_input("found '" + text + "', which names head " + std::to_string(*twice) + " twice, want each head once");
  }
  return heads;
}

std::size_t parse_memory_size(const std::string& text) {
  const auto wrong = [&] {
    return bad_input("found '" + text + "', want a size over 0 such as 16G, 512MiB or 1000000 (bytes)");
  };
  double number = 0.0;
  const char* const end = text.data() + text.size();
  const auto [stop, problem] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (problem != std::errc()) throw wrong();
  std::string unit(stop, end);
  for (char& c : unit) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  if (unit.ends_with('B')) unit.pop_back();
  if (unit.ends_with('I') && unit.size() == 2) unit.pop_back();
  constexpr std::string_view kUnits = "KMGT";
  if (unit.size() > 1 || (unit.size() == 1 && kUnits.find(unit[0]) == std::string_view::npos)) throw wrong();
  const double factor = unit.empty() ? 1.0 : std::exp2(10.0 * static_cast<double>(kUnits.find(unit[0]) + 1));
  const double bytes = number * factor;
  if (!(bytes >= 1.0 && bytes < 0x1p63)) throw wrong();
  return static_cast<std::size_t>(bytes);
}

}  // namespace ringscan
