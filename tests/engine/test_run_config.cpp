#include "engine/run_config.hpp"

#include <functional>
#include <string>

#include "engine/run_options.hpp"
#include "engine/settings.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

/// The message of the Error(kBadInput) that `call` throws; empty where it throws none.
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    REQUIRE(error.code() == ExitCode::kBadInput);
    return error.what();
  }
  return "";
}

std::string message_of(const std::string& config) {
  return message_of([&] { parse_run_config(config); });
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

const std::string kFiles = "input = a.h5\noutput = b.h5\n";

}  // namespace

TEST_CASE("A configuration reads back from its text") {
  RunConfig config;
  config.input = "in put #1 \"x\".h5";
  config.output = "out.h5";
  config.layers = "1*";
  config.backend = "cpu";
  config.scale = 0.1;
  config.layout = LayoutKind::kContiguous;
  config.reproducible = true;
  config.output_dtype = ElementType::kBfloat16;
  config.overwrite = true;
  config.allow_nonfinite = true;
  config.memory_bytes = std::size_t{3} << 30;
  config.report = "report.json";
  config.progress = ProgressMode::kOff;

  SECTION("a hybrid") {
    config.want_lse = true;
    config.want_remainder = true;
    config.assignments = {{SoftmaxParams{true, 4096}, {0, 1, 2, 8}},
                          {StickBreakingParams{true, RemainderPolicy::kVector, 1e-7}, {3, 5}}};
  }
  SECTION("cog beside softmax, both without causal") {
    config.assignments = {{SoftmaxParams{false, 0}, {1}}, {CogParams{false}, {0}}};
  }
  SECTION("sparse") {
    config.want_kept_mass = true;
    config.assignments = {{SparseParams{SparseSelect::kWindow, 1.5, 0.3, 7, SparseCount::kTotal}, {}}};
  }
  SECTION("linear") {
    config.want_state = true;
    config.initial_state = "before.h5";
    config.linear_scale = 0.3;
    config.linear_head_decay = {-0.1, -1e-6, 0.0};
    config.assignments = {{SoftmaxParams{}, {0}},
                          {LinearParams{Decay::kHead, FeatureMap::kElu1, Normalizer::kZ}, {1, 2, 3}}};
  }
  SECTION("ssm and mamba beside softmax, from state to state") {
    config.want_state = true;
    config.initial_state = "before.h5";
    config.context = {"first files.h5", "then.h5"};
    config.assignments = {{SoftmaxParams{}, {0, 3}}};
    config.blocks = {{SsmParams{}, {1, 2}}, {MambaParams{}, {4}}};
  }
  SECTION("mamba alone") {
    config.assignments.clear();
    config.blocks = {{MambaParams{}, {}}};
  }
  SECTION("softmax without causal") {
    config.assignments = {{SoftmaxParams{false, 7}, {}}};
  }
  SECTION("stick-breaking with defaults, a dry run") {
    config.assignments = {{StickBreakingParams{}, {}}};
    config.output.clear();
    config.dry_run = true;
  }

  const RunConfig again = parse_run_config(config.text());
  REQUIRE(again.text() == config.text());
  REQUIRE(again.input == config.input);
  REQUIRE(again.output == config.output);
  REQUIRE(again.layers == config.layers);
  REQUIRE(again.backend == config.backend);
  REQUIRE(again.scale == config.scale);
  REQUIRE(again.layout == config.layout);
  REQUIRE(again.reproducible == config.reproducible);
  REQUIRE(again.want_lse == config.want_lse);
  REQUIRE(again.want_remainder == config.want_remainder);
  REQUIRE(again.want_kept_mass == config.want_kept_mass);
  REQUIRE(again.want_state == config.want_state);
  REQUIRE(again.initial_state == config.initial_state);
  REQUIRE(again.context == config.context);
  REQUIRE(again.linear_scale == config.linear_scale);
  REQUIRE(again.linear_head_decay == config.linear_head_decay);
  REQUIRE(again.output_dtype == config.output_dtype);
  REQUIRE(again.overwrite == config.overwrite);
  REQUIRE(again.allow_nonfinite == config.allow_nonfinite);
  REQUIRE(again.memory_bytes == config.memory_bytes);
  REQUIRE(again.report == config.report);
  REQUIRE(again.progress == config.progress);
  REQUIRE(again.dry_run == config.dry_run);
  REQUIRE(again.blocks.size() == config.blocks.size());
  for (std::size_t i = 0; i < config.blocks.size(); ++i) {
    REQUIRE(again.blocks[i].mechanism == config.blocks[i].mechanism);
    REQUIRE(again.blocks[i].heads == config.blocks[i].heads);
  }
  REQUIRE(again.assignments.size() == config.assignments.size());
  for (std::size_t i = 0; i < config.assignments.size(); ++i) {
    REQUIRE(again.assignments[i].mechanism == config.assignments[i].mechanism);
    REQUIRE(again.assignments[i].heads == config.assignments[i].heads);
  }
}

