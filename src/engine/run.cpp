#include "engine/run.hpp"

#include <algorithm>
#include <array>
#include <ctime>
#include <future>
#include <optional>
#include <utility>
#include <vector>

#include "core/stopwatch.hpp"
#include "core/system_memory.hpp"
#include "engine/block_job.hpp"
#include "engine/context_files.hpp"
#include "engine/io_queue.hpp"
#include "engine/layer_io.hpp"
#include "engine/linear_layer.hpp"
#include "engine/progress_keeper.hpp"
#include "engine/resident.hpp"
#include "kernels/linear_kernels.hpp"

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

/// Where the plan says which head of the layer, the kernels want its place in the shard.
int place_of(const std::vector<int>& heads, int head) {
  return static_cast<int>(std::lower_bound(heads.begin(), heads.end(), head) - heads.begin());
}

/// One run of one rank. Shards are worked through in the plan's order; while one computes, the I/O queue reads the
/// next and writes the last where the plan says that this overlaps.
class Job {
 public:
  /// `initial` holds the states to go on from, null: none; `earlier` the files of --context.
  Job(const RunConfig& config, const RunContext& context, ActivationReader& reader, ActivationReader* initial,
      ContextFiles& earlier, Kernels& kernels, ProgressKeeper& keeper, RunReport& report)
      : config_(config),
        context_(context),
        transport_(*context.transport),
        reader_(reader),
        initial_(initial),
        earlier_(earlier),
        kernels_(kernels),
        keeper_(keeper),
        report_(report),
        plan_(report.plan) {}

  void work(ActivationWriter& writer) {
    for (const LayerShape& layer : plan_.layers) outputs_.push_back(create_layer_output(writer, layer, config_));
    std::vector<BlockOutput> block_outputs;
    for (const BlockPlan& block : plan_.blocks) {
      block_outputs.push_back(create_block_output(writer, block.shape, config_, o_of(block.shape.layer)));
    }
    writer.settle();
    IoQueue queue(plan_.overlaps_io);
    try {
      work_through_shards(queue, writer);
      if (!is_stopped_) work_through_blocks(block_outputs, writer);
    } catch (const Error& error) {
      if (!error.is_collective() && context_.on_lone_failure) context_.on_lone_failure(error);
      throw;
    }
  }

  const MemoryLedger& ledger() const { return ledger_; }
  /// On request, before all was done.
  bool is_stopped() const { return is_stopped_; }

 private:
  /// A shard as read, and where its kernels read it.
  struct Arrived {
    ShardInput input;
    ResidentInput resident;
    double staging_seconds = 0.0;
  };

  /// What compute() leaves: the heads that are done, and those of them (places in the shard) whose rows are still where
  /// the kernels wrote them.
  struct Computed {
    std::set<int> heads;
    std::optional<ResidentOutput> resident;
    std::vector<int> resident_heads;
  };

  /// Rows of these heads are on their way to the file.
  struct Writing {
    std::future<double> done;  // seconds of copying from the device
    int layer = 0;
    std::vector<int> heads;
  };

  /// The heads of kernels on the host read and write the shard itself.
  bool is_resident(const PassPlan& pass) const {
    return !carries_state(pass.mechanism) || !kernels_.linear().memory().is_host();
  }

  /// From the file and on to the device, beside the computing where the queue has a thread.
  std::future<Arrived> start_reading(IoQueue& queue, std::size_t index) {
    return queue.submit<Arrived>([this, index] {
      const ShardPlan& shard = plan_.shards[index];
      Arrived arrived;
      arrived.input = read_shard(reader_, initial_, plan_, shard, transport_.rank(), config_, &ledger_);
      if (std::any_of(shard.passes.begin(), shard.passes.end(), [&](const PassPlan& p) { return is_resident(p); })) {
        arrived.resident = timed(arrived.staging_seconds, SpanKind::kStaging,
                                 [&] { return ResidentInput(arrived.input, kernels_.staging()); });
      }
      return arrived;
    });
  }

  /// From the device, where rows are still there, and on to the file, likewise.
  Writing start_writing(IoQueue& queue, ActivationWriter& writer, const ShardPlan& shard, ShardOutput output,
                        Computed computed) {
    struct Work {
      ShardOutput output;
      Computed computed;
    };
    Writing writing{{}, shard.layer, shard.heads};
    auto work = std::make_shared<Work>(Work{std::move(output), std::move(computed)});
    writing.done = queue.submit<double>([this, &writer, shard, work]() mutable {
      double staging_seconds = 0.0;
      bring_back(work->computed, staging_seconds);
      const auto layer = static_cast<std::size_t>(shard.layer);
      write_shard(writer, outputs_[layer], plan_.layers[layer], shard, transport_.rank(), config_, work->output);
      work.reset();
      return staging_seconds;
    });
    return writing;
  }

  void bring_back(Computed& computed, double& seconds) {
    if (!computed.resident) return;
    timed(seconds, SpanKind::kStaging,
          [&] { computed.resident->bring_back(computed.resident_heads, kernels_.staging()); });
    computed.resident.reset();
  }

