#include "engine/cost_profile.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.hpp"

namespace ringscan {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const LinkCost& link) {
  return {{"latency_seconds", link.latency_seconds},
          {"bytes_per_second", link.bytes_per_second},
          {"hidden", link.hidden},
          {"one_way_bytes_per_second", link.one_way_bytes_per_second}};
}

LinkCost link_of(const Json& json) {
  LinkCost link{json.at("latency_seconds"), json.at("bytes_per_second"), json.at("hidden"),
                json.value("one_way_bytes_per_second", 0.0)};
  if (!(link.latency_seconds >= 0.0 && link.bytes_per_second > 0.0 && link.one_way_bytes_per_second >= 0.0 &&
        link.hidden >= 0.0 && link.hidden <= 1.0)) {
    throw bad_input("a link with a latency under 0, a rate that is not over 0, or a hidden share outside 0 to 1");
  }
  return link;
}

Json json_of(const std::vector<SizeCorrection>& corrections) {
  Json json = Json::array();
  for (const SizeCorrection& at : corrections) json.push_back({at.call_seconds, at.ratio});
  return json;
}

std::vector<SizeCorrection> corrections_of(const Json& json) {
  std::vector<SizeCorrection> corrections;
  for (const Json& at : json) {
    corrections.push_back({at.at(0), at.at(1)});
    const bool ascends =
        corrections.size() < 2 || corrections.end()[-2].call_seconds <= corrections.back().call_seconds;
    if (!ascends || !(corrections.back().call_seconds > 0.0 && corrections.back().ratio > 0.0)) {
      throw bad_input("corrections that are not over 0 or not ascending");
    }
  }
  return corrections;
}

Json json_of(const KernelCost& cost) {
  return {{"mechanism", cost.mechanism},
          {"dtype", std::string(name_of(cost.dtype))},
          {"head_dim", cost.head_dim},
          {"at_once", cost.at_once},
          {"call_seconds", cost.call_seconds},
          {"row_seconds", cost.row_seconds},
          {"pair_seconds", cost.pair_seconds},
          {"pass_seconds", cost.pass_seconds},
          {"finish_row_seconds", cost.finish_row_seconds},
          {"state_row_seconds", cost.state_row_seconds},
          {"worst_fit", cost.worst_fit},
          {"corrections", json_of(cost.corrections)},
          {"exit_corrections", json_of(cost.exit_corrections)},
          {"rest_corrections", json_of(cost.rest_corrections)}};
}

KernelCost kernel_of(const Json& json) {
  KernelCost cost;
  cost.mechanism = json.at("mechanism");
  cost.dtype = parse_element_type(json.at("dtype").get<std::string>());
  cost.head_dim = json.at("head_dim");
  cost.at_once = json.at("at_once");
  for (const auto& [name, figure] : {std::pair{"call_seconds", &KernelCost::call_seconds},
                                     {"row_seconds", &KernelCost::row_seconds},
                                     {"pair_seconds", &KernelCost::pair_seconds},
                                     {"pass_seconds", &KernelCost::pass_seconds},
                                     {"finish_row_seconds", &KernelCost::finish_row_seconds},
                                     {"state_row_seconds", &KernelCost::state_row_seconds},
                                     {"worst_fit", &KernelCost::worst_fit}}) {
    cost.*figure = json.at(name);
    if (!(cost.*figure >= 0.0)) throw bad_input(std::string(name) + " of " + cost.mechanism + " is under 0");
  }
  cost.corrections = corrections_of(json.at("corrections"));
  cost.exit_corrections = corrections_of(json.at("exit_corrections"));
  cost.rest_corrections =
      corrections_of(json.value("rest_corrections", Json::array()));  // none before there were these
  return cost;
}

Json json_of(const BlockCost& cost) {
  Json json = json_of(cost.token);
  json["states"] = cost.states;
  json["taps"] = cost.taps;
  json["behind"] = cost.behind;
  json["incoming_row_seconds"] = cost.incoming_row_seconds;
  json["incoming_rows"] = cost.incoming_rows;
  json["lines_row_seconds"] = cost.lines_row_seconds;
  return json;
}

BlockCost block_of(const Json& json) {
  BlockCost cost;
  cost.token = kernel_of(json);
  cost.states = json.at("states");
  cost.taps = json.at("taps");
  for (const auto& [name, figure] : {std::pair{"behind", &BlockCost::behind},
                                     {"incoming_row_seconds", &BlockCost::incoming_row_seconds},
                                     {"incoming_rows", &BlockCost::incoming_rows},
                                     {"lines_row_seconds", &BlockCost::lines_row_seconds}}) {
    cost.*figure = json.at(name);
    if (!(cost.*figure >= 0.0)) throw bad_input(std::string(name) + " of " + cost.token.mechanism + " is under 0");
  }
  if (cost.behind > 1.0) throw bad_input("behind of " + cost.token.mechanism + " is over 1");
  return cost;
}

/// Of two costs measured with so many ranks at once: whether the first is nearer to what `at_once` ranks take. The most
/// that are no more than these; else the fewest.
bool is_nearer(int measured, int other, int at_once) {
  const bool fits = measured <= at_once, other_fits = other <= at_once;
  return (fits && !other_fits) || (fits == other_fits && (measured > other) == fits);
}

