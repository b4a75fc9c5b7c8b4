// ringscan plan: how long a run would take on a cluster, from a profile.

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <tuple>

#include "apps/commands.hpp"
#include "apps/gnuplot.hpp"
#include "apps/plan_plot.hpp"
#include "core/units.hpp"
#include "engine/cost_profile.hpp"
#include "engine/synthetic_plan.hpp"
#include "io/report.hpp"

namespace ringscan {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kWantedEfficiency = 0.8;
constexpr const char* kLinkForm = "MICROSECONDS,GB_A_SECOND";

CostProfile read_profile(const PlanOptions& options) {
  std::ifstream file(options.profile);
  if (!file) throw bad_input("--profile: cannot read " + options.profile);
  std::ostringstream text;
  text << file.rdbuf();
  CostProfile profile = parse_cost_profile(text.str(), options.profile);
  if (options.inside) profile.inside = options.inside;
  if (options.between) profile.between = options.between;
  if (options.files) std::tie(profile.read_bytes_per_second, profile.write_bytes_per_second) = *options.files;
  return profile;
}

class Planner {
 public:
  explicit Planner(const PlanOptions& options)
      : options_(options), profile_(read_profile(options)), kernels_(make_cpu_kernels()) {
    const bool is_cuda = profile_.backend == "cuda";
    per_node_ = options.ranks_per_node > 0 ? options.ranks_per_node : profile_.cores;
    cores_ = options.cores > 0 ? options.cores : (is_cuda ? per_node_ : profile_.cores);
    const double memory =
        options.config.memory_bytes ? static_cast<double>(*options.config.memory_bytes) : profile_.memory_bytes;
    memory_ = memory > 0.0 ? static_cast<std::size_t>(memory) : std::size_t{1} << 60;
  }

  void run() {
    for (const std::int64_t seq_len : options_.seq_lens) {
      double base = 0.0;
      for (const int world : options_.worlds) {
        PlanPoint point = plan(world, seq_len);
        if (point.fits) {
          const double rank_seconds = point.prediction.seconds * world;
          if (base == 0.0) base = rank_seconds;
          point.efficiency = base / rank_seconds;
        }
        points_.push_back(point);
      }
    }
  }

  std::string text() const;
  std::string json() const;
  const std::vector<PlanPoint>& points() const { return points_; }
  std::string title() const;

 private:
  LayerShape layer_of(std::int64_t seq_len) const {
    LayerShape layer = options_.layer;
    layer.seq_len = seq_len;
    return layer;
  }

  ClusterShape shape_of(int world) const {
    ClusterShape shape;
    shape.world_size = world;
    shape.ranks_per_node = per_node_;
    shape.cores_per_node = cores_;
    shape.nics_per_node = options_.nics;
    if (profile_.inside) {
      shape.inside = *profile_.inside;
    } else if (std::min(world, per_node_) > 1) {
      throw bad_input("the profile has no link inside a node, as one rank measured it: want --link.inside " +
                      std::string(kLinkForm));
    }
    if (profile_.between) {
      shape.between = *profile_.between;
    } else if (shape.nodes() > 1) {
      throw bad_input(std::to_string(world) + " ranks on " + std::to_string(shape.nodes()) +
                      " nodes: the profile has no link between nodes, want --link.between " + kLinkForm +
                      ", or --ranks-per-node for ranks of one node");
    }
    return shape;
  }

  RunPlan run_plan(int world, std::int64_t seq_len, std::size_t memory) const {
    return make_synthetic_plan(options_.config, layer_of(seq_len), options_.sizes, {world, memory, true}, *kernels_);
  }

  PlanPoint plan(int world, std::int64_t seq_len) const {
    PlanPoint point;
    point.world = world;
    point.seq_len = seq_len;
    const ClusterShape shape = shape_of(world);
    RunPlan plan;
    try {
      plan = run_plan(world, seq_len, memory_);
      point.fits = true;
    } catch (const Error&) {
      plan = run_plan(world, seq_len, std::size_t{1} << 62);  // another error is told
      if (plan.memory.total() <= memory_) throw;
    }
    point.memory_bytes = plan.memory.total();
    const auto note = [&](const SequenceLayout& layout) {
      const std::string kind(name_of(layout.kind()));
      if (point.layout.find(kind) == std::string::npos) point.layout += (point.layout.empty() ? "" : "+") + kind;
    };
    for (const ShardPlan& shard : plan.shards) note(shard.layout);
    for (const BlockPlan& block : plan.blocks) note(block.layout);
    if (point.fits) point.prediction = predict({&plan, &options_.config, &profile_, shape, options_.reach, 2});
    return point;
  }

