#include "apps/plan_options.hpp"

#include <algorithm>
#include <cstdlib>

#include "engine/run_options.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kAnyCount = std::int64_t{1} << 40;
constexpr int kMostRanks = 16384;

/// Of run's options those that need no files and say how a job goes.
bool is_of_run(const std::string& name) {
  static const std::vector<std::string> others{"input",     "output",  "layers",         "initial-state", "context",
                                               "overwrite", "resume",  "report",         "trace",         "progress",
                                               "dry-run",   "backend", "allow-nonfinite"};
  return std::find(others.begin(), others.end(), name) == others.end();
}

/// "64K" -> 65536, "1M" -> 1048576.
std::int64_t parse_tokens(const Setting& setting, const std::string& item) {
  constexpr const char* kWanted = "a list of numbers of tokens, such as 65536, 64K or 1M (1,048,576)";
  std::string digits = item;
  std::int64_t unit = 1;
  if (digits.ends_with('K')) unit = 1024;
  if (digits.ends_with('M')) unit = 1024 * 1024;
  if (unit > 1) digits.pop_back();
  return unit * parse_whole_number({setting.name, digits, setting.where}, 1, kAnyCount / unit, kWanted);
}

std::vector<double> parse_numbers(const Setting& setting, std::size_t least, std::size_t most, const char* wanted) {
  std::vector<double> numbers;
  for (const std::string& item : split_list(setting, wanted)) {
    numbers.push_back(parse_number({setting.name, item, setting.where}, wanted));
    if (!(numbers.back() >= 0.0)) throw wrong_value(setting, wanted);
  }
  if (numbers.size() < least || numbers.size() > most) throw wrong_value(setting, wanted);
  return numbers;
}

LinkCost parse_link(const Setting& setting) {
  constexpr const char* kWanted = "MICROSECONDS,GB_A_SECOND or these and the share that computing hides, 0 to 1";
  const std::vector<double> numbers = parse_numbers(setting, 2, 3, kWanted);
  const LinkCost link{numbers[0] * 1e-6, numbers[1] * 1e9, numbers.size() == 3 ? numbers[2] : 1.0};
  if (!(link.bytes_per_second > 0.0) || link.hidden > 1.0) throw wrong_value(setting, kWanted);
  return link;
}

void apply_cluster(PlanOptions& options, const Setting& setting) {
  const auto count = [&](std::int64_t most) {
    return static_cast<int>(parse_whole_number(setting, 1, most, "a whole number from 1 to " + std::to_string(most)));
  };
  if (setting.name == "profile") {
    options.profile = setting.value;
  } else if (setting.name == "world") {
    constexpr const char* kWanted = "a list of numbers of ranks from 1 to 16384";
    for (const std::string& item : split_list(setting, kWanted)) {
      options.worlds.push_back(
          static_cast<int>(parse_whole_number({setting.name, item, setting.where}, 1, kMostRanks, kWanted)));
    }
    std::sort(options.worlds.begin(), options.worlds.end());
    options.worlds.erase(std::unique(options.worlds.begin(), options.worlds.end()), options.worlds.end());
  } else if (setting.name == "ranks-per-node") {
    options.ranks_per_node = count(kMostRanks);
  } else if (setting.name == "cores") {
    options.cores = count(kMostRanks);
  } else if (setting.name == "nics") {
    options.nics = count(kMostRanks);
  } else if (setting.name == "link.inside") {
    options.inside = parse_link(setting);
  } else if (setting.name == "link.between") {
    options.between = parse_link(setting);
  } else if (setting.name == "reach") {
    constexpr const char* kWanted = "MEDIAN,PERCENTILE_99 in tokens, the first over 0 and under the second";
    const std::vector<double> numbers = parse_numbers(setting, 2, 2, kWanted);
    if (!(numbers[0] > 0.0 && numbers[1] > numbers[0])) throw wrong_value(setting, kWanted);
    options.reach = StickReachQuantiles{numbers[0], numbers[1]};
  } else if (setting.name == "files") {
    const std::vector<double> numbers =
        parse_numbers(setting, 2, 2, "READ,WRITTEN in GB a second of all ranks together; 0: left out");
    options.files = std::pair{numbers[0] * 1e9, numbers[1] * 1e9};
  } else if (setting.name == "sweep") {
    options.sweep = parse_switch(setting);
  } else if (setting.name == "json") {
    options.json = setting.value;
  } else if (setting.name == "plot") {
    options.plot = setting.value;
  }
}

