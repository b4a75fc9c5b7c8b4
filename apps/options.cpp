#include "apps/options.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>

#include "apps/bench_options.hpp"
#include "apps/option_set.hpp"
#include "apps/plan_options.hpp"
#include "engine/run_options.hpp"

namespace ringscan {

namespace {

constexpr std::int64_t kAnyCount = std::int64_t{1} << 40;

/// Every command has these.
std::vector<OptionInfo> with_common(std::vector<OptionInfo> options) {
  options.push_back({"ranks", "N", "run N ranks as threads of this process (default 1; not under mpirun or srun)"});
  options.push_back({"log-level", "LEVEL", "debug, info (default), warn, error or off; the log goes to stderr"});
  return options;
}

void take_common(std::vector<Setting>& settings, Invocation& invocation) {
  std::erase_if(settings, [&](const Setting& setting) {
    if (setting.name == "ranks") {
      invocation.ranks = static_cast<int>(parse_whole_number(setting, 1, 1024, "a number of ranks from 1 to 1024"));
    } else if (setting.name == "log-level") {
      const auto& level = setting.value;
      if (level != "debug" && level != "info" && level != "warn" && level != "error" && level != "off") {
        throw wrong_value(setting, "debug, info, warn, error or off");
      }
      invocation.log_level = level;
    } else {
      return false;
    }
    return true;
  });
}

std::uint64_t parse_seed(const Setting& setting) {
  return static_cast<std::uint64_t>(
      parse_whole_number(setting, 0, std::numeric_limits<std::int64_t>::max(), "a whole number, 0 or more"));
}

const std::vector<OptionInfo>& generate_options() {
  static const std::vector<OptionInfo> options = {
      {"output", "FILE", "the file to make; may stand without --output"},
      {"seq-len", "TOKENS", "tokens (needed)"},
      {"heads", "N", "query heads (default 8)"},
      {"kv-heads", "N", "KV heads; divides --heads (default: as many)"},
      {"head-dim", "N", "elements of a head's q and k, 1 to 256 (default 64)"},
      {"v-dim", "N", "elements of a head's v, 1 to 256 (default: as head-dim)"},
      {"layers", "N", "layer groups (default 1)"},
      {"batch", "N", "sequences (default 1)"},
      {"dtype", "TYPE", "float64, float32 (default), float16 or bfloat16"},
      {"seed", "N", "another seed, other values (default 0)"},
      {"kind", "KIND",
       "normal (default); long-stick: sticks that outlast 100,000 keys; ssm, mamba or chela: inputs of these, heads x "
       "head-dim channels"},
      {"linear-heads", "N", "log decays of this many linear heads too (default 0: no log_decay)"},
      {"overwrite", "on|off", "replace a file that exists", true},
  };
  return options;
}

SyntheticKind parse_kind(const Setting& setting) {
  if (setting.value == "normal") return SyntheticKind::kNormal;
  if (setting.value == "long-stick") return SyntheticKind::kLongStick;
  if (setting.value == "ssm") return SyntheticKind::kSsm;
  if (setting.value == "mamba") return SyntheticKind::kMamba;
  if (setting.value == "chela") return SyntheticKind::kChela;
  throw wrong_value(setting, "normal, long-stick, ssm, mamba or chela");
}

void apply_generate(GenerateOptions& options, const Setting& setting) {
  SyntheticSpec& spec = options.spec;
  const auto count = [&](std::int64_t most) {
    return parse_whole_number(setting, 1, most, "a whole number from 1 to " + std::to_string(most));
  };
  if (setting.name == "output") {
    options.output = setting.value;
  } else if (setting.name == "seq-len") {
    spec.seq_len = count(kAnyCount);
  } else if (setting.name == "heads") {
    spec.num_heads = count(65536);
  } else if (setting.name == "kv-heads") {
    spec.num_kv_heads = count(65536);
  } else if (setting.name == "head-dim") {
    spec.head_dim = count(256);
  } else if (setting.name == "v-dim") {
    spec.v_dim = count(256);
  } else if (setting.name == "layers") {
    spec.num_layers = count(100000);
  } else if (setting.name == "batch") {
    spec.batch = count(kAnyCount);
  } else if (setting.name == "dtype") {
    try {
      spec.dtype = parse_element_type(setting.value);
    } catch (const Error& error) {
      throw bad_input(setting.where + ": " + error.what());
    }
  } else if (setting.name == "seed") {
    spec.seed = parse_seed(setting);
  } else if (setting.name == "kind") {
    spec.kind = parse_kind(setting);
  } else if (setting.name == "linear-heads") {
    spec.num_linear_heads = parse_whole_number(setting, 0, 65536, "a whole number from 0 to 65536");
  } else if (setting.name == "overwrite") {
    options.overwrite = parse_switch(setting);
  }
}

GenerateOptions parse_generate(const std::vector<Setting>& settings) {
  GenerateOptions options;
  SyntheticSpec& spec = options.spec;
  spec.num_kv_heads = 0;
  spec.v_dim = 0;
  for (const Setting& setting : settings) apply_generate(options, setting);
  if (options.output.empty()) throw bad_input("no output: want ringscan generate FILE.h5");
  if (spec.seq_len == 0) throw bad_input("no sequence length: want --seq-len TOKENS");
  if (spec.num_kv_heads == 0) spec.num_kv_heads = spec.num_heads;
  if (spec.v_dim == 0) spec.v_dim = spec.head_dim;
  if (spec.num_heads % spec.num_kv_heads != 0) {
    throw bad_input("--kv-heads: found " + std::to_string(spec.num_kv_heads) + ", want a divisor of the " +
                    std::to_string(spec.num_heads) + " heads");
  }
  if (spec.num_linear_heads > spec.num_heads) {
    throw bad_input("--linear-heads: found " + std::to_string(spec.num_linear_heads) + ", want at most the " +
                    std::to_string(spec.num_heads) + " heads");
  }
  const double elements =
      static_cast<double>(spec.batch) * static_cast<double>(spec.seq_len) * static_cast<double>(spec.num_heads) * 512.0;
  if (elements > 0x1p60) throw bad_input("a layer of over 2^60 elements: want a smaller batch, seq-len or heads");
  return options;
}

const std::vector<OptionInfo>& verify_options() {
  static const std::vector<OptionInfo> options = {
      {"input", "FILE", "the activations that were read"},
      {"output", "FILE", "the results to check against the fp64 oracle"},
      {"rows", "N|all", "rows to check of each layer, sampled over its heads, or all of them (default 256)"},
      {"seed", "N", "another seed, another sample (default 0)"},
      {"tolerance", "NUMBER", "largest error allowed, relative to max|v| (default: by the output's type)"},
      {"report", "FILE", "write a JSON report"},
  };
  return options;
}

VerifyOptions parse_verify(const std::vector<Setting>& settings) {
  VerifyOptions options;
  for (const Setting& setting : settings) {
    if (setting.name == "input") {
      options.input = setting.value;
    } else if (setting.name == "output") {
      options.output = setting.value;
    } else if (setting.name == "rows" && setting.value == "all") {
      options.rows.reset();
    } else if (setting.name == "rows") {
      options.rows = parse_whole_number(setting, 1, kAnyCount, "a number of rows, 1 or more, or all");
    } else if (setting.name == "seed") {
      options.seed = parse_seed(setting);
    } else if (setting.name == "tolerance") {
      options.tolerance = parse_number(setting, "a number over 0");
      if (!(*options.tolerance > 0.0)) throw wrong_value(setting, "a number over 0");
    } else if (setting.name == "report") {
      options.report = setting.value;
    }
  }
  if (options.input.empty()) throw bad_input("no input: want --input FILE");
  if (options.output.empty()) throw bad_input("no output: want --output FILE, the results to check");
  return options;
}

const std::vector<OptionInfo>& inspect_options() {
  static const std::vector<OptionInfo> options = {
      {"input", "FILE", "the file to look into; may stand without --input"},
      {"json", "on|off", "one JSON object", true},
  };
  return options;
}

InspectOptions parse_inspect(const std::vector<Setting>& settings) {
  InspectOptions options;
  for (const Setting& setting : settings) {
    if (setting.name == "input") options.file = setting.value;
    if (setting.name == "json") options.as_json = parse_switch(setting);
  }
  if (options.file.empty()) throw bad_input("no file: want ringscan inspect FILE.h5");
  return options;
}

struct CommandInfo {
  std::string name;
  std::string usage;
  std::string summary;
  std::vector<OptionInfo> options;
  std::string positional;
  std::function<decltype(Invocation::command)(const std::vector<Setting>&)> parse;

