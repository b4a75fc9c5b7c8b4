// analyze against plain float64 loops: every measure, over worlds and both ways to read; compiled once with ranks as
// threads and once under mpirun.

#include "engine/analysis.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <string>

#include "engine/measure_pass.hpp"
#include "io/activation_file.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/engine/access.hpp"
#include "tests/support/attention_problem.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::expect;
using ringscan::test::for_each_world;
using ringscan::test::make_access;

namespace {

const std::string kSample = RINGSCAN_TEST_DATA "/real_layer1.h5";

/// A file of its own for each world, removed by rank 0 at the end.
class ScratchFile {
 public:
  explicit ScratchFile(Transport& transport) : transport_(transport) {
    if (transport.rank() == 0) {
      std::string pattern = (std::filesystem::temp_directory_path() / "ringscan-analysis-XXXXXX").string();
      if (mkdtemp(pattern.data()) == nullptr) throw failure("no temporary folder");
      folder_ = pattern;
    }
    transport.broadcast(folder_, 0);
  }
  ~ScratchFile() {
    if (transport_.rank() == 0) {
      std::error_code ignored;
      std::filesystem::remove_all(folder_, ignored);
    }
  }
  std::string path() const { return folder_ + "/in.h5"; }

 private:
  Transport& transport_;
  std::string folder_;
};

AttentionProblem make_problem(std::int64_t seq_len, ElementType type, double q_offset) {
  AttentionProblem problem;
  problem.batch = 2;
  problem.seq_len = seq_len;
  problem.num_heads = 4;
  problem.num_kv_heads = 2;
  problem.head_dim = 12;
  problem.v_dim = 3;
  problem.type = type;
  problem.q_offset = q_offset;
  problem.fill();
  return problem;
}

/// Collective.
void write_input(const std::string& path, const AttentionProblem& problem, Transport& transport) {
  const auto access = make_access(transport);
  ActivationWriter writer(*access, path, false);
  const SequenceLayout layout(LayoutKind::kContiguous, problem.seq_len, transport.world_size(), 1);
  const auto write = [&](const char* name, const std::vector<float>& whole, std::int64_t heads, std::int64_t dim) {
    const DatasetInfo info = writer.create("0", name, problem.type, {problem.batch, problem.seq_len, heads, dim});
    SlabSelection selection;
    const TokenRun run = layout.chunks(transport.rank())[0].run;
    if (!run.empty()) selection.tokens = {run};
    for (int head = 0; head < heads; ++head) selection.heads.push_back(head);
    const auto shard = shard_of(whole, problem.type, problem.batch, heads * dim, layout, transport.rank());
    writer.write_slab(info, selection, shard.data());
  };
  write("q", problem.q, problem.num_heads, problem.head_dim);
  write("k", problem.k, problem.num_kv_heads, problem.head_dim);
  write("v", problem.v, problem.num_kv_heads, problem.v_dim);
  writer.finish();
}

Analysis analyze_over(const AnalysisRequest& request, Transport& transport) {
  const auto access = make_access(transport);
  AnalysisContext context;
  context.transport = &transport;
  context.access = access.get();
  return analyze(request, context);
}

/// Scores of one row, in float64.
std::vector<double> scores(const AttentionProblem& p, std::int64_t batch, std::int64_t query, std::int64_t head) {
  const std::int64_t kv_head = head / (p.num_heads / p.num_kv_heads);
  std::vector<double> z(static_cast<std::size_t>(query + 1));
  for (std::int64_t key = 0; key <= query; ++key) {
    const std::int64_t q_row = ((batch * p.seq_len + query) * p.num_heads + head) * p.head_dim;
    const std::int64_t k_row = ((batch * p.seq_len + key) * p.num_kv_heads + kv_head) * p.head_dim;
    double sum = 0.0;
    for (std::int64_t d = 0; d < p.head_dim; ++d) {
      sum += double{p.q[static_cast<std::size_t>(q_row + d)]} * double{p.k[static_cast<std::size_t>(k_row + d)]};
    }
    z[static_cast<std::size_t>(key)] = sum * p.scale();
  }
  return z;
}

std::int64_t stick_reach(const std::vector<double>& z, double epsilon) {
  double spent = 0.0;
  std::int64_t keys = 0;
  for (std::size_t key = z.size() - 1; key-- > 0 && std::exp(-spent) >= epsilon; ++keys) {
    spent += std::max(z[key], 0.0) + std::log1p(std::exp(-std::abs(z[key])));
  }
  return keys;
}

std::int64_t nearest_rank(std::vector<std::int64_t> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(std::ceil(share * static_cast<double>(values.size()))) - 1];
}

