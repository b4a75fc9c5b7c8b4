#include "apps/options.hpp"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

using Arguments = std::vector<std::string>;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string error_of(const Arguments& arguments) {
  try {
    parse_command_line(arguments);
  } catch (const Error& error) {
    REQUIRE(error.code() == ExitCode::kBadInput);
    return error.what();
  }
  return "";
}

void fails_with(const Arguments& arguments, const std::string& part) {
  const std::string message = error_of(arguments);
  INFO("message: " << message);
  REQUIRE(contains(message, part));
  REQUIRE(!contains(message, "\n"));
}

template <typename Options>
Options parse(const Arguments& arguments) {
  return std::get<Options>(parse_command_line(arguments).command);
}

Arguments run_with(const Arguments& more) {
  Arguments all = {"run", "--input", "a.h5", "--output", "b.h5", "--mechanism", "softmax"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

/// A configuration file that goes when it goes.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text)
      : path_((std::filesystem::temp_directory_path() / ("ringscan_options_" + std::to_string(::getpid()) + ".ini"))
                  .string()) {
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { std::filesystem::remove(path_); }
  ConfigFile(const ConfigFile&) = delete;
  ConfigFile& operator=(const ConfigFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

TEST_CASE("run") {
  const Invocation invocation = parse_command_line(
      run_with({"--softmax.window=4096", "--reproducible", "--causal=off", "--memory", "16G", "--ranks", "3"}));
  const auto config = std::get<RunConfig>(invocation.command);
  REQUIRE(config.input == "a.h5");
  REQUIRE(config.output == "b.h5");
  REQUIRE(config.reproducible);
  REQUIRE(!config.overwrite);
  REQUIRE(config.memory_bytes == std::size_t{16} << 30);
  REQUIRE(std::get<SoftmaxParams>(config.assignments.at(0).mechanism) == SoftmaxParams{false, 4096});
  REQUIRE(invocation.ranks == 3);
  REQUIRE(invocation.log_level == "info");
  REQUIRE(!parse_command_line(run_with({})).ranks.has_value());

  const auto other = parse<RunConfig>(run_with({"--causal", "off", "--overwrite", "--dry-run", "true"}));
  REQUIRE(!std::get<SoftmaxParams>(other.assignments.at(0).mechanism).causal);
  REQUIRE(other.overwrite);
  REQUIRE(other.dry_run);
}

TEST_CASE("A hybrid of heads") {
  const auto config = parse<RunConfig>({"run", "--input", "a", "--output", "b", "--heads.softmax", "0-2",
                                        "--heads.stick-breaking", "3,5", "--stick-breaking.attend-current",
                                        "--stick-breaking.remainder", "value", "--outputs", "lse,remainder"});
  REQUIRE(config.assignments.size() == 2);
  REQUIRE(config.assignments[0].heads == std::vector<int>{0, 1, 2});
  REQUIRE(config.assignments[1].heads == std::vector<int>{3, 5});
  const auto& stick = std::get<StickBreakingParams>(config.assignments[1].mechanism);
  REQUIRE(stick.attend_current);
  REQUIRE(stick.remainder == RemainderPolicy::kValue);
  REQUIRE(config.want_lse);
  REQUIRE(config.want_remainder);
}

TEST_CASE("A file, and the command line that wins over it") {
  const ConfigFile file(
      "input = a.h5\n"
      "output = from-file.h5\n"
      "mechanism = softmax\n"
      "reproducible = on\n"
      "overwrite = 1\n"
      "ranks = 2\n"
      "[softmax]\n"
      "window = 4096\n");
  const Invocation invocation =
      parse_command_line({"run", "--config", file.path(), "--output", "from-command-line.h5", "--reproducible=off"});
  const auto config = std::get<RunConfig>(invocation.command);
  REQUIRE(config.input == "a.h5");
  REQUIRE(config.output == "from-command-line.h5");
  REQUIRE(!config.reproducible);
  REQUIRE(config.overwrite);
  REQUIRE(invocation.ranks == 2);
  REQUIRE(std::get<SoftmaxParams>(config.assignments.at(0).mechanism).window == 4096);
}

TEST_CASE("What a configuration writes, --config reads") {
  RunConfig config;
  config.input = "in.h5";
  config.output = "out.h5";
  config.assignments = {{StickBreakingParams{true, RemainderPolicy::kVector, 0.25}, {}}};
  const ConfigFile file(config.text());
  REQUIRE(parse<RunConfig>({"run", "--config", file.path()}).text() == config.text());
}

TEST_CASE("Errors in a file name the file and the line") {
  const ConfigFile unknown("input = a.h5\n\n[softmax]\nwindw = 3\n");
  fails_with({"run", "--config", unknown.path()},
             unknown.path() + ":4: softmax.windw: unknown option, did you mean softmax.window?");
  const ConfigFile value("input = a\noutput = b\nmechanism = softmax\nlayout = spiral\n");
  fails_with({"run", "--config", value.path()}, value.path() + ":4: layout: found 'spiral', want auto");
  const ConfigFile nested("config = other.ini\n");
  fails_with({"run", "--config", nested.path()}, "unknown option");
  fails_with({"run", "--config", "/nowhere/job.ini"}, "cannot read /nowhere/job.ini: No such file");
  fails_with({"run", "--config", "/tmp"}, "cannot read /tmp: Is a directory");
}

TEST_CASE("Errors on the command line") {
  fails_with({}, "no command: want one of run, verify");
  fails_with({"rum"}, "unknown command 'rum', did you mean run?");
  fails_with({"frobnicate"}, "unknown command 'frobnicate': want one of");
  fails_with(run_with({"--imput", "x"}), "ringscan run: --imput: unknown option, did you mean input?");
  fails_with(run_with({"--out", "x"}), "--out: unknown option");
  fails_with(run_with({"--overwrite", "stray"}), "unexpected argument 'stray'");
  fails_with(run_with({"-x"}), "unexpected argument '-x'");
  fails_with(run_with({"--layout"}), "--layout");
  fails_with(run_with({"--input", "twice"}), "--input");
  fails_with(run_with({"--softmax.window", "-3"}), "--softmax.window: found '-3', want");
  fails_with(run_with({"--reproducible", "--layout", "zigzag"}), "--layout: found zigzag with reproducible");
  fails_with(run_with({"--ranks", "0"}), "--ranks: found '0'");
  fails_with(run_with({"--log-level", "loud"}), "--log-level: found 'loud'");
  fails_with(run_with({"--heads.softmax", "0"}), "--heads.softmax: cannot be given with mechanism");
  fails_with({"run", "--input", "a", "--output", "b", "--heads.stick-breaking", "1,1"}, "names head 1 twice");
}

TEST_CASE("generate") {
  const auto options =
      parse<GenerateOptions>({"generate", "--overwrite", "out.h5", "--seq-len", "4096", "--heads", "6", "--kv-heads",
                              "2", "--head-dim", "32", "--dtype", "bf16", "--kind", "long-stick", "--seed", "5"});
  REQUIRE(options.output == "out.h5");
  REQUIRE(options.overwrite);
  REQUIRE(options.spec.seq_len == 4096);
  REQUIRE(options.spec.num_heads == 6);
  REQUIRE(options.spec.num_kv_heads == 2);
  REQUIRE(options.spec.head_dim == 32);
  REQUIRE(options.spec.v_dim == 32);
  REQUIRE(options.spec.dtype == ElementType::kBfloat16);
  REQUIRE(options.spec.kind == SyntheticKind::kLongStick);
  REQUIRE(options.spec.seed == 5);

  REQUIRE(
      parse<GenerateOptions>({"generate", "out.h5", "--seq-len", "8", "--linear-heads", "3"}).spec.num_linear_heads ==
      3);
  fails_with({"generate", "out.h5", "--seq-len", "8", "--linear-heads", "9"}, "want at most the 8 heads");

  fails_with({"generate", "--seq-len", "8"}, "no output");
  fails_with({"generate", "out.h5"}, "no sequence length");
  fails_with({"generate", "out.h5", "more.h5", "--seq-len", "8"}, "unexpected argument 'more.h5'");
  fails_with({"generate", "out.h5", "--seq-len", "8", "--heads", "6", "--kv-heads", "4"}, "want a divisor");
  fails_with({"generate", "out.h5", "--seq-len", "0"}, "--seq-len: found '0'");
  fails_with({"generate", "out.h5", "--seq-len", "8", "--head-dim", "257"}, "1 to 256");
  fails_with({"generate", "out.h5", "--seq-len", "8", "--kind", "rwkv"}, "found 'rwkv'");
  fails_with({"generate", "out.h5", "--seq-len", "8", "--dtype", "int4"}, "--dtype: unknown element type");
}

TEST_CASE("verify, inspect, bench") {
  const auto all = parse<VerifyOptions>({"verify", "--input", "a", "--output", "b", "--rows", "all"});
  REQUIRE(!all.rows.has_value());
  REQUIRE(!all.tolerance.has_value());
  const auto some =
      parse<VerifyOptions>({"verify", "--input", "a", "--output", "b", "--rows", "9", "--tolerance", "1e-5"});
  REQUIRE(some.rows == 9);
  REQUIRE(some.tolerance == 1e-5);
  fails_with({"verify", "--input", "a"}, "no output");
  fails_with({"verify", "--input", "a", "--output", "b", "--rows", "none"}, "--rows: found 'none'");
  fails_with({"verify", "--input", "a", "--output", "b", "--tolerance", "0"}, "over 0");

  REQUIRE(parse<InspectOptions>({"inspect", "a.h5", "--json"}).as_json);
  REQUIRE(parse<InspectOptions>({"inspect", "--json", "a.h5"}).file == "a.h5");
  fails_with({"inspect"}, "no file");

  const auto bench = parse<BenchOptions>({"bench", "kernels", "--head-dim", "64, 80", "--mechanisms", "softmax"});
  REQUIRE(bench.head_dims == std::vector<std::int64_t>{64, 80});
  REQUIRE(bench.mechanisms == std::vector<std::string>{"softmax"});
  fails_with({"bench", "coffee"}, "found 'coffee', want kernels, comm, strong, weak, io or profile");
}

TEST_CASE("bench of several ranks") {
  const auto strong = parse<BenchOptions>({"bench", "strong", "--world", "7,1,2", "--heads", "6", "--kv-heads", "2",
                                           "--mechanisms", "hybrid,stick-dense", "--layout", "zigzag"});
  REQUIRE(strong.what == "strong");
  REQUIRE(strong.worlds == std::vector<int>{1, 2, 7});
  REQUIRE(strong.kv_heads == 2);
  REQUIRE(strong.repeats == 5);
  REQUIRE(strong.layouts.front() == LayoutKind::kZigzag);
  REQUIRE(parse<BenchOptions>({"bench", "--heads", "4", "--what", "weak"}).kv_heads == 4);
  fails_with({"bench", "strong", "--repeats", "4"}, "--repeats: found '4', want a number from 5 to 1000");
  const auto blocks =
      parse<BenchOptions>({"bench", "weak", "--mechanisms", "ssm,chela", "--states", "8", "--taps", "9"});
  REQUIRE(blocks.sizes.states == 8);
  REQUIRE(blocks.sizes.taps == 9);
  REQUIRE(parse<BenchOptions>({"bench", "profile", "--profile", "p", "--mechanisms", "mamba"}).mechanisms.size() == 1);
  const auto plan = parse<PlanOptions>({"plan", "p.json", "--world", "2", "--seq-len", "1K", "--mechanism", "chela",
                                        "--chela.heads", "2", "--taps", "9"});
  REQUIRE(plan.sizes.taps == 9);
  REQUIRE(plan.config.blocks.size() == 1);
  fails_with({"bench", "weak", "--states", "2000"}, "--states: found '2000', want a whole number from 1 to 1024");
  fails_with({"bench", "weak", "--taps", "0"}, "--taps: found '0', want a number of taps, 1 or more");
  fails_with({"bench", "weak", "--mechanisms", "mamba2"}, "found 'mamba2', want a list of softmax");
  fails_with({"bench", "weak", "--kv-heads", "2"}, "--kv-heads: found 2, want a divisor of the 3 heads");
  fails_with({"bench", "weak", "--mechanisms", "hybrid", "--heads", "2"}, "--heads: found 2, want 3 or more");
  fails_with({"bench", "weak", "--head-dim", "64,128"}, "--head-dim: bench weak wants one number");
  fails_with({"bench", "comm", "--plot", "a.png"}, "--plot: bench comm draws nothing, want strong or weak");
  fails_with({"bench", "comm", "--world", "0"}, "a list of numbers of ranks");
  fails_with({"bench", "strong", "--layout", "round"}, "want a list of auto, contiguous and zigzag");
  fails_with({"bench", "strong", "--dtype", "float64"}, "want a list of float32, float16 and bfloat16");
  fails_with({"bench", "io"}, "no file");
  fails_with({"bench", "profile"}, "no profile");
  fails_with({"bench", "profile", "--profile", "p", "--mechanisms", "hybrid"},
             "found 'hybrid', want a list of softmax");
  const auto lists = parse<BenchOptions>({"bench", "strong", "--layout", "auto,zigzag", "--dtype", "float16,bfloat16"});
  REQUIRE(lists.layouts.size() == 2);
  REQUIRE(lists.dtypes == std::vector<ElementType>{ElementType::kFloat16, ElementType::kBfloat16});
}

TEST_CASE("plan takes run's options for how a job goes, and a cluster") {
  const auto plan =
      parse<PlanOptions>({"plan", "p.json", "--world", "8,2", "--seq-len", "1M,64K", "--mechanism", "stick-breaking",
                          "--reach", "40,300", "--link.between", "5,25,0.5", "--layout", "contiguous", "--heads", "4"});
  REQUIRE(plan.profile == "p.json");
  REQUIRE(plan.worlds == std::vector<int>{2, 8});
  REQUIRE(plan.seq_lens == std::vector<std::int64_t>{65536, 1048576});
  REQUIRE(plan.reach->percentile_99 == 300.0);
  REQUIRE(plan.between->bytes_per_second == 25e9);
  REQUIRE(plan.between->hidden == 0.5);
  REQUIRE(plan.layer.num_kv_heads == 4);
  REQUIRE(plan.config.layout == LayoutKind::kContiguous);
  REQUIRE(parse<PlanOptions>({"plan", "p", "--sweep", "--seq-len", "1", "--mechanism", "linear"}).worlds.back() ==
          16384);
  fails_with({"plan", "--world", "2", "--seq-len", "1K", "--mechanism", "softmax"}, "no profile");
  fails_with({"plan", "p", "--seq-len", "1K", "--mechanism", "softmax"}, "no number of ranks");
  fails_with({"plan", "p", "--world", "2", "--mechanism", "softmax"}, "no sequence length");
  fails_with({"plan", "p", "--world", "2", "--seq-len", "1K"}, "no mechanism");
  fails_with({"plan", "p", "--world", "2", "--seq-len", "1K", "--mechanism", "softmax", "--input", "a"},
             "--input: unknown option");
  fails_with({"plan", "p", "--world", "20000"}, "1 to 16384");
  fails_with({"plan", "p", "--reach", "300,40"}, "--reach: found '300,40'");
  fails_with({"plan", "p", "--link.inside", "3"}, "--link.inside: found '3'");
}

TEST_CASE("Help") {
  REQUIRE(contains(help_text({"--help"}).value(), "generate"));
  REQUIRE(contains(help_text({"--version"}).value(), RINGSCAN_VERSION));
  for (const char* command : {"run", "verify", "generate", "inspect", "bench", "plan"}) {
    const std::string text = help_text({command, "--help"}).value();
    REQUIRE(contains(text, std::string("usage: ringscan ") + command));
    REQUIRE(contains(text, "--config"));
    REQUIRE(contains(text, "--ranks"));
  }
  REQUIRE(contains(help_text({"run", "--help"}).value(), "--stick-breaking.epsilon"));
  REQUIRE(!help_text({"run", "--input", "a"}).has_value());
  REQUIRE(!help_text({}).has_value());
}
