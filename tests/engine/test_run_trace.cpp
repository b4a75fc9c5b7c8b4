// The timeline of a whole job: compiled once with ranks as threads and once under mpirun.

#include "engine/run_trace.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>

#include "core/rank_group.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/engine/job.hpp"
#include "tests/engine/problem_file.hpp"
#include "tests/support/attention_problem.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::testing;
using ringscan::test::expect;
using ringscan::test::Folder;
using ringscan::test::for_each_world;
using ringscan::test::make_context;
using ringscan::test::write_input;
using Json = nlohmann::json;

namespace {

constexpr double kRounding_us = 2e-3;  // of nanoseconds, at either end

AttentionProblem make_problem(std::uint32_t seed) {
  AttentionProblem problem;
  problem.seq_len = 1203;
  problem.num_heads = 4;
  problem.num_kv_heads = 2;
  problem.head_dim = 16;
  problem.v_dim = 24;
  problem.type = ElementType::kFloat32;
  problem.seed = seed;
  problem.fill();
  return problem;
}

RunConfig make_config(const Folder& folder) {
  RunConfig config;
  config.input = folder.file("in.h5");
  config.output = folder.file("out.h5");
  config.assignments = {
      {SoftmaxParams{}, {0}}, {StickBreakingParams{}, {1}}, {LinearParams{}, {2}}, {SparseParams{}, {3}}};
  return config;
}

/// Rank 0's reading of the file.
struct Timeline {
  std::map<std::pair<int, int>, std::vector<Json>> threads;   ///< (process, thread) -> spans as the file has them
  std::map<std::pair<int, std::string>, double> seconds;      ///< (process, category) -> sum, less polling
  std::map<int, std::vector<std::pair<double, Json>>> tiles;  ///< process -> (time, values)
  std::map<int, std::int64_t> dropped;                        ///< by process
  double clock_error = 0.0;                                   ///< seconds; the largest of any process

  explicit Timeline(const std::string& path) {
    std::ifstream in(path);
    const Json file = Json::parse(in);
    for (const Json& event : file.at("traceEvents")) {
      const auto process = event.at("pid").get<int>();
      if (event.at("ph") == "X") {
        threads[{process, event.at("tid").get<int>()}].push_back(event);
        const double polled_us = event.at("args").value("moving_transfers_us", 0.0);
        seconds[{process, event.at("cat").get<std::string>()}] += (event.at("dur").get<double>() - polled_us) * 1e-6;
      } else if (event.at("ph") == "C") {
        tiles[process].emplace_back(event.at("ts").get<double>(), event.at("args"));
      } else if (event.at("name") == "rank") {
        dropped[process] = event.at("args").at("dropped_events").get<std::int64_t>();
        clock_error = std::max(clock_error, event.at("args").at("clock_error_us").get<double>() * 1e-6);
      }
    }
  }

  /// Each span lies wholly inside or wholly behind those before it.
  bool nests() const {
    for (const auto& [thread, spans] : threads) {
      std::vector<double> open_until;
      for (const Json& span : spans) {
        const double begin = span.at("ts"), end = begin + span.at("dur").get<double>();
        while (!open_until.empty() && open_until.back() <= begin + kRounding_us) open_until.pop_back();
        if (!open_until.empty() && end > open_until.back() + kRounding_us) return false;
        open_until.push_back(end);
      }
    }
    return true;
  }

  double largest(const std::string& category) const {
    double most = 0.0;
    for (const auto& [key, sum] : seconds) {
      if (key.second == category) most = std::max(most, sum);
    }
    return most;
  }
};

/// The file's times are rank 0's: a job's length, and so at most any sum within it, is off by the error of its two
/// readings of the clocks.
bool is_near(const Timeline& timeline, const std::string& category, double wanted) {
  std::size_t spans = 0;
  for (const auto& [thread, of_thread] : timeline.threads) spans += of_thread.size();
  const double rounding = 1e-6 * kRounding_us * static_cast<double>(spans) + 1e-6 * wanted;
  return std::abs(timeline.largest(category) - wanted) <= rounding + 2.0 * timeline.clock_error;
}

}  // namespace