/// What plain loops say of one head.
struct ExactHead {
  double recency = 0.0;
  double negative = 0.0;
  std::vector<double> kept_topk;
  std::vector<double> kept_window;
  std::vector<std::int64_t> reach_low;   ///< median and 99th percentile for a slightly larger epsilon
  std::vector<std::int64_t> reach_high;  ///< for a slightly smaller one
};

ExactHead exact_head(const AttentionProblem& p, const AnalysisRequest& request, std::int64_t head) {
  ExactHead exact;
  exact.kept_topk.assign(request.exponents.size(), 0.0);
  exact.kept_window = exact.kept_topk;
  std::vector<std::int64_t> low, high;
  const double rows = static_cast<double>(p.batch * p.seq_len);
  for (std::int64_t batch = 0; batch < p.batch; ++batch) {
    for (std::int64_t query = 0; query < p.seq_len; ++query) {
      std::vector<double> z = scores(p, batch, query, head);
      low.push_back(stick_reach(z, request.epsilons[0] * (1.0 + 1e-5)));
      high.push_back(stick_reach(z, request.epsilons[0] * (1.0 - 1e-5)));
      double all = 0.0, recent = 0.0, magnitudes = 0.0, negatives = 0.0;
      for (std::int64_t key = 0; key <= query; ++key) {
        const double x = z[static_cast<std::size_t>(key)];
        all += std::exp(x);
        if (query - key <= request.recency_window) recent += std::exp(x);
        magnitudes += std::exp(std::abs(x));
        if (x < 0.0) negatives += std::exp(std::abs(x));
      }
      exact.recency += recent / all / rows;
      exact.negative += negatives / magnitudes / rows;
      std::vector<double> strongest = z;
      std::sort(strongest.begin(), strongest.end(), std::greater<>());
      for (std::size_t i = 0; i < request.exponents.size(); ++i) {
        for (std::int64_t kept = 0; kept < keys_kept(query + 1, request.exponents[i]); ++kept) {
          exact.kept_topk[i] += std::exp(strongest[static_cast<std::size_t>(kept)]) / all / rows;
          exact.kept_window[i] += std::exp(z[static_cast<std::size_t>(query - kept)]) / all / rows;
        }
      }
    }
  }
  for (const double share : {0.5, 0.99}) {
    exact.reach_low.push_back(nearest_rank(low, share));
    exact.reach_high.push_back(nearest_rank(high, share));
  }
  return exact;
}

bool is_near(double found, double wanted, double tolerance) {
  return std::abs(found - wanted) <= tolerance;
}

void compare(const Transport& transport, const HeadFigures& head, const ExactHead& exact,
             const AnalysisRequest& request) {
  expect(transport, is_near(*head.recency_ratio, exact.recency, 1e-5));
  expect(transport, is_near(*head.cog_negative_share, exact.negative, 1e-5));
  const bool by_weight = request.select == SparseSelect::kTopk;
  const std::vector<double>& kept = by_weight ? exact.kept_topk : exact.kept_window;
  expect(transport, head.kept_mass.size() == kept.size());
  expect(transport, head.kept_mass_error <= (by_weight ? 0.005 : 0.0));
  for (std::size_t i = 0; i < kept.size(); ++i) {
    expect(transport, is_near(head.kept_mass[i], kept[i], head.kept_mass_error + 1e-5));
  }
  expect(transport, exact.reach_low[0] <= head.reach[0].median && head.reach[0].median <= exact.reach_high[0]);
  expect(transport,
         exact.reach_low[1] <= head.reach[0].percentile_99 && head.reach[0].percentile_99 <= exact.reach_high[1]);
}

}  // namespace