void apply_layer(PlanOptions& options, const Setting& setting) {
  LayerShape& layer = options.layer;
  const auto count = [&](std::int64_t most) {
    return parse_whole_number(setting, 1, most, "a whole number from 1 to " + std::to_string(most));
  };
  if (setting.name == "seq-len") {
    for (const std::string& item : split_list(setting, "a list of numbers of tokens")) {
      options.seq_lens.push_back(parse_tokens(setting, item));
    }
    std::sort(options.seq_lens.begin(), options.seq_lens.end());
  } else if (setting.name == "heads") {
    layer.num_heads = static_cast<int>(count(65536));
  } else if (setting.name == "kv-heads") {
    layer.num_kv_heads = static_cast<int>(count(65536));
  } else if (setting.name == "head-dim") {
    layer.head_dim = layer.v_dim = count(256);
  } else if (setting.name == "states") {
    options.sizes.states = count(1024);
  } else if (setting.name == "taps") {
    options.sizes.taps = parse_whole_number(setting, 1, kAnyCount, "a number of taps, 1 or more");
  } else if (setting.name == "batch") {
    layer.batch = count(kAnyCount);
  } else if (setting.name == "dtype") {
    try {
      layer.q_type = layer.kv_type = layer.o_type = parse_element_type(setting.value);
    } catch (const Error& error) {
      throw bad_input(setting.where + ": " + error.what());
    }
    if (layer.kv_type == ElementType::kFloat64) throw wrong_value(setting, "float32, float16 or bfloat16");
  }
}

const std::vector<OptionInfo>& own_options() {
  static const std::vector<OptionInfo> options = {
      {"profile", "FILE",
       "what this machine costs, as bench profile measured it (needed); may stand without --profile"},
      {"world", "LIST", "numbers of ranks, to 16384 (needed, but for --sweep: 1 to 16384)"},
      {"ranks-per-node", "N", "ranks that share a node (default: the profile's processors or GPUs)"},
      {"cores", "N", "processors or GPUs of a node; more ranks share them (default: the profile's; cuda: one a rank)"},
      {"nics", "N", "NICs of a node: as many flows leave it without sharing (default 1)"},
      {"link.inside", "US,GB/S[,HIDDEN]",
       "between ranks of a node: latency, rate, share of a transfer that computing hides"},
      {"link.between", "US,GB/S[,HIDDEN]",
       "between nodes, through one NIC (needed for several nodes where the profile has none)"},
      {"files", "READ,WRITTEN", "GB a second of all ranks together; 0,0 leaves files out (default: the profile's)"},
      {"seq-len", "LIST", "tokens, such as 65536, 64K or 1M (needed)"},
      {"heads", "N", "query heads (default 8)"},
      {"kv-heads", "N", "KV heads; divides --heads (default: as many)"},
      {"head-dim", "N", "elements of a head (default 64)"},
      {"states", "N", "ssm, mamba: of a channel (default 16); these and chela have heads x head-dim channels"},
      {"taps", "N", "chela: of the long kernel, at most the sequence (default 4096)"},
      {"batch", "N", "sequences (default 1)"},
      {"dtype", "TYPE", "float32 (default), float16 or bfloat16"},
      {"reach", "MEDIAN,P99",
       "stick-breaking: tokens until a stick is under epsilon, as analyze finds them (default: never)"},
      {"sweep", "on|off",
       "over many numbers of ranks: curves, the largest context that fits, where efficiency falls under 80 %", true},
      {"json", "FILE", "write all of it as one JSON object"},
      {"plot", "FILE", "draw time, efficiency and shares of the time over the ranks as a PNG (needs gnuplot)"},
  };
  return options;
}

}  // namespace

const std::vector<OptionInfo>& plan_options() {
  static const std::vector<OptionInfo> options = [] {
    std::vector<OptionInfo> all = own_options();
    for (const OptionInfo& info : run_option_infos()) {
      if (is_of_run(info.name)) all.push_back(info);
    }
    return all;
  }();
  return options;
}

PlanOptions parse_plan(const std::vector<Setting>& settings) {
  PlanOptions options;
  options.layer.batch = 1;
  options.layer.num_heads = 8;
  options.layer.head_dim = options.layer.v_dim = 64;
  std::vector<Setting> of_run;
  for (const Setting& setting : settings) {
    const auto& own = own_options();
    if (std::any_of(own.begin(), own.end(), [&](const OptionInfo& info) { return info.name == setting.name; })) {
      apply_cluster(options, setting);
      apply_layer(options, setting);
    } else {
      of_run.push_back(setting);
    }
  }
  if (options.profile.empty()) {
    throw bad_input("no profile: want ringscan plan FILE.json; ringscan bench profile measures one");
  }
  if (options.worlds.empty() && !options.sweep) throw bad_input("no number of ranks: want --world LIST, or --sweep");
  const bool is_given = !options.worlds.empty();
  for (int world = 1; !is_given && world <= kMostRanks; world *= 2) options.worlds.push_back(world);
  if (options.seq_lens.empty()) throw bad_input("no sequence length: want --seq-len LIST");
  LayerShape& layer = options.layer;
  if (layer.num_kv_heads == 0) layer.num_kv_heads = layer.num_heads;
  if (layer.num_heads % layer.num_kv_heads != 0) {
    throw bad_input("--kv-heads: found " + std::to_string(layer.num_kv_heads) + ", want a divisor of the " +
                    std::to_string(layer.num_heads) + " heads");
  }
  // run wants files; here none is opened.
  of_run.push_back({"input", "plan.in", "plan"});
  of_run.push_back({"output", "plan.out", "plan"});
  options.config = make_run_config(of_run);
  return options;
}

}  // namespace ringscan
