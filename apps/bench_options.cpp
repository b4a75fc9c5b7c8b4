#include "apps/bench_options.hpp"

#include <algorithm>

namespace ringscan {
namespace {

constexpr std::int64_t kAnyCount = std::int64_t{1} << 40;
constexpr int kFewestStudyRepeats = 5;

std::vector<std::int64_t> parse_count_list(const Setting& setting, std::int64_t most, std::string_view wanted) {
  std::vector<std::int64_t> counts;
  for (const std::string& item : split_list(setting, wanted)) {
    counts.push_back(parse_whole_number({setting.name, item, setting.where}, 1, most, wanted));
  }
  return counts;
}

std::vector<int> parse_worlds(const Setting& setting) {
  const auto counts = parse_count_list(setting, 65536, "a list of numbers of ranks");
  std::vector<int> worlds(counts.begin(), counts.end());
  std::sort(worlds.begin(), worlds.end());
  worlds.erase(std::unique(worlds.begin(), worlds.end()), worlds.end());
  return worlds;
}

void parse_mechanisms(BenchOptions& options, const Setting& setting) {
  std::vector<std::string> known = BenchOptions().mechanisms;
  if (options.what == "profile") known.insert(known.end(), {"mamba", "chela"});
  if (options.what == "strong" || options.what == "weak") {
    known = {"softmax", "stick-breaking", "stick-dense", "cog",   "sparse-window", "sparse-topk", "linear",
             "ssm",     "mamba",          "chela",       "hybrid"};
  }
  std::string wanted = "a list of " + known.front();
  for (std::size_t i = 1; i < known.size(); ++i) wanted += ", " + known[i];
  options.mechanisms = split_list(setting, wanted);
  for (const std::string& name : options.mechanisms) {
    if (std::find(known.begin(), known.end(), name) == known.end()) throw wrong_value(setting, wanted);
  }
}

void parse_layouts(BenchOptions& options, const Setting& setting) {
  constexpr const char* kWanted = "a list of auto, contiguous and zigzag";
  options.layouts.clear();
  for (const std::string& name : split_list(setting, kWanted)) {
    if (name != "auto" && name != "contiguous" && name != "zigzag") throw wrong_value(setting, kWanted);
    std::optional<LayoutKind> layout;
    if (name != "auto") layout = name == "zigzag" ? LayoutKind::kZigzag : LayoutKind::kContiguous;
    options.layouts.push_back(layout);
  }
}

void parse_dtypes(BenchOptions& options, const Setting& setting) {
  constexpr const char* kWanted = "a list of float32, float16 and bfloat16";
  options.dtypes.clear();
  for (const std::string& name : split_list(setting, kWanted)) {
    try {
      options.dtypes.push_back(parse_element_type(name));
    } catch (const Error& error) {
      throw bad_input(setting.where + ": " + error.what());
    }
    if (options.dtypes.back() == ElementType::kFloat64) throw wrong_value(setting, kWanted);
  }
  options.dtype = options.dtypes.front();
}

void apply(BenchOptions& options, const Setting& setting) {
  const auto count = [&](std::int64_t most) {
    return static_cast<int>(parse_whole_number(setting, 1, most, "a whole number from 1 to " + std::to_string(most)));
  };
  if (setting.name == "seq-len") {
    options.seq_lens = parse_count_list(setting, kAnyCount, "a list of numbers of tokens");
  } else if (setting.name == "head-dim") {
    options.head_dims = parse_count_list(setting, 256, "a list of numbers from 1 to 256");
  } else if (setting.name == "mechanisms") {
    parse_mechanisms(options, setting);
  } else if (setting.name == "repeats") {
    options.repeats = count(1000);
    if (options.what != "kernels" && options.repeats < kFewestStudyRepeats) {
      throw wrong_value(setting, "a number from 5 to 1000");
    }
  } else if (setting.name == "world") {
    options.worlds = parse_worlds(setting);
  } else if (setting.name == "heads") {
    options.heads = count(65536);
  } else if (setting.name == "kv-heads") {
    options.kv_heads = count(65536);
  } else if (setting.name == "states") {
    options.sizes.states = count(1024);
  } else if (setting.name == "taps") {
    options.sizes.taps = parse_whole_number(setting, 1, kAnyCount, "a number of taps, 1 or more");
  } else if (setting.name == "dtype") {
    parse_dtypes(options, setting);
  } else if (setting.name == "layout") {
    parse_layouts(options, setting);
  } else if (setting.name == "backend") {
    if (setting.value != "cpu" && setting.value != "cuda" && setting.value != "auto") {
      throw wrong_value(setting, "auto, cpu or cuda");
    }
    options.backend = setting.value;
  } else if (setting.name == "file") {
    options.file = setting.value;
  } else if (setting.name == "profile") {
    options.profile = setting.value;
  } else if (setting.name == "json") {
    options.json = setting.value;
  } else if (setting.name == "plot") {
    if (options.what != "strong" && options.what != "weak") {
      throw bad_input(setting.where + ": bench " + options.what + " draws nothing, want strong or weak");
    }
    options.plot = setting.value;
  }
}

}  // namespace

const std::vector<OptionInfo>& bench_options() {
  static const std::vector<OptionInfo> options = {
      {"what", "NAME",
       "kernels: rates of one thread; comm: links between ranks; strong: one job on more and more ranks; weak: with as "
       "many tokens a rank; io: files, written and read by all ranks; profile: what plan has to know of this machine; "
       "may stand without --what"},
      {"seq-len", "LIST", "tokens of the job; weak: tokens a rank (default 32768; profile: 1024,4096,16384)"},
      {"head-dim", "LIST", "kernels: default 64,128; profile: default 64; strong, weak, io: one number, default 64"},
      {"mechanisms", "LIST",
       "kernels: default all; profile: of softmax, stick-breaking, cog, sparse-window, sparse-topk, linear, ssm, "
       "mamba, "
       "chela (default softmax,stick-breaking,linear); strong, weak: also stick-dense (no early exit), hybrid (heads "
       "in turn "
       "softmax, stick-breaking, linear), ssm, mamba and chela (heads x head-dim channels), default "
       "softmax,stick-breaking,stick-dense,linear"},
      {"repeats", "N", "timed runs behind a warm-up; the median counts (default 5; others than kernels: no fewer)"},
      {"world", "LIST",
       "comm, strong, weak, io: numbers of ranks, each at most the job's (default: powers of two, and all)"},
      {"heads", "N", "strong, weak, profile, io: query heads (default 3)"},
      {"kv-heads", "N", "strong, weak, profile: KV heads; divides --heads (default: as many)"},
      {"states", "N", "strong, weak, profile: of ssm and mamba, a channel (default 16)"},
      {"taps", "N", "strong, weak, profile: of chela's long kernel, at most the sequence (default 4096)"},
      {"dtype", "LIST", "strong, weak: of float32 (default), float16 and bfloat16; profile, io: one of them"},
      {"layout", "LIST", "strong, weak: of auto (default), contiguous and zigzag"},
      {"backend", "NAME", "strong, weak, profile: cpu (default), cuda (one GPU a rank) or auto"},
      {"plot", "FILE", "strong, weak: draw efficiency, overlap and time by phase as a PNG (needs gnuplot)"},
      {"file", "FILE", "io: an HDF5 file to write, read and remove (needed); profile: likewise, to measure files too"},
      {"profile", "FILE", "profile: the JSON file to write, for plan (needed)"},
      {"json", "FILE", "write JSON lines; comm, strong, weak: as Extra-P reads them"},
  };
  return options;
}

BenchOptions parse_bench(const std::vector<Setting>& settings) {
  BenchOptions options;
  for (const Setting& setting : settings) {
    if (setting.name != "what") continue;
    options.what = setting.value;
    const std::vector<std::string> known{"kernels", "comm", "strong", "weak", "io", "profile"};
    if (std::find(known.begin(), known.end(), options.what) == known.end()) {
      throw wrong_value(setting, "kernels, comm, strong, weak, io or profile");
    }
  }
  if (options.what != "kernels") {
    options.head_dims = {64};
    options.mechanisms = {"softmax", "stick-breaking", "stick-dense", "linear"};
  }
  if (options.what == "profile") {
    options.seq_lens = {1024, 4096, 16384};
    options.mechanisms = {"softmax", "stick-breaking", "linear"};
  }
  options.kv_heads = 0;
  for (const Setting& setting : settings) apply(options, setting);
  if (options.kv_heads == 0) options.kv_heads = options.heads;
  if (options.heads % options.kv_heads != 0) {
    throw bad_input("--kv-heads: found " + std::to_string(options.kv_heads) + ", want a divisor of the " +
                    std::to_string(options.heads) + " heads");
  }
  if (options.what == "kernels") return options;
  if (options.what == "io" && options.file.empty()) throw bad_input("no file: want bench io --file FILE");
  if (options.what == "profile" && options.profile.empty()) {
    throw bad_input("no profile: want bench profile --profile FILE");
  }
  if (options.what == "profile" || options.what == "io") {
    if (options.dtypes.size() != 1) throw bad_input("--dtype: bench " + options.what + " wants one type");
    if (options.what == "profile") return options;
  }
  if (options.head_dims.size() != 1) throw bad_input("--head-dim: bench " + options.what + " wants one number");
  const bool has_hybrid =
      std::find(options.mechanisms.begin(), options.mechanisms.end(), "hybrid") != options.mechanisms.end();
  if (has_hybrid && options.heads < 3) {
    throw bad_input("--heads: found " + std::to_string(options.heads) + ", want 3 or more for hybrid");
  }
  return options;
}

}  // namespace ringscan
