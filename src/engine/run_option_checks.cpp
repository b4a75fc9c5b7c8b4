// Which combinations of options are possible.

#include <algorithm>
#include <filesystem>

#include "engine/run_draft.hpp"

namespace ringscan {
namespace {

/// Each head is given once.
void check_heads(const Draft& draft, const Given& given) {
  std::map<int, std::string_view> owners;
  for (const MechanismChoice& choice : kMechanisms) {
    const auto found = draft.heads.find(choice.name);
    if (found == draft.heads.end()) continue;
    for (const int head : found->second) {
      const auto [owner, is_new] = owners.emplace(head, choice.name);
      if (is_new) continue;
      throw bad_input(given.at("heads." + std::string(choice.name))->where + ": head " + std::to_string(head) +
                      " is in heads." + std::string(owner->second) + " too, want one mechanism a head");
    }
  }
}

void assign_blocks(Draft& draft, const Given& given) {
  for (const BlockChoice& choice : kBlockMechanisms) {
    const std::string name(choice.name);
    const auto heads = draft.heads.find(name);
    if (draft.mechanism == name) draft.config.blocks.push_back({choice.of(draft), {}});
    if (heads == draft.heads.end()) continue;
    for (const auto& [other, others] : draft.heads) {
      for (const int head : heads->second) {
        if (other == name || std::find(others.begin(), others.end(), head) == others.end()) continue;
        throw bad_input(given.at("heads." + name)->where + ": head " + std::to_string(head) + " is in heads." + other +
                        " too, want one mechanism a head");
      }
    }
    draft.config.blocks.push_back({choice.of(draft), heads->second});
  }
}

void assign_heads(Draft& draft, const Given& given) {
  auto& assignments = draft.config.assignments;
  if (draft.heads.empty() && draft.mechanism.empty()) {
    throw bad_input("no mechanism: want --mechanism " + std::string(kMechanismNames) +
                    ", or --heads.MECHANISM for a hybrid");
  }
  if (!draft.heads.empty() && !draft.mechanism.empty()) {
    throw bad_input(given.at("heads." + draft.heads.begin()->first)->where + ": cannot be given with mechanism = " +
                    draft.mechanism + ", which has all heads: want one of the two");
  }
  check_heads(draft, given);
  assign_blocks(draft, given);
  for (const MechanismChoice& choice : kMechanisms) {
    if (choice.name == draft.mechanism) assignments.push_back({choice.of(draft), {}});
    const auto heads = draft.heads.find(choice.name);
    if (heads != draft.heads.end()) assignments.push_back({choice.of(draft), heads->second});
  }
}

/// An option that no head would heed is a mistake, not a preference.
void check_mechanism_options(const Draft& draft, const Given& given) {
  const auto& assignments = draft.config.assignments;
  const auto has = [&](std::string_view mechanism) {
    return std::any_of(assignments.begin(), assignments.end(),
                       [&](const HeadAssignment& assignment) { return name_of(assignment.mechanism) == mechanism; });
  };
  const auto& blocks = draft.config.blocks;
  const auto has_block = [&](std::string_view mechanism) {
    return std::any_of(blocks.begin(), blocks.end(),
                       [&](const BlockAssignment& block) { return name_of(block.mechanism) == mechanism; });
  };
  for (const auto& [name, setting] : given) {
    const std::string mechanism = name.substr(0, name.find('.'));
    if (mechanism == name || mechanism == "heads" || has(mechanism) || has_block(mechanism)) continue;
    throw bad_input(setting->where + ": no head has " + mechanism + ", want it left out or a head with " + mechanism);
  }
  for (const HeadAssignment& assignment : assignments) {
    const auto& mechanism = assignment.mechanism;
    const bool knows_causal =
        std::holds_alternative<SoftmaxParams>(mechanism) || std::holds_alternative<CogParams>(mechanism);
    if (draft.softmax.causal || knows_causal) continue;
    throw bad_input(given.at("causal")->where + ": " + std::string(name_of(mechanism)) +
                    " is causal, want causal = off with softmax and cog alone");
  }
  const bool has_any_lse =
      std::any_of(assignments.begin(), assignments.end(), [](const HeadAssignment& a) { return has_lse(a.mechanism); });
  if (draft.config.want_lse && !has_any_lse) {
    throw bad_input(given.at("outputs")->where +
                    ": found lse, and no head has a mechanism with it (softmax, cog, sparse)");
  }
  if (draft.config.want_kept_mass && !has("sparse")) {
    throw bad_input(given.at("outputs")->where + ": found kept_mass, which sparse alone has, and no head has sparse");
  }
  if (draft.config.want_remainder && !has("stick-breaking")) {
    throw bad_input(given.at("outputs")->where +
                    ": found remainder, which stick-breaking alone has, and no head has stick-breaking");
  }
}

/// What linear heads need to have together.
void check_linear(const Draft& draft, const Given& given) {
  const auto& assignments = draft.config.assignments;
  const auto is_state = [](const HeadAssignment& assignment) { return carries_state(assignment.mechanism); };
  const bool has_linear = std::any_of(assignments.begin(), assignments.end(), is_state);
  const bool has_state = has_linear || !draft.config.blocks.empty();
  if (draft.config.want_state && !has_state) {
    throw bad_input(given.at("outputs")->where +
                    ": found state, and no head has linear, ssm, mamba or chela, which have one");
  }
  if (!draft.config.initial_state.empty() && !has_state) {
    throw bad_input(given.at("initial-state")->where +
                    ": no head has a state, want it left out or a head with linear, ssm, mamba or chela");
  }
  if (draft.config.layout == LayoutKind::kZigzag && std::all_of(assignments.begin(), assignments.end(), is_state)) {
    throw bad_input(given.at("layout")->where + ": found zigzag, want contiguous or auto where a state is carried");
  }
  if (!has_linear) return;
  const bool by_head = draft.linear.decay == Decay::kHead;
  if (by_head && draft.config.linear_head_decay.empty()) {
    throw bad_input(given.at("linear.decay")->where + ": found head, want linear.head-decay with it");
  }
  if (!by_head && !draft.config.linear_head_decay.empty()) {
    throw bad_input(given.at("linear.head-decay")->where + ": want it with linear.decay = head alone");
  }
}

/// What lies before the input's first token has to reach every head, as keys or as a state.
void check_context(const Draft& draft, const Given& given) {
  if (draft.config.context.empty()) return;
  const std::string& where = given.at("context")->where;
  const auto& assignments = draft.config.assignments;
  const auto is_state = [](const HeadAssignment& assignment) { return carries_state(assignment.mechanism); };
  if (std::all_of(assignments.begin(), assignments.end(), is_state)) {
    throw bad_input(where + ": no head has softmax, stick-breaking, cog or sparse, whose keys it would give");
  }
  if (!draft.softmax.causal) {
    throw bad_input(where + ": found with causal = off, want it where a token sees what comes before it alone");
  }
  const bool has_state = !draft.config.blocks.empty() || std::any_of(assignments.begin(), assignments.end(), is_state);
  if (has_state && draft.config.initial_state.empty()) {
    throw bad_input(where + ": some heads go on from a state, not from keys, want --initial-state with it");
  }
}

void check_files(const RunConfig& config) {
  if (config.input.empty()) throw bad_input("no input: want --input FILE");
  if (config.output.empty() && !config.dry_run) throw bad_input("no output: want --output FILE (or --dry-run)");
  const auto plain = [](const std::string& name) { return std::filesystem::path(name).lexically_normal(); };
  if (plain(config.output) == plain(config.input)) {
    throw bad_input("output: found " + config.output + ", which is the input too, want another file");
  }
  if (!config.initial_state.empty() && plain(config.initial_state) == plain(config.output)) {
    throw bad_input("output: found " + config.output + ", which is the initial state too, want another file");
  }
  for (const std::string& file : config.context) {
    if (plain(file) == plain(config.output)) {
      throw bad_input("output: found " + config.output + ", which is a context too, want another file");
    }
  }
  std::vector<std::pair<std::string, std::string>> taken{{config.input, "the input or output"},
                                                         {config.output, "the input or output"}};
  for (const std::string& file : config.context) taken.emplace_back(file, "a context");
  for (const auto& [name, file] : {std::pair("report", config.report), std::pair("trace", config.trace)}) {
    if (file.empty()) continue;
    for (const auto& [other, what] : taken) {
      if (plain(file) != plain(other)) continue;
      throw bad_input(std::string(name) + ": found " + file + ", which is " + what + " too, want another file");
    }
    taken.emplace_back(file, "the report");
  }
}

}  // namespace

void complete(Draft& draft, const Given& given) {
  assign_heads(draft, given);
  check_mechanism_options(draft, given);
  check_linear(draft, given);
  check_context(draft, given);
  check_files(draft.config);
  if (draft.config.reproducible && draft.config.backend == "cuda") {
    throw bad_input(given.at("backend")->where +
                    ": found cuda with reproducible, whose tiles begin where a rank's keys do, want auto or cpu");
  }
  if (draft.config.reproducible && draft.config.layout == LayoutKind::kZigzag) {
    throw bad_input(given.at("layout")->where + ": found zigzag with reproducible, want layout auto or contiguous");
  }
}

}  // namespace ringscan