TEST_CASE("Sections, comments and quotes") {
  const RunConfig config = parse_run_config(
      "# a job\n"
      "input = \"a b#.h5\"   # quoted\n"
      "output=b#1.h5\r\n"
      "mechanism = softmax\n"
      "\n"
      "[softmax]\n"
      "  window = 4096  # tokens\n");
  REQUIRE(config.input == "a b#.h5");
  REQUIRE(config.output == "b#1.h5");
  REQUIRE(std::get<SoftmaxParams>(config.assignments.at(0).mechanism).window == 4096);
}

TEST_CASE("What a configuration cannot say") {
  REQUIRE(message_of(kFiles + "mechanism = softmax\n").empty());

  const auto fails_with = [](const std::string& lines, const std::string& part) {
    const std::string message = message_of(kFiles + lines);
    INFO("lines: " << lines << "message: " << message);
    REQUIRE(contains(message, part));
    REQUIRE(!contains(message, "\n"));
  };
  fails_with("", "no mechanism");
  fails_with("mechanism = sofmax",
             "found 'sofmax', want softmax, stick-breaking, cog, sparse, linear, ssm, mamba or chela");
  fails_with("mechanism = softmax\nbackend = cuda\nreproducible = on", "found cuda with reproducible");
  fails_with("mechanism = chela\nchela.heads = 0", "chela.heads: found '0', want a number of heads");
  fails_with("mechanism = ssm\nchela.heads = 2", "no head has chela");
  fails_with("heads.chela = 0,1\nheads.mamba = 1", "head 1 is in heads.");
  fails_with("mechanism = linear\nlinear.decay = head", "want linear.head-decay with it");
  fails_with("mechanism = linear\nlinear.head-decay = -1", "want it with linear.decay = head alone");
  fails_with("mechanism = linear\nlinear.decay = head\nlinear.head-decay = -1,0.5", "want a list of log decays");
  fails_with("mechanism = linear\nlayout = zigzag", "want contiguous or auto where a state is carried");
  fails_with("mechanism = linear\noutputs = lse", "no head has a mechanism with it");
  fails_with("heads.softmax = 0-2\nheads.ssm = 2-3", "head 2 is in heads.softmax too");
  fails_with("heads.ssm = 1\nheads.mamba = 1", "want one mechanism a head");
  fails_with("mechanism = ssm\nlayout = zigzag", "want contiguous or auto where a state is carried");
  fails_with("mechanism = ssm\noutputs = lse", "no head has a mechanism with it");
  fails_with("mechanism = softmax\noutputs = state", "no head has linear");
  fails_with("mechanism = softmax\ninitial-state = s.h5", "no head has a state");
  fails_with("mechanism = softmax\nlinear.decay = token", "no head has linear");
  fails_with("mechanism = softmax\ncontext = a.h5,,b.h5", "want a list of file names");
  fails_with("mechanism = softmax\ncausal = off\ncontext = a.h5", "found with causal = off");
  fails_with("mechanism = linear\ninitial-state = s.h5\ncontext = a.h5", "whose keys it would give");
  fails_with("heads.softmax = 0\nheads.ssm = 1\ncontext = a.h5", "want --initial-state with it");
  fails_with("heads.cog = 0\nheads.linear = 1\ncontext = a.h5", "want --initial-state with it");
  fails_with("mechanims = softmax", "configuration:3: mechanims: unknown option, did you mean mechanism?");
  fails_with("mechanism = softmax\nsoftmax.window = -1", "found '-1'");
  fails_with("mechanism = softmax\nsoftmax.window = 4k", "found '4k'");
  fails_with("mechanism = softmax\nstick-breaking.epsilon = 0.5", "no head has stick-breaking");
  fails_with("mechanism = stick-breaking\nsoftmax.window = 5", "no head has softmax");
  fails_with("mechanism = stick-breaking\nstick-breaking.epsilon = 1", "under 1");
  fails_with("mechanism = stick-breaking\nstick-breaking.epsilon = nan", "found 'nan'");
  fails_with("mechanism = stick-breaking\nstick-breaking.remainder = keep", "drop, value or vector");
  fails_with("mechanism = stick-breaking\ncausal = off", "stick-breaking is causal");
  fails_with("mechanism = stick-breaking\noutputs = lse", "no head has a mechanism with it");
  fails_with("mechanism = softmax\noutputs = kept_mass", "no head has sparse");
  fails_with("mechanism = sparse\nsparse.exponent = 0", "sparse.exponent: found '0', want a number over 0, at most 1");
  fails_with("mechanism = sparse\nsparse.exponent = 1.01", "want a number over 0, at most 1");
  fails_with("mechanism = sparse\nsparse.alpha = 0", "sparse.alpha: found '0', want a number over 0");
  fails_with("mechanism = sparse\nsparse.min = 0", "sparse.min: found '0', want a number of keys, 1 or more");
  fails_with("mechanism = sparse\nsparse.select = near", "want topk or window");
  fails_with("mechanism = sparse\nsparse.count = all", "want visible or total");
  fails_with("mechanism = cog\nsparse.alpha = 2", "no head has sparse");
  fails_with("mechanism = sparse\ncausal = off", "sparse is causal");
  fails_with("heads.cog = 0-2\nheads.sparse = 2", "head 2 is in heads.cog too");
  fails_with("mechanism = softmax\noutputs = remainder", "no head has stick-breaking");
  fails_with("mechanism = softmax\noutputs = lse,mass", "want a list of lse, remainder");
  fails_with("mechanism = softmax\nreproducible = on\nlayout = zigzag", "configuration:5: layout");
  fails_with("mechanism = softmax\nreproducible = maybe", "want on or off");
  fails_with("mechanism = softmax\nscale = inf", "want a finite number");
  fails_with("mechanism = softmax\nbackend = gpu", "auto, cpu or cuda");
  fails_with("mechanism = softmax\nlayout = ring", "contiguous or zigzag");
  fails_with("mechanism = softmax\nprogress = bar", "auto, on or off");
  fails_with("mechanism = softmax\noutput-dtype = int8", "output-dtype: unknown element type 'int8'");
  fails_with("mechanism = softmax\nmemory = much", "memory: found 'much'");
  fails_with("mechanism = softmax\nheads.softmax = 0", "cannot be given with mechanism");
  fails_with("heads.softmax = 0-3\nheads.stick-breaking = 3-5", "head 3 is in heads.softmax too");
  fails_with("heads.softmax = 0-3,2", "names head 2 twice");
  fails_with("heads.softmax = 0-3\nheads.stick-breaking = 4\ncausal = off", "stick-breaking is causal");
  fails_with("mechanism = softmax\ninput = c.h5", "input is given twice, first in line 1");
  fails_with("mechanism = softmax\nreport = ./b.h5", "another file");
  fails_with("mechanism", "want name = value");
  fails_with("[softmax\nwindow = 1", "want [section]");
  fails_with("layers = \"a", "closing quote");

  REQUIRE(contains(message_of("output = b\nmechanism = softmax"), "no input"));
  REQUIRE(contains(message_of("input = b\nmechanism = softmax"), "no output"));
  REQUIRE(contains(message_of("input = b\noutput = ./b\nmechanism = softmax"), "want another file"));
}