/// Solves the normal equations of the chosen columns. False where they are singular or a coefficient is under 0.
bool solve(const std::vector<std::array<double, 3>>& rows, unsigned chosen, std::array<double, 3>& solution) {
  std::array<std::array<double, 4>, 3> system{};
  for (std::size_t i = 0; i < 3; ++i) {
    system[i][i] = (chosen >> i & 1u) != 0 ? 0.0 : 1.0;
    if (system[i][i] == 1.0) continue;
    for (const auto& row : rows) {
      for (std::size_t j = 0; j < 3; ++j) system[i][j] += (chosen >> j & 1u) != 0 ? row[i] * row[j] : 0.0;
      system[i][3] += row[i];
    }
  }
  for (std::size_t i = 0; i < 3; ++i) {
    // Positive definite: the diagonal is a good enough pivot.
    if (!(system[i][i] > 1e-30)) return false;
    for (std::size_t k = 0; k < 3; ++k) {
      if (k == i) continue;
      const double factor = system[k][i] / system[i][i];
      for (std::size_t j = 0; j < 4; ++j) system[k][j] -= factor * system[i][j];
    }
  }
  for (std::size_t i = 0; i < 3; ++i) solution[i] = system[i][3] / system[i][i];
  return std::all_of(solution.begin(), solution.end(), [](double value) { return value >= 0.0; });
}

double correct(const std::vector<SizeCorrection>& by_size, double seconds, double calls) {
  if (by_size.empty() || seconds <= 0.0) return seconds;
  const double size = seconds / std::max(1.0, calls);
  const auto above = std::lower_bound(by_size.begin(), by_size.end(), size,
                                      [](const SizeCorrection& at, double wanted) { return at.call_seconds < wanted; });
  if (above == by_size.begin()) return seconds * above->ratio;
  if (above == by_size.end()) return seconds * by_size.back().ratio;
  const SizeCorrection& below = *(above - 1);
  const double share = std::log(size / below.call_seconds) / std::log(above->call_seconds / below.call_seconds);
  return seconds * (below.ratio + share * (above->ratio - below.ratio));
}

}  // namespace

double KernelCost::corrected(double seconds, double calls, bool exits_early) const {
  return correct(exits_early ? exit_corrections : corrections, seconds, calls);
}

double KernelCost::rest_seconds(double rows) const {
  return correct(rest_corrections, pass_seconds + rows * finish_row_seconds, 1.0);
}

std::string profile_name_of(const Mechanism& mechanism) {
  if (const auto* sparse = std::get_if<SparseParams>(&mechanism)) {
    return sparse->select == SparseSelect::kTopk ? "sparse-topk" : "sparse-window";
  }
  return std::string(name_of(mechanism));
}

const KernelCost& CostProfile::kernel(std::string_view mechanism, ElementType dtype, std::int64_t head_dim,
                                      int at_once) const {
  const KernelCost* best = nullptr;
  std::string known;
  for (const KernelCost& cost : kernels) {
    const std::string name =
        cost.mechanism + " " + std::string(name_of(cost.dtype)) + " " + std::to_string(cost.head_dim);
    if (known.find(name) == std::string::npos) known += (known.empty() ? "" : ", ") + name;
    if (cost.mechanism != mechanism || cost.dtype != dtype || cost.head_dim != head_dim) continue;
    if (best == nullptr || is_nearer(cost.at_once, best->at_once, at_once)) best = &cost;
  }
  if (best != nullptr) return *best;
  throw bad_input("the profile has no cost of " + std::string(mechanism) + ", " + std::string(name_of(dtype)) +
                  ", head_dim " + std::to_string(head_dim) + ": it has " + known +
                  "; ringscan bench profile measures them (--mechanisms, --dtype, --head-dim)");
}

const BlockCost& CostProfile::block(std::string_view mechanism, ElementType dtype, std::int64_t channels,
                                    std::int64_t states, std::int64_t taps, int at_once) const {
  const auto text = [](std::string_view name, ElementType type, std::int64_t of_channels, std::int64_t of_states,
                       std::int64_t of_taps) {
    const std::string size =
        of_taps > 0 ? ", " + std::to_string(of_taps) + " taps" : ", " + std::to_string(of_states) + " states";
    return std::string(name) + ", " + std::string(name_of(type)) + ", " + std::to_string(of_channels) + " channels" +
           size;
  };
  const BlockCost* best = nullptr;
  std::string known;
  for (const BlockCost& cost : blocks) {
    const KernelCost& token = cost.token;
    const std::string name = text(token.mechanism, token.dtype, token.head_dim, cost.states, cost.taps);
    if (known.find(name) == std::string::npos) known += (known.empty() ? "" : "; ") + name;
    if (token.mechanism != mechanism || token.dtype != dtype || token.head_dim != channels) continue;
    if (cost.states != states || cost.taps != taps) continue;
    if (best == nullptr || is_nearer(token.at_once, best->token.at_once, at_once)) best = &cost;
  }
  if (best != nullptr) return *best;
  throw bad_input("the profile has no cost of " + text(mechanism, dtype, channels, states, taps) + ": it has " +
                  (known.empty() ? "none of ssm, mamba or chela" : known) +
                  "; ringscan bench profile measures them (--mechanisms, --heads, --head-dim, --states, --taps)");
}