TEST_CASE("every measure equals plain loops, whatever the number of ranks") {
  for (const double offset : {0.0, 3.0}) {
    for (const auto& [seq_len, type] : {std::pair{1, ElementType::kFloat64}, std::pair{3, ElementType::kFloat32},
                                        std::pair{141, ElementType::kBfloat16}}) {
      const AttentionProblem problem = make_problem(seq_len, type, offset);
      AnalysisRequest request;
      request.recency_window = 10;
      request.epsilons = {1e-2, 1e-4};
      request.exponents = {0.35, 0.5, 0.7};
      std::vector<ExactHead> exact;
      for (int head = 0; head < problem.num_heads; ++head) exact.push_back(exact_head(problem, request, head));
      for_each_world([&](Transport& transport) {
        const ScratchFile file(transport);
        write_input(file.path(), problem, transport);
        AnalysisRequest own = request;
        own.input = file.path();
        for (const SparseSelect select : {SparseSelect::kTopk, SparseSelect::kWindow}) {
          own.select = select;
          const Analysis analysis = analyze_over(own, transport);
          expect(transport, analysis.layers.size() == 1 && analysis.layers[0].heads.size() == 4);
          for (std::size_t head = 0; head < 4; ++head) {
            compare(transport, analysis.layers[0].heads[head], exact[head], own);
          }
        }
        transport.barrier();
      });
    }
  }
  SUCCEED();
}