TEST_CASE("Head lists") {
  REQUIRE(parse_head_list("0-3,8") == std::vector<int>{0, 1, 2, 3, 8});
  REQUIRE(parse_head_list("8,0-1") == std::vector<int>{0, 1, 8});
  REQUIRE(parse_head_list("7") == std::vector<int>{7});
  for (const char* wrong : {"", ",", "1,", "3-1", "-1", "1-", "a", "1 2", "1-2-3", "0,0", "0-3,2", "0-99999999999"}) {
    INFO(wrong);
    REQUIRE(!message_of([&] { parse_head_list(wrong); }).empty());
  }
}

TEST_CASE("Memory sizes") {
  REQUIRE(parse_memory_size("1000000") == 1000000);
  REQUIRE(parse_memory_size("16G") == std::size_t{16} << 30);
  REQUIRE(parse_memory_size("16GB") == std::size_t{16} << 30);
  REQUIRE(parse_memory_size("512MiB") == std::size_t{512} << 20);
  REQUIRE(parse_memory_size("1.5g") == std::size_t{3} << 29);
  REQUIRE(parse_memory_size("2T") == std::size_t{1} << 41);
  REQUIRE(parse_memory_size("64k") == 65536);
  REQUIRE(parse_memory_size("12B") == 12);
  for (const char* wrong : {"", "G", "-1", "0", "0.2", "nan", "inf", "1X", "1 G", "1GG", "1i", "1e30T", "99999999T"}) {
    INFO(wrong);
    REQUIRE(!message_of([&] { parse_memory_size(wrong); }).empty());
  }
}

TEST_CASE("The nearest name") {
  const std::vector<std::string> known = {"input", "output", "outputs", "softmax.window"};
  REQUIRE(nearest_name("imput", known) == "input");
  REQUIRE(nearest_name("outptu", known) == "output");
  REQUIRE(nearest_name("softmax.windw", known) == "softmax.window");
  REQUIRE(nearest_name("zzz", known).empty());
  REQUIRE(nearest_name("", known).empty());
}