std::string to_json(const CostProfile& profile) {
  Json json{{"ringscan_profile", 1},
            {"backend", profile.backend},
            {"device", profile.device},
            {"cores", profile.cores},
            {"piece_keys", profile.piece_keys},
            {"exit_tile", profile.exit_tile},
            {"pack_bytes_per_second", profile.pack_bytes_per_second},
            {"sends_from_shard", profile.sends_from_shard},
            {"memory_bytes", profile.memory_bytes},
            {"inside", profile.inside ? json_of(*profile.inside) : Json()},
            {"between", profile.between ? json_of(*profile.between) : Json()},
            {"read_bytes_per_second", profile.read_bytes_per_second},
            {"write_bytes_per_second", profile.write_bytes_per_second},
            {"linear_heads_a_state", profile.linear_heads_a_state},
            {"linear_keeps_summaries", profile.linear_keeps_summaries},
            {"kernels", Json::array()},
            {"blocks", Json::array()}};
  for (const KernelCost& cost : profile.kernels) json["kernels"].push_back(json_of(cost));
  for (const BlockCost& cost : profile.blocks) json["blocks"].push_back(json_of(cost));
  return json.dump(1);
}

CostProfile parse_cost_profile(const std::string& text, const std::string& source) {
  try {
    const Json json = Json::parse(text);
    if (json.at("ringscan_profile") != 1) throw bad_input("version is not 1");
    CostProfile profile;
    profile.backend = json.at("backend");
    profile.device = json.at("device");
    profile.cores = json.at("cores");
    profile.piece_keys = json.at("piece_keys");
    profile.exit_tile = json.at("exit_tile");
    profile.pack_bytes_per_second = json.at("pack_bytes_per_second");
    profile.sends_from_shard = json.at("sends_from_shard");
    profile.memory_bytes = json.at("memory_bytes");
    if (!json.at("inside").is_null()) profile.inside = link_of(json.at("inside"));
    if (!json.at("between").is_null()) profile.between = link_of(json.at("between"));
    profile.read_bytes_per_second = json.at("read_bytes_per_second");
    profile.write_bytes_per_second = json.at("write_bytes_per_second");
    for (const Json& cost : json.at("kernels")) profile.kernels.push_back(kernel_of(cost));
    // Profiles from before there were these have none of them.
    profile.linear_heads_a_state = json.value("linear_heads_a_state", 1);
    profile.linear_keeps_summaries = json.value("linear_keeps_summaries", false);
    for (const Json& cost : json.value("blocks", Json::array())) profile.blocks.push_back(block_of(cost));
    if (profile.cores < 1 || profile.linear_heads_a_state < 1 || profile.piece_keys < 64 ||
        !(profile.exit_tile >= 1.0) || !(profile.pack_bytes_per_second >= 0.0)) {
      throw bad_input("cores, piece_keys, exit_tile, pack_bytes_per_second or linear_heads_a_state is out of range");
    }
    return profile;
  } catch (const Json::exception& error) {
    throw bad_input(source + ": is no profile of ringscan bench profile: " + error.what());
  } catch (const Error& error) {
    throw bad_input(source + ": is no profile of ringscan bench profile: " + error.what());
  }
}

void fit_kernel_cost(const std::vector<KernelPoint>& points, KernelCost& cost) {
  // Each equation divided by its seconds: then 1 is what is wanted, and errors are relative.
  std::vector<std::array<double, 3>> rows;
  std::array<double, 3> unit{1e-300, 1e-300, 1e-300};
  for (const KernelPoint& point : points) {
    rows.push_back({point.calls / point.seconds, point.rows / point.seconds, point.pairs / point.seconds});
    for (std::size_t i = 0; i < 3; ++i) unit[i] = std::max(unit[i], rows.back()[i]);
  }
  for (auto& row : rows) {
    for (std::size_t i = 0; i < 3; ++i) row[i] /= unit[i];
  }
  std::array<double, 3> best{};
  double least = HUGE_VAL;
  for (unsigned chosen = 1; chosen < 8; ++chosen) {
    std::array<double, 3> solution{};
    if (!solve(rows, chosen, solution)) continue;
    double squares = 0.0;
    for (const auto& row : rows) {
      const double error = row[0] * solution[0] + row[1] * solution[1] + row[2] * solution[2] - 1.0;
      squares += error * error;
    }
    if (squares < least) {
      least = squares;
      best = solution;
    }
  }
  cost.worst_fit = 0.0;
  for (const auto& row : rows) {
    cost.worst_fit = std::max(cost.worst_fit, std::abs(row[0] * best[0] + row[1] * best[1] + row[2] * best[2] - 1.0));
  }
  cost.call_seconds = best[0] / unit[0];
  cost.row_seconds = best[1] / unit[1];
  cost.pair_seconds = best[2] / unit[2];
}

}  // namespace ringscan
