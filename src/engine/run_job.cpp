#include "engine/run_job.hpp"

#include <algorithm>
#include <memory>
#include <utility>

#include "core/stopwatch.hpp"
#include "engine/linear_layer.hpp"
#include "engine/ring_task.hpp"
#include "kernels/linear_kernels.hpp"

namespace ringscan {

RunJob::RunJob(const RunConfig& config, const RunContext& context, ActivationReader& reader, ActivationReader* initial,
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

void RunJob::work(ActivationWriter& writer) {
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

bool RunJob::is_resident(const PassPlan& pass) const {
  return !carries_state(pass.mechanism) || !kernels_.linear().memory().is_host();
}

std::future<RunJob::Arrived> RunJob::start_reading(IoQueue& queue, std::size_t index) {
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

RunJob::Writing RunJob::start_writing(IoQueue& queue, ActivationWriter& writer, const ShardPlan& shard,
                                      ShardOutput output, Computed computed) {
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

void RunJob::bring_back(Computed& computed, double& seconds) {
  if (!computed.resident) return;
  timed(seconds, SpanKind::kStaging,
        [&] { computed.resident->bring_back(computed.resident_heads, kernels_.staging()); });
  computed.resident.reset();
}

void RunJob::end_writing(Writing& writing, bool more) {
  if (!writing.done.valid()) return;
  report_.staging_seconds += timed(report_.write_wait_seconds, SpanKind::kWait, [&] { return writing.done.get(); });
  keeper_.note_heads(plan_.layers[static_cast<std::size_t>(writing.layer)].name, writing.heads);
  if (more) keeper_.save();
}

void RunJob::work_through_shards(IoQueue& queue, ActivationWriter& writer) {
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

const DatasetInfo* RunJob::o_of(const std::string& layer) const {
  for (std::size_t i = 0; i < plan_.layers.size(); ++i) {
    if (plan_.layers[i].name == layer) return &outputs_[i].o;
  }
  return nullptr;
}

void RunJob::work_through_blocks(const std::vector<BlockOutput>& outputs, ActivationWriter& writer) {
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

RunJob::Computed RunJob::compute(const ShardPlan& shard, const Arrived& arrived, ShardOutput& output, IoQueue& queue) {
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

double RunJob::share_of(const PassPlan& pass, const HeadGroup& group) const {
  std::size_t heads = 0;
  for (const HeadGroup& other : pass.groups) heads += other.heads.size();
  return pass.flops / std::max(1.0, plan_.flops()) * static_cast<double>(group.heads.size()) /
         static_cast<double>(heads);
}

void RunJob::run_group(const ShardPlan& shard, const PassPlan& pass, const HeadGroup& group, const Arrived& arrived,
                       ShardOutput& output, const ResidentOutput* resident, IoQueue& queue) {
  const ShardInput& input = arrived.input;
  const LayerShape& layer = plan_.layers[static_cast<std::size_t>(shard.layer)];
  const std::vector<HeadSlot> slots = slots_of(shard, layer, group);
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
    RingPassTask task = ring_task(config_, plan_, shard, pass, slots, arrived.resident, *resident, kernels_);
    StreamedContext context(earlier_.segments(layer), group.kv_heads, plan_.context_block, !config_.allow_nonfinite,
                            queue, &ledger_);
    if (context.tokens() > 0) task.context = &context;
    task.sticks = &sticks_;
    add_result(run_ring_pass(task, transport_, kernels_, &ledger_, on_progress));
    report_.context_blocks += context.figures();
  }
  behind_ += share;
}

void RunJob::add_result(const RingPassResult& result) {
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

}  // namespace ringscan