  /// Waits for it; `more`: work is left, for which the record is worth its while.
  void end_writing(Writing& writing, bool more) {
    if (!writing.done.valid()) return;
    report_.staging_seconds += timed(report_.write_wait_seconds, SpanKind::kWait, [&] { return writing.done.get(); });
    keeper_.note_heads(plan_.layers[static_cast<std::size_t>(writing.layer)].name, writing.heads);
    if (more) keeper_.save();
  }

  void work_through_shards(IoQueue& queue, ActivationWriter& writer) {
    const std::size_t count = plan_.shards.size();
    std::future<Arrived> reading;
    Writing writing;
    for (std::size_t index = 0; index < count && !is_stopped_; ++index) {
      const ShardPlan& shard = plan_.shards[index];
      // Without a thread of its own the queue works at once, so that starting takes the time, too.
      if (!reading.valid())
        reading = timed(report_.read_wait_seconds, SpanKind::kWait, [&] { return start_reading(queue, index); });
      Arrived arrived = timed(report_.read_wait_seconds, SpanKind::kWait, [&] { return reading.get(); });
      report_.staging_seconds += arrived.staging_seconds;
      if (plan_.overlaps_io && index + 1 < count) reading = start_reading(queue, index + 1);
      ShardOutput output = make_shard_output(plan_, shard, transport_.rank(), config_, &ledger_);
      Computed computed = compute(shard, arrived, output, queue);
      arrived = Arrived{};
      const bool is_whole = computed.heads.size() == shard.heads.size();
      // At most one output waits beside the one in hand.
      end_writing(writing, true);
      writing = timed(report_.write_wait_seconds, SpanKind::kWait, [&] {
        if (is_whole) return start_writing(queue, writer, shard, std::move(output), std::move(computed));
        bring_back(computed, report_.staging_seconds);
        const LayerShape& layer = plan_.layers[static_cast<std::size_t>(shard.layer)];
        const ShardPlan part = keep_heads(shard, layer, computed.heads);
        return start_writing(queue, writer, part, pick_heads(output, layer, shard, part, config_, &ledger_), {});
      });
      const bool more = index + 1 < count || !plan_.blocks.empty() || !is_whole;
      is_stopped_ = more && keeper_.is_stopping();
      if (!plan_.overlaps_io || is_stopped_) end_writing(writing, more);
    }
    if (reading.valid()) reading.get();  // it was under way when the run was stopped
    end_writing(writing, !plan_.blocks.empty());
  }

  const DatasetInfo* o_of(const std::string& layer) const {
    for (std::size_t i = 0; i < plan_.layers.size(); ++i) {
      if (plan_.layers[i].name == layer) return &outputs_[i].o;
    }
    return nullptr;
  }

  void work_through_blocks(const std::vector<BlockOutput>& outputs, ActivationWriter& writer) {
    if (plan_.blocks.empty()) return;
    const std::unique_ptr<SsmKernels> kernels = kernels_.make_ssm();
    const std::unique_ptr<ChelaKernels> chela_kernels = kernels_.make_chela();
    const ChelaBackend chela{*chela_kernels, *kernels, kernels_.linear()};
    for (std::size_t i = 0; i < plan_.blocks.size(); ++i) {
      const BlockPlan& block = plan_.blocks[i];
      const double share = block.flops / std::max(1.0, plan_.flops());
      BlockContext context{&config_, &transport_, &reader_, initial_, &writer, kernels.get(), &chela, &ledger_, {}};
      context.on_progress = [&](double fraction) {
        if (context_.on_progress) context_.on_progress(behind_ + share * fraction, block.shape.label());
      };
      const TraceSpan span(SpanKind::kGroup, block.shape.label());
      const BlockFigures figures = run_block(block, outputs[i], context);
      behind_ += share;
      report_.read_wait_seconds += figures.read_seconds;
      report_.write_wait_seconds += figures.write_seconds;
      report_.compute_seconds += figures.pass.compute_seconds;
      report_.exposed_seconds += figures.pass.exposed_seconds;
      report_.sent_bytes += figures.pass.sent_bytes;
      report_.computed_flops += block.flops * static_cast<double>(block.layout.local_tokens(transport_.rank())) /
                                static_cast<double>(std::max<std::int64_t>(1, block.shape.seq_len));
      keeper_.note_block(block);
      if (i + 1 == plan_.blocks.size()) break;
      keeper_.save();
      is_stopped_ = keeper_.is_stopping();
      if (is_stopped_) return;
    }
  }

  /// All heads, or those of the groups before the one that a stop kept from beginning.
  Computed compute(const ShardPlan& shard, const Arrived& arrived, ShardOutput& output, IoQueue& queue) {
    Computed computed;
    for (const PassPlan& pass : shard.passes) {
      for (const HeadGroup& group : pass.groups) {
        if (!computed.heads.empty() && keeper_.is_stopping()) continue;
        computed.heads.insert(group.heads.begin(), group.heads.end());
        if (is_resident(pass)) {
          if (!computed.resident) computed.resident.emplace(output, kernels_.memory());
          for (const int head : group.heads) computed.resident_heads.push_back(place_of(shard.heads, head));
        }
        run_group(shard, pass, group, arrived, output, computed.resident ? &*computed.resident : nullptr, queue);
      }
    }
    // What reads the input and writes the output is through before either goes.
    Heartbeat heartbeat;
    report_.stats += kernels_.settle(heartbeat);
    return computed;
  }

