#include "engine/run_report.hpp"

#include <nlohmann/json.hpp>
#include <sstream>

#include "core/units.hpp"

namespace ringscan {
namespace {

using Json = nlohmann::ordered_json;

Json plan_json(const RunPlan& plan) {
  Json shards = Json::array();
  for (const ShardPlan& shard : plan.shards) {
    Json passes = Json::array();
    for (const PassPlan& pass : shard.passes) {
      Json groups = Json::array();
      for (const HeadGroup& group : pass.groups)
        groups.push_back({{"heads", group.heads}, {"kv_heads", group.kv_heads}});
      passes.push_back({{"mechanism", name_of(pass.mechanism)},
                        {"scale", pass.scale},
                        {"head_groups", groups},
                        {"ring_steps", pass.ring_steps},
                        {"pairs", pass.pairs},
                        {"flops", pass.flops},
                        {"moved_bytes", pass.moved_bytes},
                        {"context_tokens", pass.context_tokens},
                        {"context_bytes", pass.context_bytes}});
    }
    shards.push_back({{"layer", plan.layers[static_cast<std::size_t>(shard.layer)].name},
                      {"layout", name_of(shard.layout.kind())},
                      {"max_tokens_a_rank", shard.layout.max_local_tokens()},
                      {"heads", shard.heads},
                      {"passes", passes}});
  }
  Json blocks = Json::array();
  for (const BlockPlan& block : plan.blocks) {
    const ChelaShape& chela = block.shape.chela.shape;
    blocks.push_back({{"layer", block.shape.layer},
                      {"mechanism", name_of(block.shape.mechanism)},
                      {"heads", block.shape.heads},
                      {"batch", block.shape.batch},
                      {"seq_len", block.shape.seq_len},
                      {"channels", block.shape.channels},
                      {"d_state", block.shape.d_state},
                      {"channels_at_once", block.block_channels},
                      {"flops", block.flops}});
    if (!std::holds_alternative<ChelaParams>(block.shape.mechanism)) continue;
    blocks.back()["taps"] = {chela.short_width, chela.long_width};
    blocks.back()["attention_heads"] = chela.num_heads;
  }
  LayerShape first = plan.layers.empty() ? LayerShape{} : plan.layers.front();
  if (plan.layers.empty() && !plan.blocks.empty()) {
    first.batch = plan.blocks.front().shape.batch;
    first.seq_len = plan.blocks.front().shape.seq_len;
  }
  return {{"world_size", plan.world_size},
          {"batch", first.batch},
          {"seq_len", first.seq_len},
          {"context_tokens", first.context_tokens()},
          {"num_heads", first.num_heads},
          {"num_kv_heads", first.num_kv_heads},
          {"head_dim", first.head_dim},
          {"v_dim", first.v_dim},
          {"layers", plan.layers.size()},
          {"key_block", plan.key_block},
          {"context_block", plan.context_block},
          {"io", plan.overlaps_io ? "overlapped" : "in order"},
          {"pairs", plan.pairs()},
          {"flops", plan.flops()},
          {"moved_bytes", plan.moved_bytes()},
          {"memory",
           {{"limit_bytes", plan.memory_limit_bytes},
            {"total_bytes", plan.memory.total()},
            {"input_bytes", plan.memory.input_bytes},
            {"output_bytes", plan.memory.output_bytes},
            {"kv_buffers_bytes", plan.memory.kv_bytes},
            {"accumulators_bytes", plan.memory.partial_bytes},
            {"scratch_bytes", plan.memory.scratch_bytes},
            {"context_bytes", plan.memory.context_bytes}}},
          {"shards", shards},
          {"blocks", blocks}};
}

Json kept_mass_json(const KeptMassFigures& mass) {
  if (mass.rows == 0) return nullptr;
  return {{"mean", mass.sum / static_cast<double>(mass.rows)},
          {"min", mass.min},
          {"error_bound", mass.error_bound},
          {"rows", mass.rows}};
}

Json figures_json(const RunReport& report) {
  const double io_checked = report.is_parallel_io ? 1.0 : 0.0;
  return {{"seconds",
           {{"total", report.total_seconds},
            {"read", report.read_seconds},
            {"read_exposed", report.read_wait_seconds},
            {"compute", report.compute_seconds},
            {"exposed_communication", report.exposed_seconds},
            {"staging", report.staging_seconds},
            {"finish", report.finish_seconds},
            {"write", report.write_seconds},
            {"write_exposed", report.write_wait_seconds},
            {"context_exposed", report.context_wait_seconds}}},
          {"computed_flops", report.computed_flops},
          {"tflops", report.tflops()},
          {"pairs_computed", report.stats.pairs},
          {"tiles_computed", report.stats.tiles_computed},
          {"tiles_skipped", report.stats.tiles_skipped},
          {"kept_mass", kept_mass_json(report.kept_mass)},
          {"ring_steps_taken", report.steps_taken},
          {"ring_steps_saved", report.steps_saved},
          {"bytes", {{"moved", report.sent_bytes}, {"read", report.read_bytes}, {"written", report.written_bytes}}},
          {"context",
           {{"blocks_read", report.context_blocks.blocks_read},
            {"blocks_not_read", report.context_blocks.blocks_left},
            {"bytes", report.context_bytes}}},
          {"io_is_collective", io_checked > 0.0 ? Json(report.not_collective == 0) : Json(nullptr)},
          {"memory",
           {{"peak_bytes", report.peak_bytes},
            {"resident_bytes", report.resident_bytes},
            {"device_peak_bytes", report.device_peak_bytes}}}};
}

std::string pass_heads(const PassPlan& pass) {
  std::vector<int> heads;
  for (const HeadGroup& group : pass.groups) heads.insert(heads.end(), group.heads.begin(), group.heads.end());
  return human_ranges(heads);
}

}  // namespace

std::string to_json(const RunReport& report) {
  Json json{{"program", "ringscan"},         {"version", RINGSCAN_VERSION},
            {"started", report.started},     {"configuration", report.config.text()},
            {"transport", report.transport}, {"backend", report.backend},
            {"device", report.device},       {"plan", plan_json(report.plan)}};
  json["resume"] = {
      {"stopped", report.stopped}, {"heads_found", report.heads_found}, {"blocks_found", report.blocks_found}};
  if (report.finished || report.stopped) json.update(figures_json(report));
  return json.dump(2) + "\n";
}

std::string describe(const RunPlan& plan) {
  std::ostringstream out;
  for (const ShardPlan& shard : plan.shards) {
    const LayerShape& layer = plan.layers[static_cast<std::size_t>(shard.layer)];
    out << (layer.name.empty() ? "activations" : "layer " + layer.name) << ": batch " << layer.batch << ", "
        << layer.seq_len << " tokens, " << layer.num_heads << " heads (" << layer.num_kv_heads << " kv), head_dim "
        << layer.head_dim << ", v_dim " << layer.v_dim << ", " << name_of(layer.kv_type) << " -> "
        << name_of(layer.o_type) << "\n";
    if (const std::int64_t context = layer.context_tokens(); context > 0) {
      out << "  behind a context of " << context << " tokens, met in blocks of " << plan.context_block << "\n";
    }
    for (const PassPlan& pass : shard.passes) {
      out << "  " << name_of(pass.mechanism) << " heads " << pass_heads(pass) << ": " << name_of(shard.layout.kind())
          << ", at most " << shard.layout.max_local_tokens() << " tokens a rank, " << pass.groups.size()
          << (pass.groups.size() == 1 ? " head group, " : " head groups, ") << pass.ring_steps
          << (carries_state(pass.mechanism) ? " scan" : " ring") << (pass.ring_steps == 1 ? " step, " : " steps, ")
          << printed("%.3g TFLOP", pass.flops * 1e-12) << ", " << human_bytes(pass.moved_bytes)
          << (carries_state(pass.mechanism) ? " of states moved" : " of KV moved");
      if (pass.context_tokens > 0) {
        out << ", " << human_bytes(pass.context_bytes) << " of " << pass.context_tokens << " context tokens read";
      }
      out << "\n";
    }
  }
  for (const BlockPlan& block : plan.blocks) out << describe(block) << "\n";
  const MemoryPlan& memory = plan.memory;
  out << "memory a rank: " << human_bytes(memory.total()) << " (q, k, v " << human_bytes(memory.input_bytes) << ", o "
      << human_bytes(memory.output_bytes) << ", KV buffers " << human_bytes(memory.kv_bytes) << ", accumulators "
      << human_bytes(memory.partial_bytes) << ", scratch " << human_bytes(memory.scratch_bytes);
  if (memory.context_bytes > 0) out << ", context " << human_bytes(memory.context_bytes);
  out << ") of " << human_bytes(plan.memory_limit_bytes) << "\n";
  out << "reading and writing: " << (plan.overlaps_io ? "beside computing" : "in order, before and after computing")
      << "\n";
  return out.str();
}

std::string describe_start(const RunReport& report) {
  std::ostringstream out;
  if (report.heads_found + report.blocks_found > 0) {
    out << "resumed: " << report.heads_found << " heads and " << report.blocks_found
        << " blocks were complete; what is left:\n";
  }
  out << describe(report.plan);
  return out.str();
}

std::string summarize(const RunReport& report) {
  std::ostringstream out;
  if (!report.finished && !report.stopped) return out.str();
  const auto line = [&](const char* name, double seconds, const std::string& more) {
    out << printed("  %-10s %10s", name, human_seconds(seconds).c_str()) << (more.empty() ? "" : "   " + more) << "\n";
  };
  const auto exposed = [](double seconds) { return human_seconds(seconds) + " not hidden"; };
  out << report.plan.world_size << (report.plan.world_size == 1 ? " rank, " : " ranks, ") << report.transport
      << " transport, " << report.backend << " backend (" << report.device << ")\n";
  line("read", report.read_seconds, human_bytes(report.read_bytes) + ", " + exposed(report.read_wait_seconds));
  line("compute", report.compute_seconds,
       printed("%.3f TFLOP/s together (%.1f GFLOP/s a rank)", report.tflops(),
               report.tflops() * 1e3 / report.plan.world_size));
  line("exchange", report.exposed_seconds,
       human_bytes(report.sent_bytes) + " moved; the time is what computing did not hide");
  if (report.device_peak_bytes > 0) line("staging", report.staging_seconds, "to the GPU and back");
  line("finish", report.finish_seconds, "");
  line("write", report.write_seconds, human_bytes(report.written_bytes) + ", " + exposed(report.write_wait_seconds));
  line("total", report.total_seconds, "");
  const std::int64_t tiles = report.stats.tiles_computed + report.stats.tiles_skipped;
  out << "tiles: " << report.stats.tiles_computed << " computed, " << report.stats.tiles_skipped << " skipped"
      << printed(" (%.1f %%)",
                 tiles > 0 ? 100.0 * static_cast<double>(report.stats.tiles_skipped) / static_cast<double>(tiles) : 0.0)
      << "; ring steps: " << report.steps_taken << " taken, " << report.steps_saved << " saved\n";
  if (const ContextFigures& context = report.context_blocks; context.blocks_read + context.blocks_left > 0) {
    out << "context: " << context.blocks_read << " blocks read, " << context.blocks_left << " not needed; "
        << human_bytes(report.context_bytes) << " a rank, " << exposed(report.context_wait_seconds) << "\n";
  }
  if (const KeptMassFigures& mass = report.kept_mass; mass.rows > 0) {
    out << printed("kept mass: mean %.4f, least %.4f; no row of o is further than %.3g from dense softmax\n",
                   mass.sum / static_cast<double>(mass.rows), mass.min, mass.error_bound);
  }
  out << "memory: at most " << human_bytes(report.peak_bytes) << " a rank in buffers, "
      << human_bytes(report.resident_bytes) << " resident a process";
  if (report.device_peak_bytes > 0) out << ", " << human_bytes(report.device_peak_bytes) << " on its GPU";
  out << "\n";
  if (report.is_parallel_io) {
    out << "file transfers: "
        << (report.not_collective == 0 ? "all collective" : std::to_string(report.not_collective) + " not collective")
        << "\n";
  }
  return out.str();
}

}  // namespace ringscan
