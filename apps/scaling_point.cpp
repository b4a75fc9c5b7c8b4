#include "apps/scaling_point.hpp"

#include <chrono>
#include <thread>

#include "core/error.hpp"
#include "core/rank_group.hpp"
#include "core/stopwatch.hpp"
#include "engine/synthetic_plan.hpp"

namespace ringscan {
namespace {

Repetition measure(MemoryJob& job, Transport& transport) {
  transport.barrier();
  const Stopwatch watch;
  const RingPassResult result = job.run();
  double slowest[] = {watch.seconds(), result.compute_seconds, result.exposed_seconds, result.finish_seconds};
  transport.all_reduce(std::span<double>(slowest), ReduceOp::kMax);
  double sums[] = {result.flops, static_cast<double>(result.sent_bytes)};
  transport.all_reduce(std::span<double>(sums), ReduceOp::kSum);
  return {slowest[0], slowest[1], slowest[2], slowest[3], sums[0], sums[1]};
}

LayerShape layer_of(const Point& point, const BenchOptions& options) {
  LayerShape layer;
  layer.batch = 1;
  layer.seq_len = point.seq_len;
  layer.num_heads = options.heads;
  layer.num_kv_heads = options.kv_heads;
  layer.head_dim = layer.v_dim = options.head_dims.front();
  layer.q_type = layer.kv_type = layer.o_type = point.variant.dtype;
  return layer;
}

RunConfig config_of(const Point& point, const BenchOptions& options) {
  return study_config(point.variant.mechanism, options.heads, point.variant.layout);
}

}  // namespace

Quartiles quartiles_of(const std::vector<Repetition>& repetitions, double Repetition::*figure) {
  std::vector<double> values;
  for (const Repetition& repetition : repetitions) values.push_back(repetition.*figure);
  return quartiles(std::move(values));
}

RunConfig study_config(const std::string& mechanism, int heads, const std::optional<LayoutKind>& layout) {
  RunConfig config;
  config.layout = layout;
  const LinearParams linear{Decay::kToken, FeatureMap::kIdentity, Normalizer::kNone};
  StickBreakingParams dense;
  dense.epsilon = 0.0;
  SparseParams window;
  window.select = SparseSelect::kWindow;
  if (mechanism == "softmax") config.assignments = {{SoftmaxParams{}, {}}};
  if (mechanism == "stick-breaking") config.assignments = {{StickBreakingParams{}, {}}};
  if (mechanism == "stick-dense") config.assignments = {{dense, {}}};
  if (mechanism == "cog") config.assignments = {{CogParams{}, {}}};
  if (mechanism == "sparse-window") config.assignments = {{window, {}}};
  if (mechanism == "sparse-topk") config.assignments = {{SparseParams{}, {}}};
  if (mechanism == "linear") config.assignments = {{linear, {}}};
  if (mechanism == "ssm") config.blocks = {{SsmParams{}, {}}};
  if (mechanism == "mamba") config.blocks = {{MambaParams{}, {}}};
  if (mechanism == "chela") config.blocks = {{ChelaParams{}, {}}};
  if (mechanism == "hybrid") {
    config.assignments = {{SoftmaxParams{}, {}}, {StickBreakingParams{}, {}}, {linear, {}}};
    for (int head = 0; head < heads; ++head) {
      config.assignments[static_cast<std::size_t>(head % 3)].heads.push_back(head);
    }
  }
  return config;
}

void release_idle(Transport& transport, int ranks) {
  const std::byte out{1};
  std::byte in{};
  if (transport.rank() == 0) {
    for (int rank = ranks; rank < transport.world_size(); ++rank) {
      transport.exchange({rank, {&out, 1}, -1, {}}).wait();
    }
  } else if (transport.rank() >= ranks) {
    Ticket released = transport.exchange({-1, {}, 0, {&in, 1}});
    while (!released.poll()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  transport.barrier();
}

bool fit_together(const std::vector<Point>& points, const BenchOptions& options, std::size_t memory_bytes,
                  const Kernels& kernels) {
  std::size_t sum = 0;
  for (const Point& point : points) {
    PlanResources resources;
    resources.world_size = point.ranks;
    resources.memory_limit_bytes = memory_bytes;
    sum += make_synthetic_plan(config_of(point, options), layer_of(point, options), options.sizes, resources, kernels)
               .memory.total();
  }
  return sum <= memory_bytes;
}

PointJob::PointJob(const Point& point, Way way, const BenchOptions& options, Transport& transport, Transport& control,
                   std::size_t memory_bytes, Kernels& kernels)
    : point_(point), way_(way), control_(control), config_(config_of(point, options)) {
  if (way_ == Way::kTogether) {
    part_ = transport.first_ranks(point_.ranks);
    group_ = part_.get();
  } else {
    group_ = &solo_;
  }
  on_ranks([&] {
    job_ =
        std::make_unique<MemoryJob>(config_, layer_of(point_, options), memory_bytes, *group_, kernels, options.sizes);
  });
}

template <typename Work>
void PointJob::on_ranks(Work&& work) {
  if (way_ == Way::kAlone) return run_collectively(control_, work);
  if (group_ != nullptr) {
    try {
      work();
    } catch (const Error& error) {
      // The other ranks know nothing of it: rank 0 has to end the job for them.
      if (control_.rank() == 0 && point_.ranks < control_.world_size()) throw Error(error.code(), error.what());
      throw;
    }
  }
  release_idle(control_, point_.ranks);
}

void PointJob::repeat(bool counts) {
  on_ranks([&] {
    const Repetition repetition = measure(*job_, *group_);
    last_seconds_ = repetition.seconds;
    if (counts) repetitions_.push_back(repetition);
  });
}

std::vector<double> PointJob::median_seconds_alone() const {
  if (way_ != Way::kAlone) return {};
  std::vector<double> seconds(static_cast<std::size_t>(control_.world_size()));
  seconds[static_cast<std::size_t>(control_.rank())] = quartiles_of(repetitions_, &Repetition::seconds).median;
  control_.all_reduce(std::span<double>(seconds), ReduceOp::kSum);
  return seconds;
}

}  // namespace ringscan