TEST_CASE("a memory bound changes no figure, and one too small is refused") {
  const AttentionProblem problem = make_problem(600, ElementType::kFloat32, 1.0);
  for_each_world([&](Transport& transport) {
    const ScratchFile file(transport);
    write_input(file.path(), problem, transport);
    AnalysisRequest request;
    request.input = file.path();
    const Analysis roomy = analyze_over(request, transport);
    std::size_t bound = roomy.peak_bytes * 2;
    bool refused = false;
    for (int tighter = 0; tighter < 12 && !refused; ++tighter) {
      request.memory_bytes = bound;
      try {
        const Analysis tight = analyze_over(request, transport);
        expect(transport, tight.peak_bytes <= bound);
        for (std::size_t head = 0; head < 4; ++head) {
          const HeadFigures& a = tight.layers[0].heads[head];
          const HeadFigures& b = roomy.layers[0].heads[head];
          expect(transport, a.recency_ratio == b.recency_ratio && a.kept_mass == b.kept_mass);
          expect(transport, a.reach[0].median == b.reach[0].median);
        }
      } catch (const Error& error) {
        refused = error.code() == ExitCode::kBadInput && error.is_collective();
        if (!refused) throw;
      }
      bound -= bound / 4;
    }
    expect(transport, refused);
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("the real sample: short sticks where the model has stick-breaking") {
  for_each_world([&](Transport& transport) {
    AnalysisRequest request;
    request.input = kSample;
    request.epsilons = {1e-6};
    const Analysis analysis = analyze_over(request, transport);
    const std::vector<HeadFigures>& heads = analysis.layers.at(0).heads;
    for (const int head : {2, 3}) {
      const StickReach& reach = heads[static_cast<std::size_t>(head)].reach[0];
      expect(transport, reach.median >= 1 && reach.median <= 6 && reach.percentile_99 <= 190);
    }
    for (const HeadFigures& head : heads) {
      expect(transport, *head.recency_ratio > 0.0 && *head.recency_ratio <= 1.0);
      expect(transport, std::is_sorted(head.kept_mass.begin(), head.kept_mass.end()));
      expect(transport, *head.smallest_exponent > 0.0 && *head.smallest_exponent <= 1.0);
      expect(transport, *head.cog_negative_share >= 0.0 && *head.cog_negative_share < 1.0);
    }
    expect(transport, summarize(analysis).find("KV heads freed") != std::string::npos);
    expect(transport, to_json(analysis).find("\"smallest_exponent_95\"") != std::string::npos);
  });
  SUCCEED();
}

TEST_CASE("quantiles over ranks are exact") {
  for_each_world([&](Transport& transport) {
    // 0, 1, ..., 99 dealt out; a list that one rank alone has; an empty one.
    std::vector<std::vector<std::int64_t>> lists(3);
    for (int value = transport.rank(); value < 100; value += transport.world_size()) lists[0].push_back(value);
    if (transport.rank() == 0) lists[1] = {7, 7, 1'000'000'007};
    expect(transport, select_quantiles(lists, 0.5, transport) == std::vector<std::int64_t>{49, 7, 0});
    expect(transport, select_quantiles(lists, 0.99, transport) == std::vector<std::int64_t>{98, 1'000'000'007, 0});
  });
  SUCCEED();
}

TEST_CASE("a proposal covers every head and frees a KV head only with all its query heads") {
  Analysis analysis;
  analysis.request.input = "a.h5";
  analysis.request.write_config = "hybrid.ini";
  LayerAnalysis layer;
  layer.shape.name = "0";
  layer.shape.num_heads = 6;
  layer.shape.num_kv_heads = 3;
  const double ratios[] = {0.95, 0.2, 0.9, 1.0, 0.5, std::nan("")};
  for (int head = 0; head < 6; ++head) {
    HeadFigures figures;
    figures.head = head;
    figures.kv_head = head / 2;
    figures.recency_ratio = ratios[head];
    layer.heads.push_back(figures);
  }
  analysis.layers = {layer};
  HybridProposal proposal = propose_hybrids(analysis).at(0);
  REQUIRE(proposal.replaced == std::vector<int>{0, 2, 3});
  REQUIRE(proposal.kept == std::vector<int>{1, 4, 5});
  REQUIRE(proposal.freed_kv_heads == std::vector<int>{1});
  REQUIRE(config_path(analysis, proposal) == "hybrid.ini");

  std::set<int> heads;
  for (const Setting& setting : parse_settings(config_text(analysis, proposal), "proposal")) {
    if (setting.name == "heads.linear" || setting.name == "heads.softmax") {
      for (const int head : parse_head_list(setting.value)) REQUIRE(heads.insert(head).second);
    }
  }
  REQUIRE(heads == std::set<int>{0, 1, 2, 3, 4, 5});
  // What it proposes, run takes as it is.
  const RunConfig hybrid = parse_run_config(config_text(analysis, proposal));
  REQUIRE(hybrid.assignments.size() == 2);
  for (const HeadAssignment& assignment : hybrid.assignments) {
    REQUIRE(assignment.heads == (carries_state(assignment.mechanism) ? proposal.replaced : proposal.kept));
  }

  analysis.request.recency_threshold = 1.0;
  analysis.layers[0].heads[3].recency_ratio = 0.5;
  analysis.layers.push_back(analysis.layers[0]);
  analysis.layers[1].shape.name = "1";
  proposal = propose_hybrids(analysis).at(1);
  REQUIRE(config_path(analysis, proposal) == "hybrid.1.ini");
  const RunConfig config = parse_run_config(config_text(analysis, proposal));
  REQUIRE(config.layers == "1");
  REQUIRE(config.output == "a.hybrid.1.h5");
  REQUIRE(config.assignments.size() == 1);
  REQUIRE(config.assignments[0].heads == std::vector<int>{0, 1, 2, 3, 4, 5});
}

TEST_CASE("options of analyze that cannot be are refused in one line") {
  const auto message = [](std::vector<Setting> settings) -> std::string {
    settings.push_back({"input", "a.h5", "--input"});
    try {
      make_analysis_request(settings);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const auto given = [](const char* name, const char* value) {
    return std::vector<Setting>{{name, value, std::string("--") + name}};
  };
  REQUIRE(message({}).empty());
  REQUIRE(message(given("epsilons", "1e-3,1e-3")) ==
          "--epsilons: found '1e-3,1e-3', want a list of one to four different numbers over 0 and under 1");
  REQUIRE_FALSE(message(given("epsilons", "0")).empty());
  REQUIRE_FALSE(message(given("epsilons", "0.1,0.2,0.3,0.4,0.5")).empty());
  REQUIRE_FALSE(message(given("exponents", "1.5")).empty());
  REQUIRE_FALSE(message(given("recency-threshold", "1.5")).empty());
  REQUIRE_FALSE(message(given("recency-window", "-1")).empty());
  REQUIRE(message(given("measures", "reach,speed")) ==
          "--measures: found 'reach,speed', want a list of recency, reach, kept-mass, sign-balance");
  REQUIRE(message(given("replace-with", "cog")) == "--replace-with: found 'cog', want linear or mamba");
  REQUIRE(message(given("plot", "a.pdf")) == "--plot: found 'a.pdf', want a file name that ends in .png");
  REQUIRE(message(given("report", "./a.h5")).find("which is the input too") != std::string::npos);
  REQUIRE(message({{"write-config", "b.ini", "--write-config"}, {"measures", "reach", "--measures"}})
              .find("want recency among the measures") != std::string::npos);
  REQUIRE(message(given("recency-windw", "3")).find("did you mean recency-window?") != std::string::npos);
}