  bool fits(int world, std::int64_t seq_len) const {
    try {
      run_plan(world, seq_len, memory_);
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  /// The largest multiple of 1024 tokens that fits, within a percent; 0: not even 1024.
  std::int64_t largest_context(int world) const {
    std::int64_t most = 0;
    std::int64_t too_many = 1;  // of 1024 tokens
    while (fits(world, too_many * 1024) && too_many < (std::int64_t{1} << 34)) {
      most = too_many;
      too_many *= 2;
    }
    while (too_many - most > std::max<std::int64_t>(1, most / 100)) {
      const std::int64_t middle = (most + too_many) / 2;
      (fits(world, middle * 1024) ? most : too_many) = middle;
    }
    return most * 1024;
  }

  std::string table() const;
  std::string detail(const PlanPoint& point) const;
  std::string names() const;
  const PlanPoint* first_under(std::int64_t seq_len) const;

  const PlanOptions& options_;
  CostProfile profile_;
  std::unique_ptr<Kernels> kernels_;
  int per_node_ = 1;
  int cores_ = 1;
  std::size_t memory_ = 0;
  std::vector<PlanPoint> points_;
};

std::string Planner::title() const {
  std::string mechanisms;
  for (const HeadAssignment& assignment : options_.config.assignments) {
    mechanisms += (mechanisms.empty() ? "" : " + ") + std::string(name_of(assignment.mechanism));
  }
  for (const BlockAssignment& block : options_.config.blocks) {
    mechanisms += (mechanisms.empty() ? "" : " + ") + std::string(name_of(block.mechanism));
  }
  return mechanisms + ", " + std::to_string(options_.layer.num_heads) + " heads of " +
         std::to_string(options_.layer.head_dim) + ", " + std::string(name_of(options_.layer.kv_type)) + ", " +
         std::to_string(per_node_) + " ranks a node";
}

std::string Planner::table() const {
  std::string text = printed("%6s %12s %10s %10s %10s %10s %10s %12s %10s %10s %9s %9s %6s  %s\n", "ranks", "tokens",
                             "seconds", "compute", "exposed", "finish", "files", "memory/rank", "inside GB",
                             "between GB", "TFLOP/s/r", "steps", "eff", "binds");
  for (const PlanPoint& point : points_) {
    const Prediction& p = point.prediction;
    if (!point.fits) {
      text += printed("%6d %12lld  does not fit: %s a rank, and a rank has %s\n", point.world,
                      static_cast<long long>(point.seq_len), human_bytes(point.memory_bytes).c_str(),
                      human_bytes(memory_).c_str());
      continue;
    }
    text += printed("%6d %12lld %10.4g %10.4g %10.4g %10.4g %10.4g %12s %10.4g %10.4g %9.3g %9d %6.3f  %s\n",
                    point.world, static_cast<long long>(point.seq_len), p.seconds, p.compute_seconds, p.exposed_seconds,
                    p.finish_seconds, p.read_seconds + p.write_seconds, human_bytes(point.memory_bytes).c_str(),
                    p.inside_bytes * 1e-9, p.between_bytes * 1e-9, p.flops / p.seconds / point.world * 1e-12,
                    p.steps_taken, point.efficiency, p.binds.c_str());
  }
  return text;
}

std::string Planner::detail(const PlanPoint& point) const {
  if (!point.fits) return "";
  const Prediction& p = point.prediction;
  const Prediction::Shares& s = p.shares;
  const Chain& c = p.chain;
  return printed(
      "\nlayout %s; %d steps, %d saved by early exit; slowest rank %d\n"
      "rank seconds: %.1f %% useful, %.1f %% kernels crowded on a node, %.1f %% calls and rows, %.1f %% waiting for "
      "processors, %.1f %% exposed, %.1f %% "
      "finish, %.1f %% idle, %.1f %% files\n"
      "longest chain: began on rank %d, %d hops: %.4g s computing, %.4g s links inside nodes, %.4g s links between "
      "nodes, %.4g s sums over all ranks, %.4g s finish\n"
      "largest loss: %s\n",
      point.layout.c_str(), p.steps_taken, p.steps_saved, p.slowest_rank, 100 * s.useful, 100 * s.crowding,
      100 * s.small, 100 * s.sharing, 100 * s.exposed, 100 * s.finish, 100 * s.idle, 100 * s.files, c.first_rank,
      c.hops, c.compute, c.inside, c.between, c.agree, c.finish, p.largest_loss.c_str());
}

const PlanPoint* Planner::first_under(std::int64_t seq_len) const {
  for (const PlanPoint& point : points_) {
    if (point.seq_len == seq_len && point.fits && point.efficiency < kWantedEfficiency) return &point;
  }
  return nullptr;
}

std::string Planner::names() const {
  std::string text = "\n";
  const int most = options_.worlds.back();
  for (const int world : {options_.worlds.front(), most}) {
    text += printed("largest context that fits %d ranks: %lld tokens\n", world,
                    static_cast<long long>(largest_context(world)));
    if (options_.worlds.front() == most) break;
  }
  for (const std::int64_t seq_len : options_.seq_lens) {
    const PlanPoint* point = first_under(seq_len);
    text += point == nullptr
                ? printed("%lld tokens: efficiency stays at 80 %% or more to %d ranks\n",
                          static_cast<long long>(seq_len), most)
                : printed("%lld tokens: efficiency falls under 80 %% at %d ranks (%.3f); what binds there: %s\n",
                          static_cast<long long>(seq_len), point->world, point->efficiency,
                          point->prediction.largest_loss.c_str());
  }
  return text;
}

std::string Planner::text() const {
  std::string text =
      title() + "; " + profile_.backend + ", " + profile_.device + "; a prediction, of one layer\n\n" + table();
  if (points_.size() == 1) text += detail(points_.front());
  if (options_.sweep) text += names();
  return text;
}

Json json_of(const PlanPoint& point) {
  const Prediction& p = point.prediction;
  Json json{{"ranks", point.world},
            {"seq_len", point.seq_len},
            {"fits", point.fits},
            {"layout", point.layout},
            {"memory_bytes", point.memory_bytes}};
  if (!point.fits) return json;
  json["seconds"] = {
      {"total", p.seconds},         {"compute", p.compute_seconds}, {"exposed_communication", p.exposed_seconds},
      {"finish", p.finish_seconds}, {"read", p.read_seconds},       {"write", p.write_seconds}};
  json["bytes"] = {{"inside_nodes", p.inside_bytes}, {"between_nodes", p.between_bytes}};
  json["steps_taken"] = p.steps_taken;
  json["steps_saved"] = p.steps_saved;
  json["useful_flops"] = p.flops;
  json["tflops_a_rank"] = p.flops / p.seconds / point.world * 1e-12;
  json["efficiency"] = point.efficiency;
  json["binds"] = p.binds;
  json["largest_loss"] = p.largest_loss;
  json["shares"] = {{"useful", p.shares.useful},
                    {"crowding", p.shares.crowding},
                    {"calls_and_rows", p.shares.small},
                    {"shared_processors", p.shares.sharing},
                    {"exposed", p.shares.exposed},
                    {"finish", p.shares.finish},
                    {"idle", p.shares.idle},
                    {"files", p.shares.files}};
  json["longest_chain"] = {{"slowest_rank", p.slowest_rank}, {"first_rank", p.chain.first_rank},
                           {"hops", p.chain.hops},           {"compute", p.chain.compute},
                           {"inside", p.chain.inside},       {"between", p.chain.between},
                           {"agree", p.chain.agree},         {"finish", p.chain.finish}};
  return json;
}

std::string Planner::json() const {
  Json json{{"prediction", title()},
            {"backend", profile_.backend},
            {"device", profile_.device},
            {"configuration", options_.config.text()},
            {"points", Json::array()}};
  for (const PlanPoint& point : points_) json["points"].push_back(json_of(point));
  if (!options_.sweep) return json.dump(1);
  for (const int world : options_.worlds) {
    json["largest_context"].push_back({{"ranks", world}, {"tokens", largest_context(world)}});
  }
  for (const std::int64_t seq_len : options_.seq_lens) {
    const PlanPoint* point = first_under(seq_len);
    json["under_80_percent"].push_back({{"seq_len", seq_len},
                                        {"ranks", point == nullptr ? Json() : Json(point->world)},
                                        {"largest_loss", point == nullptr ? "" : point->prediction.largest_loss}});
  }
  return json.dump(1);
}

}  // namespace

int plan_command(Job& job, const PlanOptions& options) {
  for (const std::string& file : {options.json, options.plot}) check_report_path(job.transport, file);
  std::string json;
  run_collectively(job.transport, [&] {
    if (!job.is_root()) return;
    if (!options.plot.empty()) require_gnuplot();
    Planner planner(options);
    planner.run();
    std::fputs(planner.text().c_str(), stdout);
    if (!options.json.empty()) json = planner.json();
    const auto& points = planner.points();
    if (options.plot.empty()) return;
    if (std::none_of(points.begin(), points.end(), [](const PlanPoint& point) { return point.fits; })) {
      throw bad_input("--plot: no point fits in memory, there is nothing to draw");
    }
    draw_with_gnuplot([&](const std::string& partial) { return plan_plot_script(points, planner.title(), partial); },
                      options.plot);
  });
  if (!options.json.empty()) write_json_file(job.transport, options.json, json);
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace ringscan
