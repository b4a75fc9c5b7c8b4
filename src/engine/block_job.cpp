#include "engine/block_job.hpp"

#include <algorithm>
#include <cmath>
#include <future>
#include <numeric>

#include "core/error.hpp"
#include "core/stopwatch.hpp"
#include "engine/block_rows.hpp"

namespace ringscan {
namespace {

std::vector<int> iota_from(std::int64_t first, std::int64_t count) {
  std::vector<int> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), static_cast<int>(first));
  return numbers;
}

class BlockJob {
 public:
  BlockJob(const BlockPlan& plan, const BlockOutput& output, const BlockContext& context)
      : plan_(plan),
        shape_(plan.shape),
        output_(output),
        context_(context),
        run_(plan.layout.chunks(context.transport->rank())[0].run),
        name_(name_of(plan.shape.mechanism)),
        is_last_(context.transport->rank() == last_rank_of(plan.layout) && !run_.empty()) {}

  BlockFigures run() {
    if (std::holds_alternative<SsmParams>(shape_.mechanism)) {
      run_ssm();
    } else if (std::holds_alternative<ChelaParams>(shape_.mechanism)) {
      run_chela();
    } else {
      run_mamba();
    }
    return figures_;
  }

 private:
  SlabSelection select(std::vector<int> heads) const {
    SlabSelection selection;
    if (!run_.empty()) selection.tokens = {run_};
    selection.heads = std::move(heads);
    return selection;
  }

  /// A parameter, on every rank.
  std::vector<float> parameter(const std::string& dataset) {
    const std::string name = name_ + "/" + dataset;
    const auto info = context_.reader->find(shape_.layer, name);
    if (!info) return {};
    const std::vector<double> whole =
        timed(figures_.read_seconds, SpanKind::kWait, [&] { return context_.reader->read_whole(*info); });
    for (const double x : whole) {
      if (std::isfinite(x) || context_.config->allow_nonfinite) continue;
      throw collective(bad_input(context_.reader->path() + ": " + info->path +
                                 " holds NaN or infinity; want finite numbers, or --allow-nonfinite"));
    }
    return {whole.begin(), whole.end()};
  }

  /// Every rank has the same in hand, and throws the same.
  static Error collective(Error error) {
    error.set_collective();
    return error;
  }

  Buffer read_slab(const char* dataset, const std::vector<int>& heads, AnyView& view, const Shape4& shape,
                   MemorySpace& space = host_memory()) {
    const DatasetInfo info = *context_.reader->find(shape_.layer, dataset);
    Buffer slab = timed(figures_.read_seconds, SpanKind::kWait, [&] {
      return context_.reader->read_slab(info, select(heads), !context_.config->allow_nonfinite, context_.ledger, space);
    });
    view = dense_any_view(std::as_const(slab).data(), type_in_memory(info.type), shape);
    return slab;
  }

  /// Empty where there is none.
  std::vector<float> initial_state(const std::string& part, const std::vector<std::int64_t>& shape) {
    if (context_.initial_state == nullptr) return {};
    ActivationReader& reader = *context_.initial_state;
    DatasetInfo info;
    run_collectively(*context_.transport,
                     [&] { info = reader.require(shape_.layer, "state/" + name_ + "/" + part, shape); });
    const std::vector<double> whole =
        timed(figures_.read_seconds, SpanKind::kWait, [&] { return reader.read_whole(info); });
    return {whole.begin(), whole.end()};
  }

  /// Collective: the rank with the last token has the state, the others take part with nothing.
  void write_state(const DatasetInfo& dataset, const std::vector<float>& state) {
    if (!context_.config->want_state) return;
    SlabSelection selection;
    if (is_last_) selection.tokens = {{0, dataset.shape[1]}};
    selection.heads = iota_from(0, dataset.shape[2]);
    timed(figures_.write_seconds, SpanKind::kWait,
          [&] { context_.writer->write_slab(dataset, selection, state.data()); });
  }

  /// `y` is dense [batch, local tokens, 1, channels] of the channels from `first` on.
  void write_y(const Buffer& y, std::int64_t first, std::int64_t channels) {
    std::vector<int> heads;
    if (shape_.heads.empty()) {
      heads = iota_from(first, channels);
    } else {
      const auto begin = shape_.heads.begin() + first / shape_.v_dim;
      heads.assign(begin, begin + channels / shape_.v_dim);
    }
    Buffer converted;
    const void* data = y.data();
    // What lies on a device, or is shared with it, MPI may not send on.
    if (shape_.output_type != ElementType::kFloat32 || &context_.kernels->memory() != &host_memory()) {
      const Shape4 shape{shape_.batch, run_.size(), 1, channels};
      converted = Buffer(static_cast<std::size_t>(element_count(shape)) * size_of(shape_.output_type), context_.ledger);
      context_.kernels->convert(dense_any_view(y.data(), ElementType::kFloat32, shape),
                                dense_any_view(converted.data(), shape_.output_type, shape));
      data = converted.data();
    }
    timed(figures_.write_seconds, SpanKind::kWait,
          [&] { context_.writer->write_slab(output_.y, select(heads), data); });
  }