TEST_CASE("a timeline has the spans of every rank, and they sum up to the report's seconds") {
  const std::vector<AttentionProblem> layers{make_problem(1), make_problem(2)};
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), layers, transport);
    RunTrace trace(transport);
    RunContext context = make_context(transport);
    context.transport = &trace.transport();
    const RunReport report = run(make_config(folder), context);
    trace.write(folder.file("trace.json"));
    expect(transport, folder.files() == 3);  // nothing temporary is left
    run_collectively(transport, [&] {
      if (transport.rank() != 0) return;
      const Timeline timeline(folder.file("trace.json"));
      expect(transport, timeline.nests());
      std::set<std::string> wanted{"compute", "finish", "staging", "wait", "read", "write", "group"};
      for (const char* category : {"send", "receive"}) {
        if (transport.world_size() > 1) wanted.insert(category);
      }
      for (int rank = 0; rank < transport.world_size(); ++rank) {
        for (const std::string& category : wanted) {
          expect(transport, timeline.seconds.contains(std::pair(rank, category)));
        }
        expect(transport, timeline.dropped.at(rank) == 0);
      }
      expect(transport, is_near(timeline, "compute", report.compute_seconds));
      expect(transport, is_near(timeline, "finish", report.finish_seconds));
      expect(transport, is_near(timeline, "read", report.read_seconds));
      expect(transport, is_near(timeline, "write", report.write_seconds));
      std::int64_t computed = 0, skipped = 0;
      for (const auto& [process, samples] : timeline.tiles) {
        for (std::size_t i = 1; i < samples.size(); ++i) {
          expect(transport, samples[i].first >= samples[i - 1].first);
          expect(transport, samples[i].second.at("computed") >= samples[i - 1].second.at("computed"));
          expect(transport, samples[i].second.at("skipped") >= samples[i - 1].second.at("skipped"));
        }
        computed += samples.back().second.at("computed").get<std::int64_t>();
        skipped += samples.back().second.at("skipped").get<std::int64_t>();
      }
      expect(transport, computed == report.stats.tiles_computed);
      expect(transport, skipped == report.stats.tiles_skipped);
    });
  });
  SUCCEED();
}

TEST_CASE("a transfer ends at its receiver no sooner than the sender began, by one clock") {
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    const int next = (transport.rank() + 1) % transport.world_size();
    const int prev = (transport.rank() + transport.world_size() - 1) % transport.world_size();
    if (transport.world_size() == 1) return;
    RunTrace trace(transport);
    std::vector<std::byte> out(1 << 16), in(1 << 16);
    for (int i = 0; i < 20; ++i) trace.transport().exchange({next, out, prev, in}).wait();
    trace.write(folder.file("trace.json"));
    run_collectively(transport, [&] {
      if (transport.rank() != 0) return;
      const Timeline timeline(folder.file("trace.json"));
      for (int rank = 0; rank < transport.world_size(); ++rank) {
        const std::vector<Json>& sends = timeline.threads.at({rank, 100});
        const std::vector<Json>& receives = timeline.threads.at({(rank + 1) % transport.world_size(), 200});
        expect(transport, sends.size() == 20 && receives.size() == 20);
        for (std::size_t i = 0; i < 20; ++i) {
          const double received = receives[i].at("ts").get<double>() + receives[i].at("dur").get<double>();
          constexpr double kClockError_us = 1e4;  // far over any that a loaded machine has shown
          expect(transport, received + kClockError_us >= sends[i].at("ts").get<double>());
          expect(transport, sends[i].at("args").at("bytes") == out.size());
        }
      }
    });
  });
  SUCCEED();
}

TEST_CASE("a timeline that is full says how much it has left out, and one that cannot be written is an error of all") {
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    write_input(folder.file("in.h5"), {make_problem(3)}, transport);
    RunTrace trace(transport, 10);
    RunContext context = make_context(transport);
    context.transport = &trace.transport();
    run(make_config(folder), context);
    std::string message;
    try {
      trace.write(folder.file("nowhere/trace.json"));
    } catch (const Error& error) {
      message = error.what();
    }
    expect(transport, message.find("nowhere/trace.json: cannot be written") != std::string::npos);
    trace.write(folder.file("trace.json"));
    run_collectively(transport, [&] {
      if (transport.rank() != 0) return;
      for (const auto& [process, dropped] : Timeline(folder.file("trace.json")).dropped) expect(transport, dropped > 0);
    });
  });
  SUCCEED();
}