  /// Of the whole run's work.
  double share_of(const PassPlan& pass, const HeadGroup& group) const {
    std::size_t heads = 0;
    for (const HeadGroup& other : pass.groups) heads += other.heads.size();
    return pass.flops / std::max(1.0, plan_.flops()) * static_cast<double>(group.heads.size()) /
           static_cast<double>(heads);
  }

  /// `resident`: where rows go that do not go to the output itself.
  void run_group(const ShardPlan& shard, const PassPlan& pass, const HeadGroup& group, const Arrived& arrived,
                 ShardOutput& output, const ResidentOutput* resident, IoQueue& queue) {
    const ShardInput& input = arrived.input;
    const LayerShape& layer = plan_.layers[static_cast<std::size_t>(shard.layer)];
    std::vector<HeadSlot> slots;
    for (const int head : group.heads) {
      slots.push_back({place_of(shard.heads, head), place_of(shard.kv_heads, layer.kv_head_of(head))});
    }
    const TraceSpan span(SpanKind::kGroup, std::string(name_of(pass.mechanism)) + " of layer " + layer.name);
    const double share = share_of(pass, group);
    const PassProgress on_progress = [&](double fraction) {
      if (context_.on_progress)
        context_.on_progress(behind_ + share * fraction, layer.name.empty() ? "attention" : "layer " + layer.name);
    };
    if (carries_state(pass.mechanism)) {
      const bool is_near = kernels_.linear().memory().is_host();
      const LinearGroupTask task{&config_,
                                 &layer,
                                 &shard,
                                 &pass,
                                 &group,
                                 slots,
                                 is_near ? input.q : arrived.resident.q(),
                                 is_near ? input.k : arrived.resident.k(),
                                 is_near ? input.v : arrived.resident.v(),
                                 is_near ? input.linear.log_decay : arrived.resident.log_decay(),
                                 &input.linear,
                                 is_near ? output.o : resident->o(),
                                 &output.states};
      add_result(run_linear_group(task, transport_, kernels_.linear(), &ledger_, on_progress));
    } else {
      RingPassTask task = ring_task(shard, pass, slots, arrived.resident, *resident);
      StreamedContext context(earlier_.segments(layer), group.kv_heads, plan_.context_block, !config_.allow_nonfinite,
                              queue, &ledger_);
      if (context.tokens() > 0) task.context = &context;
      add_result(run_ring_pass(task, transport_, kernels_, &ledger_, on_progress));
      report_.context_blocks += context.figures();
    }
    behind_ += share;
  }

  RingPassTask ring_task(const ShardPlan& shard, const PassPlan& pass, std::span<const HeadSlot> slots,
                         const ResidentInput& input, const ResidentOutput& output) const {
    RingPassTask task;
    task.layout = &shard.layout;
    task.mechanism = pass.mechanism;
    task.scale = pass.scale;
    task.key_block = plan_.key_block;
    task.piece_keys = kernels_.piece_keys();
    task.q = input.q();
    task.k = input.k();
    task.v = input.v();
    task.slots = slots;
    task.o = output.o();
    task.statistic = has_lse(pass.mechanism) ? output.lse() : output.remainder();
    task.wants_kept_mass = config_.want_kept_mass;
    task.kept_mass = output.kept_mass();
    task.remainder_value = input.remainder_value();
    return task;
  }

  void add_result(const RingPassResult& result) {
    report_.computed_flops += result.flops;
    report_.kept_mass += result.kept_mass;
    report_.stats += result.stats;
    report_.compute_seconds += result.compute_seconds;
    report_.exposed_seconds += result.exposed_seconds;
    report_.context_wait_seconds += result.context_seconds;
    report_.finish_seconds += result.finish_seconds;
    report_.steps_taken += result.steps_taken;
    report_.steps_saved += result.steps_saved;
    report_.sent_bytes += result.sent_bytes;
  }

  const RunConfig& config_;
  const RunContext& context_;
  Transport& transport_;
  ActivationReader& reader_;
  ActivationReader* initial_;
  ContextFiles& earlier_;
  Kernels& kernels_;
  ProgressKeeper& keeper_;
  RunReport& report_;
  const RunPlan& plan_;
  std::vector<LayerOutput> outputs_;
  MemoryLedger ledger_;
  double behind_ = 0.0;
  bool is_stopped_ = false;
};

RunPlan plan_run(const RunConfig& config, const RunContext& context, const ActivationReader& reader,
                 const ActivationReader* initial, const ContextFiles& earlier, const Kernels& kernels) {
  Transport& transport = *context.transport;
  PlanResources resources;
  resources.world_size = transport.world_size();
  resources.supports_io_thread = transport.supports_threads();
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
  Job job(config, job_context, reader, initial, earlier, *kernels, keeper, report);
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