  void tell(std::int64_t done, std::int64_t all) const {
    if (context_.on_progress) context_.on_progress(static_cast<double>(done) / static_cast<double>(all));
  }

  void run_ssm();
  void run_mamba();
  void run_chela();
  MambaWeights read_weights();

  const BlockPlan& plan_;
  const BlockShape& shape_;
  const BlockOutput& output_;
  const BlockContext& context_;
  TokenRun run_;
  std::string name_;
  bool is_last_;
  Heartbeat heartbeat_;
  BlockFigures figures_;
};

void BlockJob::run_ssm() {
  const std::vector<float> a = parameter("A");
  const std::vector<float> d = parameter("D");
  const std::vector<float> bias = parameter("delta_bias");
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] < 0.0f || std::isnan(a[i])) continue;
    throw collective(bad_input(context_.reader->path() + ": " + context_.reader->find(shape_.layer, "ssm/A")->path +
                               " holds " + std::to_string(a[i]) + " (channel " +
                               std::to_string(static_cast<std::int64_t>(i) / shape_.d_state) +
                               "); want every A under 0"));
  }
  const std::vector<std::int64_t> state_shape{shape_.batch, shape_.channels, shape_.d_state};
  const std::vector<float> initial = initial_state("h", state_shape);
  const std::int64_t tokens = run_.size();
  SsmPassTask task;
  task.layout = &plan_.layout;
  task.reproducible = context_.config->reproducible;
  MemorySpace& space = context_.kernels->memory();
  const Shape4 b_shape{shape_.batch, tokens, shape_.groups, shape_.d_state};
  const std::vector<int> groups = iota_from(0, shape_.groups);
  const Buffer b = read_slab("ssm/B", groups, task.inputs.b, b_shape, space);
  const Buffer c = read_slab("ssm/C", groups, task.inputs.c, b_shape, space);
  task.inputs.channels_per_group = shape_.channels / shape_.groups;
  const std::int64_t width = shape_.d_state;
  std::vector<float> state(
      context_.config->want_state ? static_cast<std::size_t>(shape_.batch * shape_.channels * width) : 0);
  for (std::int64_t first = 0; first < shape_.channels; first += plan_.block_channels) {
    const std::int64_t count = std::min(plan_.block_channels, shape_.channels - first);
    const Shape4 u_shape{shape_.batch, tokens, 1, count};
    const std::vector<int> channels = iota_from(first, count);
    Buffer z;
    const Buffer u = read_slab("ssm/u", channels, task.inputs.u, u_shape, space);
    const Buffer delta = read_slab("ssm/delta", channels, task.inputs.delta, u_shape, space);
    if (shape_.has_z) z = read_slab("ssm/z", channels, task.inputs.z, u_shape, space);
    task.inputs.first_channel = first;
    task.inputs.a = a.data() + first * width;
    task.inputs.d = d.empty() ? nullptr : d.data() + first;
    task.inputs.delta_bias = bias.empty() ? nullptr : bias.data() + first;
    Buffer y(floats_bytes(element_count(u_shape)), &space == &host_memory() ? context_.ledger : nullptr, space);
    task.y = dense_view(y.as<float>(), u_shape);
    const std::int64_t block_state = count * width;
    std::vector<float> begin(initial.empty() ? 0 : static_cast<std::size_t>(shape_.batch * block_state));
    std::vector<float> end(state.empty() ? 0 : static_cast<std::size_t>(shape_.batch * block_state));
    const auto at = [&](std::int64_t batch) { return (batch * shape_.channels + first) * width; };
    for (std::int64_t batch = 0; batch < shape_.batch && !begin.empty(); ++batch) {
      std::copy_n(initial.begin() + at(batch), block_state, begin.begin() + batch * block_state);
    }
    task.initial_state = begin.empty() ? nullptr : begin.data();
    task.final_state = end.empty() ? nullptr : end.data();
    figures_.pass += run_ssm_pass(task, *context_.transport, *context_.kernels, context_.ledger, heartbeat_);
    for (std::int64_t batch = 0; batch < shape_.batch && !end.empty(); ++batch) {
      std::copy_n(end.begin() + batch * block_state, block_state, state.begin() + at(batch));
    }
    write_y(y, first, count);
    tell(first + count, shape_.channels);
  }
  write_state(output_.h, state);
}

