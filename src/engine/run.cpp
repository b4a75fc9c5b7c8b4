#include "engine/run.hpp"

#include <algorithm>
#include <array>
#include <ctime>
#include <memory>
#include <optional>
#include <vector>

#include "core/stopwatch.hpp"
#include "core/system_memory.hpp"
#include "engine/block_plan.hpp"
#include "engine/context_files.hpp"
#include "engine/layer_io.hpp"
#include "engine/linear_layer.hpp"
#include "engine/progress_keeper.hpp"
#include "engine/run_job.hpp"

namespace ringscan {
namespace {

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

RunPlan plan_run(const RunConfig& config, const RunContext& context, const ActivationReader& reader,
                 const ActivationReader* initial, const ContextFiles& earlier, const Kernels& kernels) {
  Transport& transport = *context.transport;
  PlanResources resources;
  resources.world_size = transport.world_size();
  resources.supports_io_thread = transport.supports_threads();
  resources.carries_device = transport.carries_in_queue(kernels.memory());
  const std::size_t available =
      // What the plan lets a rank hold has to fit on its device too, which holds no more than that.
      std::min(kernels.memory().free_bytes() / 20 * 19,
               config.memory_bytes.value_or(available_memory_bytes() / 10 * 9 /
                                            static_cast<std::size_t>(context.ranks_on_node)));
  resources.memory_limit_bytes =
      static_cast<std::size_t>(transport.RankGroup::all_reduce(static_cast<std::int64_t>(available), ReduceOp::kMin));
  RunPlan plan;
  run_collectively(transport, [&] {
    std::vector<LayerShape> layers;
    // A layer that is one block mechanism's needs no q, k, v.
    const bool has_heads = std::any_of(config.blocks.begin(), config.blocks.end(),
                                       [](const BlockAssignment& block) { return !block.heads.empty(); });
    for (const std::string& name : reader.layers(config.layers)) {
      if (!has_heads && config.assignments.empty()) continue;
      layers.push_back(inspect_layer(reader, name, config));
      earlier.inspect(layers.back());
    }
    plan = make_run_plan(config, layers, resources, kernels);
    for (const LayerShape& layer : layers) {
      if (initial != nullptr) check_initial_state(*initial, layer, config);
    }
    plan_blocks(config, reader, plan);
  });
  return plan;
}

void write_attributes(ActivationWriter& writer, const RunConfig& config, const RunReport& report) {
  writer.set_attribute("program", std::string("ringscan ") + RINGSCAN_VERSION);
  writer.set_attribute("configuration", config.text());
  writer.set_attribute("world_size", static_cast<std::int64_t>(report.plan.world_size));
  writer.set_attribute("backend", report.backend);
  writer.set_attribute("date", report.started);
  writer.set_attribute("seconds", report.total_seconds);
}

}  // namespace

RunReport run(const RunConfig& config, const RunContext& context) {
  Transport& transport = *context.transport;
  const Stopwatch total;
  std::unique_ptr<Kernels> kernels;
  // A GPU's tiles begin where a rank's keys do, so that its bits would depend on the number of ranks.
  kernels = make_kernels(config.reproducible && config.backend == "auto" ? "cpu" : config.backend, context);
  const std::unique_ptr<Transport> io_transport = transport.duplicate();
  const std::unique_ptr<FileAccess> access = context.make_access(*io_transport);

  RunReport report;
  report.config = config;
  report.transport = transport.name();
  report.backend = kernels->name();
  report.device = kernels->device();
  report.started = utc_now();
  report.is_parallel_io = access->is_parallel();

  ActivationReader reader(*access, config.input);
  std::optional<ActivationReader> initial_file;
  if (!config.initial_state.empty()) initial_file.emplace(*access, config.initial_state);
  ActivationReader* initial = initial_file ? &*initial_file : nullptr;
  ContextFiles earlier(*access, config.context);
  report.plan = plan_run(config, context, reader, initial, earlier, *kernels);
  ProgressKeeper keeper(config, context, std::string(kernels->name()));
  skip_complete(report.plan, keeper.progress());
  report.heads_found = keeper.progress().count_heads();
  report.blocks_found = keeper.progress().blocks.size();
  if (config.dry_run) return report;
  report.was_complete = config.resume && !keeper.resumes() && is_complete(config, *access);
  if (report.was_complete) return report;

  const std::unique_ptr<Transport> device_transport =
      make_device_transport(*kernels, context, config.hop_limit_seconds);
  RunContext job_context = context;
  if (device_transport) job_context.transport = device_transport.get();
  report.transport = job_context.transport->name();

  std::optional<ActivationWriter> writer;
  writer.emplace(*access, config.output, config.overwrite, keeper.resumes());
  if (context.on_start) context.on_start(report);
  RunJob job(config, job_context, reader, initial, earlier, *kernels, keeper, report);
  job.work(*writer);
  if (job.is_stopped()) {
    writer->suspend();
  } else {
    report.total_seconds = transport.RankGroup::all_reduce(total.seconds(), ReduceOp::kMax);
    write_attributes(*writer, config, report);
    writer->finish();
  }

  report.total_seconds = total.seconds();
  const TransferRecord context_record = earlier.record();
  report.context_bytes = context_record.bytes;
  report.read_bytes = reader.record().bytes + context_record.bytes;
  report.read_seconds = reader.record().seconds + context_record.seconds;
  report.written_bytes = writer->record().bytes;
  report.write_seconds = writer->record().seconds;
  report.not_collective =
      reader.record().not_collective + writer->record().not_collective + context_record.not_collective;
  report.peak_bytes = job.ledger().peak_bytes();
  report.resident_bytes = peak_resident_bytes();
  report.device_peak_bytes = kernels->memory().peak_bytes();
  reduce(report, transport);
  report.heads_done = keeper.progress().count_heads();
  report.blocks_done = keeper.progress().blocks.size();
  report.stopped = job.is_stopped();
  report.finished = !report.stopped;
  return report;
}

}  // namespace ringscan