  OptionSet option_set() const { return OptionSet(name, with_common(options), positional); }
};

const std::vector<CommandInfo>& commands() {
  const auto run_infos = run_option_infos();
  const auto analysis_infos = analysis_option_infos();
  static const std::vector<CommandInfo> all = {
      {"run",
       "run --input FILE --output FILE --mechanism NAME [options]",
       "attention over the activations of a file",
       {run_infos.begin(), run_infos.end()},
       "",
       make_run_config},
      {"verify", "verify --input FILE --output FILE [options]", "checks an output against the fp64 oracle",
       verify_options(), "", parse_verify},
      {"analyze",
       "analyze FILE [options]",
       "measures of every head: recency, stick reach, kept mass, sign balance; proposes a hybrid",
       {analysis_infos.begin(), analysis_infos.end()},
       "input",
       make_analysis_request},
      {"generate", "generate FILE --seq-len TOKENS [options]", "makes a file of synthetic activations",
       generate_options(), "output", parse_generate},
      {"inspect", "inspect FILE [options]", "what is in a file: layers, shapes, types, sizes, attributes",
       inspect_options(), "input", parse_inspect},
      {"bench", "bench kernels|comm|strong|weak|io|profile [options]",
       "rates of kernels, links and files here; scaling over ranks", bench_options(), "what", parse_bench},
      {"plan", "plan FILE.json --world LIST --seq-len LIST --mechanism NAME [options]",
       "predicts a run's time on a cluster, from a profile of bench profile", plan_options(), "profile", parse_plan},
  };
  return all;
}

std::string command_names() {
  std::string names;
  for (const CommandInfo& command : commands()) names += (names.empty() ? "" : ", ") + command.name;
  return names;
}

const CommandInfo& find_command(const std::vector<std::string>& arguments) {
  if (arguments.empty()) throw bad_input("no command: want one of " + command_names() + "; see ringscan --help");
  std::vector<std::string> names;
  for (const CommandInfo& command : commands()) {
    if (command.name == arguments[0]) return command;
    names.push_back(command.name);
  }
  const std::string nearest = nearest_name(arguments[0], names);
  throw bad_input("unknown command '" + arguments[0] + "'" +
                  (nearest.empty() ? ": want one of " + command_names() : ", did you mean " + nearest + "?"));
}

std::string program_help() {
  std::string text =
      "ringscan: attention over very long contexts, spread across the ranks of an MPI job\n\n"
      "usage: ringscan COMMAND [options]\n\n";
  for (const CommandInfo& command : commands()) {
    text += "  " + command.name + std::string(12 - command.name.size(), ' ') + command.summary + "\n";
  }
  return text +
         "\nringscan COMMAND --help    the options of a command\n"
         "ringscan --version\n\n"
         "Alone it is one process, whose --ranks N are threads; under mpirun or srun each process is a rank.\n"
         "Exit codes: 0 done; 1 verification failed; 2 usage or bad input; 3 failure while running.\n";
}

}  // namespace

std::optional<std::string> help_text(const std::vector<std::string>& arguments) {
  const auto is_help = [](const std::string& argument) { return argument == "--help" || argument == "-h"; };
  if (arguments.empty()) return std::nullopt;
  if (is_help(arguments[0])) return program_help();
  if (arguments[0] == "--version") return "ringscan " RINGSCAN_VERSION "\n";
  if (std::none_of(arguments.begin(), arguments.end(), is_help)) return std::nullopt;
  const CommandInfo& command = find_command(arguments);
  return "ringscan " + command.name + ": " + command.summary + "\n\nusage: ringscan " + command.usage + "\n\n" +
         command.option_set().description();
}

Invocation parse_command_line(const std::vector<std::string>& arguments) {
  const CommandInfo& command = find_command(arguments);
  std::vector<Setting> settings = command.option_set().parse({arguments.begin() + 1, arguments.end()});
  Invocation invocation;
  take_common(settings, invocation);
  invocation.command = command.parse(settings);
  return invocation;
}

}  // namespace ringscan