MambaWeights BlockJob::read_weights() {
  MambaWeights weights;
  weights.shape = shape_.mamba;
  weights.in_proj = parameter("in_proj");
  weights.conv_weight = parameter("conv_weight");
  weights.conv_bias = parameter("conv_bias");
  weights.x_proj = parameter("x_proj");
  weights.dt_proj = parameter("dt_proj");
  weights.dt_bias = parameter("dt_bias");
  weights.a = parameter("A_log");
  for (float& a : weights.a) a = -std::exp(a);
  weights.d = parameter("D");
  weights.out_proj = parameter("out_proj");
  return weights;
}

void BlockJob::run_mamba() {
  auto ready = std::async(std::launch::async, [&] { context_.kernels->warm_up(); });
  const MambaWeights weights = read_weights();
  const MambaShape& m = weights.shape;
  MemorySpace& space = context_.kernels->work_memory();
  const PlacedMambaWeights placed =
      timed(figures_.read_seconds, SpanKind::kWait, [&] { return PlacedMambaWeights(weights, space); });
  std::vector<float> initial_h = initial_state("h", {shape_.batch, m.d_inner, m.d_state});
  std::vector<float> initial_conv = initial_state("conv", {shape_.batch, m.conv_width - 1, m.d_inner});
  const bool wants_state = context_.config->want_state;
  std::vector<float> h(wants_state ? static_cast<std::size_t>(shape_.batch * m.d_inner * m.d_state) : 0);
  std::vector<float> conv(wants_state ? static_cast<std::size_t>(shape_.batch * m.d_inner * (m.conv_width - 1)) : 0);
  MambaPassTask task;
  task.layout = &plan_.layout;
  task.weights = &placed;
  const Buffer x = read_slab("mamba/x", iota_from(0, m.d_model), task.x, {shape_.batch, run_.size(), 1, m.d_model},
                             context_.kernels->memory());
  const Shape4 out_shape{shape_.batch, run_.size(), 1, m.d_out};
  Buffer y = floats_buffer(element_count(out_shape), space, context_.ledger);
  task.out = dense_view(y.as<float>(), out_shape);
  if (context_.initial_state != nullptr) task.initial = {initial_h.data(), initial_conv.data()};
  if (wants_state) task.final = {h.data(), conv.data()};
  task.block_channels = plan_.block_channels;
  task.reproducible = context_.config->reproducible;
  ready.get();
  figures_.pass += run_mamba_pass(task, *context_.transport, *context_.kernels, context_.ledger, heartbeat_);
  write_y(y, 0, m.d_out);
  write_state(output_.h, h);
  if (m.conv_width > 1) write_state(output_.conv, conv);
  tell(1, 1);
}

void BlockJob::run_chela() {
  ChelaLayerTask task;
  task.layer = &shape_.chela;
  task.layout = &plan_.layout;
  task.scale = chela_scale(*context_.config, shape_.chela);
  task.reproducible = context_.config->reproducible;
  task.check_finite = !context_.config->allow_nonfinite;
  task.reader = context_.reader;
  task.initial = context_.initial_state;
  task.writer = context_.writer;
  task.output = &output_.chela;
  task.writes_state = context_.config->want_state;
  const ChelaLayerFigures figures =
      run_chela_layer(task, *context_.transport, *context_.chela, context_.ledger, heartbeat_);
  figures_.read_seconds += figures.read_seconds;
  figures_.write_seconds += figures.write_seconds;
  figures_.pass.compute_seconds += figures.pass.compute_seconds;
  figures_.pass.exposed_seconds += figures.pass.exposed_seconds;
  figures_.pass.sent_bytes += figures.pass.sent_bytes;
  tell(1, 1);
}

}  // namespace

BlockOutput create_block_output(ActivationWriter& writer, const BlockShape& shape, const RunConfig& config,
                                const DatasetInfo* o) {
  BlockOutput output;
  if (std::holds_alternative<ChelaParams>(shape.mechanism)) {
    output.chela =
        create_chela_output(writer, shape.chela, shape.heads.empty() ? nullptr : o, shape.heads, config.want_state);
    return output;
  }
  const std::string name(name_of(shape.mechanism));
  output.y = o != nullptr && !shape.heads.empty() ? *o
                                                  : writer.create(shape.layer, name + "/y", shape.output_type,
                                                                  {shape.batch, shape.seq_len, shape.channels});
  if (!config.want_state) return output;
  const bool is_mamba = std::holds_alternative<MambaParams>(shape.mechanism);
  const std::int64_t channels = is_mamba ? shape.mamba.d_inner : shape.channels;
  output.h =
      writer.create(shape.layer, "state/" + name + "/h", ElementType::kFloat32, {shape.batch, channels, shape.d_state});
  if (is_mamba && shape.mamba.conv_width > 1) {
    output.conv = writer.create(shape.layer, "state/" + name + "/conv", ElementType::kFloat32,
                                {shape.batch, shape.mamba.conv_width - 1, channels});
  }
  return output;
}

BlockFigures run_block(const BlockPlan& plan, const BlockOutput& output, const BlockContext& context) {
  return BlockJob(plan, output, context).run();
}

}  // namespace ringscan
