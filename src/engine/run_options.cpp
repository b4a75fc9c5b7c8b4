#include "engine/run_options.hpp"

#include <algorithm>
#include <utility>

#include "engine/run_draft.hpp"

namespace ringscan {

namespace {

template <typename Value>
Value parse_choice(const Setting& setting, std::initializer_list<std::pair<std::string_view, Value>> choices,
                   std::string_view wanted) {
  for (const auto& [name, value] : choices) {
    if (setting.value == name) return value;
  }
  throw wrong_value(setting, wanted);
}

/// Parsers that know nothing of where their text was given.
template <typename Parse>
auto parse_in_place(const Setting& setting, Parse&& parse) {
  try {
    return parse(setting.value);
  } catch (const Error& error) {
    throw bad_input(setting.where + ": " + error.what());
  }
}

std::string parse_text(const Setting& setting, std::string_view wanted) {
  if (setting.value.empty()) throw wrong_value(setting, wanted);
  return setting.value;
}

void set_mechanism(Draft& draft, const Setting& setting) {
  for (const BlockChoice& choice : kBlockMechanisms) {
    if (setting.value == choice.name) draft.mechanism = choice.name;
  }
  for (const MechanismChoice& choice : kMechanisms) {
    if (setting.value == choice.name) draft.mechanism = choice.name;
  }
  if (draft.mechanism.empty()) throw wrong_value(setting, kMechanismNames);
}

/// heads.NAME
void set_heads(Draft& draft, const Setting& setting) {
  draft.heads[setting.name.substr(setting.name.find('.') + 1)] = parse_in_place(setting, parse_head_list);
}

void set_outputs(Draft& draft, const Setting& setting) {
  constexpr const char* kWanted = "a list of lse, remainder, kept_mass, state";
  for (const std::string& output : split_list(setting, kWanted)) {
    if (output == "lse") {
      draft.config.want_lse = true;
    } else if (output == "remainder") {
      draft.config.want_remainder = true;
    } else if (output == "kept_mass") {
      draft.config.want_kept_mass = true;
    } else if (output == "state") {
      draft.config.want_state = true;
    } else {
      throw wrong_value(setting, kWanted);
    }
  }
}

double parse_exponent(const Setting& setting) {
  constexpr const char* kWanted = "a number over 0, at most 1";
  const double exponent = parse_number(setting, kWanted);
  if (!(exponent > 0.0 && exponent <= 1.0)) throw wrong_value(setting, kWanted);
  return exponent;
}

double parse_positive(const Setting& setting) {
  const double number = parse_number(setting, "a number over 0");
  if (!(number > 0.0)) throw wrong_value(setting, "a number over 0");
  return number;
}

double parse_epsilon(const Setting& setting) {
  constexpr const char* kWanted = "a number from 0 (no early exit) to under 1";
  const double epsilon = parse_number(setting, kWanted);
  if (!(epsilon >= 0.0 && epsilon < 1.0)) throw wrong_value(setting, kWanted);
  return epsilon;
}

void set_head_decays(Draft& draft, const Setting& setting) {
  constexpr const char* kWanted = "a list of log decays of 0 or less, one a linear head";
  draft.config.linear_head_decay.clear();
  for (const std::string& item : split_list(setting, kWanted)) {
    const double decay = parse_number({setting.name, item, setting.where}, kWanted);
    if (!(decay <= 0.0)) throw wrong_value(setting, kWanted);
    draft.config.linear_head_decay.push_back(decay);
  }
}

using Apply = void (*)(Draft&, const Setting&);

struct RunOption {
  OptionInfo info;
  Apply apply;
};

const std::vector<RunOption>& file_options() {
  static const std::vector<RunOption> options = {
      {{"input", "FILE", "activations to read (HDF5, see docs/activation-files.md)"},
       [](Draft& d, const Setting& s) { d.config.input = parse_text(s, "a file name"); }},
      {{"output", "FILE", "where the results go; not needed with --dry-run"},
       [](Draft& d, const Setting& s) { d.config.output = parse_text(s, "a file name"); }},
      {{"layers", "GLOB", "layer groups to take (default *: all)"},
       [](Draft& d, const Setting& s) { d.config.layers = parse_text(s, "a glob on layer names"); }},
      {{"outputs", "LIST",
        "results beside o: lse (softmax, cog, sparse), remainder (stick-breaking), kept_mass (sparse), "
        "state (linear, ssm, mamba, chela: what a later run goes on from), comma-separated"},
       set_outputs},
      {{"initial-state", "FILE", "go on from the state that an earlier run of the same layers left (outputs = state)"},
       [](Draft& d, const Setting& s) { d.config.initial_state = parse_text(s, "a file name"); }},
      {{"context", "FILE,...",
        "earlier activation files, earliest first: their keys come before the input's first token (softmax, "
        "stick-breaking, cog, sparse)"},
       [](Draft& d, const Setting& s) { d.config.context = split_list(s, "a list of file names, earliest first"); }},
      {{"output-dtype", "TYPE", "float64, float32, float16 or bfloat16 (default: the input's)"},
       [](Draft& d, const Setting& s) {
         d.config.output_dtype = parse_in_place(s, [](const std::string& name) { return parse_element_type(name); });
       }},
      {{"overwrite", "on|off", "replace an output that exists", true},
       [](Draft& d, const Setting& s) { d.config.overwrite = parse_switch(s); }},
      {{"resume", "on|off",
        "go on from what a run of the same configuration has left that was stopped (SIGUSR1, SIGTERM) or killed; from "
        "the "
        "beginning where there is nothing",
        true},
       [](Draft& d, const Setting& s) { d.config.resume = parse_switch(s); }},
      {{"allow-nonfinite", "on|off", "take an input that holds NaN or infinity", true},
       [](Draft& d, const Setting& s) { d.config.allow_nonfinite = parse_switch(s); }},
      {{"report", "FILE", "write a JSON report: plan, seconds by phase, TFLOP/s, bytes, memory"},
       [](Draft& d, const Setting& s) { d.config.report = parse_text(s, "a file name"); }},
      {{"trace", "FILE",
        "write a timeline of all ranks, for Perfetto: computing, transfers, waiting, reading, writing"},
       [](Draft& d, const Setting& s) { d.config.trace = parse_text(s, "a file name"); }},
  };
  return options;
}

const std::vector<RunOption>& mechanism_options() {
  static const std::vector<RunOption> options = {
      {{"mechanism", "NAME",
        "the mechanism of all heads: softmax, stick-breaking, cog, sparse, linear, ssm, mamba or chela"},
       set_mechanism},
      {{"heads.softmax", "HEADS", "a hybrid: the heads that have softmax, such as 0-3,8"}, set_heads},
      {{"heads.stick-breaking", "HEADS", "a hybrid: the heads that have stick-breaking"}, set_heads},
      {{"heads.cog", "HEADS", "a hybrid: the heads that have cog"}, set_heads},
      {{"heads.sparse", "HEADS", "a hybrid: the heads that have n^C-sparse attention"}, set_heads},
      {{"heads.linear", "HEADS", "a hybrid: the heads that have linear attention with decay"}, set_heads},
      {{"causal", "on|off", "keys up to the query alone (default on; off: softmax and cog only)", true},
       [](Draft& d, const Setting& s) { d.softmax.causal = d.cog.causal = parse_switch(s); }},
      {{"softmax.window", "TOKENS", "only keys under this far from the query (default 0: all)"},
       [](Draft& d, const Setting& s) {
         d.softmax.window = parse_whole_number(s, 0, Band::kUnbounded, "a number of tokens, 0 (all) or more");
       }},
      {{"stick-breaking.epsilon", "NUMBER",
        "a row is done once less than this of its stick is left (default 2^-24; 0: never)"},
       [](Draft& d, const Setting& s) { d.stick.epsilon = parse_epsilon(s); }},
      {{"stick-breaking.attend-current", "on|off", "a query sees its own key too (default off)", true},
       [](Draft& d, const Setting& s) { d.stick.attend_current = parse_switch(s); }},
      {{"stick-breaking.remainder", "POLICY",
        "what becomes of the stick that is left: drop (default), value (times the token's own v) or vector (times "
        "remainder_value of the file)"},
       [](Draft& d, const Setting& s) {
         d.stick.remainder = parse_choice<RemainderPolicy>(s,
                                                           {{"drop", RemainderPolicy::kDrop},
                                                            {"value", RemainderPolicy::kValue},
                                                            {"vector", RemainderPolicy::kVector}},
                                                           "drop, value or vector");
       }},
      {{"scale", "NUMBER", "factor on <q, k>, of CHELA's linear attention too (default 1/sqrt(head_dim))"},
       [](Draft& d, const Setting& s) { d.config.scale = parse_number(s, "a finite number"); }},
  };
  return options;
}

const std::vector<RunOption>& linear_options() {
  static const std::vector<RunOption> options = {
      {{"linear.decay", "NAME",
        "how a state decays: none (default), head (linear.head-decay) or token (log_decay of the file)"},
       [](Draft& d, const Setting& s) {
         d.linear.decay = parse_choice<Decay>(
             s, {{"none", Decay::kNone}, {"head", Decay::kHead}, {"token", Decay::kToken}}, "none, head or token");
       }},
      {{"linear.head-decay", "LIST", "constant log decays, 0 or less, one a linear head in order"}, set_head_decays},
      {{"linear.feature-map", "NAME", "on q and k: identity (default) or elu1 (elu(x) + 1)"},
       [](Draft& d, const Setting& s) {
         d.linear.feature_map = parse_choice<FeatureMap>(
             s, {{"identity", FeatureMap::kIdentity}, {"elu1", FeatureMap::kElu1}}, "identity or elu1");
       }},
      {{"linear.normalizer", "NAME", "what an output is divided by: none (default) or z (<q, sum of k>)"},
       [](Draft& d, const Setting& s) {
         d.linear.normalizer =
             parse_choice<Normalizer>(s, {{"none", Normalizer::kNone}, {"z", Normalizer::kZ}}, "none or z");
       }},
      {{"linear.scale", "NUMBER", "factor on q of linear heads (default: as scale)"},
       [](Draft& d, const Setting& s) { d.config.linear_scale = parse_number(s, "a finite number"); }},
  };
  return options;
}

const std::vector<RunOption>& sparse_options() {
  static const std::vector<RunOption> options = {
      {{"sparse.select", "NAME", "which keys a row keeps: topk (default: the largest scores) or window (the nearest)"},
       [](Draft& d, const Setting& s) {
         d.sparse.select = parse_choice<SparseSelect>(
             s, {{"topk", SparseSelect::kTopk}, {"window", SparseSelect::kWindow}}, "topk or window");
       }},
      {{"sparse.alpha", "NUMBER", "a row that sees n keys keeps alpha n^exponent of them (default 1)"},
       [](Draft& d, const Setting& s) { d.sparse.alpha = parse_positive(s); }},
      {{"sparse.exponent", "NUMBER", "over 0, at most 1 (default 0.7)"},
       [](Draft& d, const Setting& s) { d.sparse.exponent = parse_exponent(s); }},
      {{"sparse.min", "KEYS", "the fewest keys a row keeps, where it sees as many (default 1)"},
       [](Draft& d, const Setting& s) {
         d.sparse.min_keys = parse_whole_number(s, 1, Band::kUnbounded, "a number of keys, 1 or more");
       }},
      {{"sparse.count", "NAME", "what n counts: visible (default: the keys a row sees) or total (the sequence's)"},
       [](Draft& d, const Setting& s) {
         d.sparse.count = parse_choice<SparseCount>(
             s, {{"visible", SparseCount::kVisible}, {"total", SparseCount::kTotal}}, "visible or total");
       }},
  };
  return options;
}

const std::vector<RunOption>& block_options() {
  static const std::vector<RunOption> options = {
      {{"heads.ssm", "HEADS",
        "a hybrid: the heads whose slots of o a selective scan fills (ssm/u and others of the file)"},
       set_heads},
      {{"heads.mamba", "HEADS", "a hybrid: the heads whose slots of o a Mamba block fills (mamba/x and others)"},
       set_heads},
      {{"heads.chela", "HEADS", "a hybrid: the heads whose slots of o a CHELA block fills (chela/x and others)"},
       set_heads},
      {{"chela.heads", "NUMBER",
        "heads of CHELA's linear attention (default: one for every 64 channels where that divides, else one)"},
       [](Draft& d, const Setting& s) {
         d.chela.heads = parse_whole_number(s, 1, 65536, "a number of heads, 1 to 65536");
       }},
  };
  return options;
}

const std::vector<RunOption>& execution_options() {
  static const std::vector<RunOption> options = {
      {{"backend", "NAME", "auto (default: cuda where a device is there), cpu or cuda"},
       [](Draft& d, const Setting& s) {
         constexpr const char* kWanted = "auto, cpu or cuda";
         d.config.backend = parse_choice<const char*>(s, {{"auto", "auto"}, {"cpu", "cpu"}, {"cuda", "cuda"}}, kWanted);
       }},
      {{"layout", "NAME", "which tokens a rank holds: auto (default), contiguous or zigzag"},
       [](Draft& d, const Setting& s) {
         d.config.layout = parse_choice<std::optional<LayoutKind>>(
             s, {{"auto", std::nullopt}, {"contiguous", LayoutKind::kContiguous}, {"zigzag", LayoutKind::kZigzag}},
             "auto, contiguous or zigzag");
       }},
      {{"reproducible", "on|off", "the same bits for every number of ranks", true},
       [](Draft& d, const Setting& s) { d.config.reproducible = parse_switch(s); }},
      {{"memory", "SIZE", "the most a rank may use, such as 16G (default: what it has)"},
       [](Draft& d, const Setting& s) { d.config.memory_bytes = parse_in_place(s, parse_memory_size); }},
      {{"hop-limit", "SECONDS",
        "between GPUs: a transfer that takes longer, from the moment its rank is ready, ends the job (default 1800)"},
       [](Draft& d, const Setting& s) { d.config.hop_limit_seconds = parse_positive(s); }},
      {{"kv-heads-at-once", "N",
        "the most KV heads that go round together; a stop waits until they are through (default: all that fit)"},
       [](Draft& d, const Setting& s) {
         d.config.kv_heads_at_once =
             static_cast<int>(parse_whole_number(s, 1, 65535, "a number of KV heads, 1 or more"));
       }},
      {{"progress", "MODE", "auto (default: a bar on a terminal, lines in a log), on (a bar) or off"},
       [](Draft& d, const Setting& s) {
         d.config.progress = parse_choice<ProgressMode>(
             s, {{"auto", ProgressMode::kAuto}, {"on", ProgressMode::kOn}, {"off", ProgressMode::kOff}},
             "auto, on or off");
       }},
      {{"dry-run", "on|off", "print the plan (layout, steps, bytes, memory a rank) and compute nothing", true},
       [](Draft& d, const Setting& s) { d.config.dry_run = parse_switch(s); }},
  };
  return options;
}

const std::vector<RunOption>& all_options() {
  static const std::vector<RunOption> options = [] {
    std::vector<RunOption> all = file_options();
    all.insert(all.end(), mechanism_options().begin(), mechanism_options().end());
    all.insert(all.end(), sparse_options().begin(), sparse_options().end());
    all.insert(all.end(), linear_options().begin(), linear_options().end());
    all.insert(all.end(), block_options().begin(), block_options().end());
    all.insert(all.end(), execution_options().begin(), execution_options().end());
    return all;
  }();
  return options;
}

}  // namespace

std::span<const OptionInfo> run_option_infos() {
  static const std::vector<OptionInfo> infos = [] {
    std::vector<OptionInfo> all;
    for (const RunOption& option : all_options()) all.push_back(option.info);
    return all;
  }();
  return infos;
}

RunConfig make_run_config(const std::vector<Setting>& settings) {
  Draft draft;
  Given given;
  for (const Setting& setting : settings) {
    const auto option = std::find_if(all_options().begin(), all_options().end(),
                                     [&](const RunOption& known) { return known.info.name == setting.name; });
    if (option == all_options().end()) throw unknown_setting(setting, run_option_infos());
    option->apply(draft, setting);
    given[setting.name] = &setting;
  }
  complete(draft, given);
  return draft.config;
}

}  // namespace ringscan
