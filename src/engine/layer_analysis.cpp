#include "engine/layer_analysis.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>

#include "core/error.hpp"
#include "core/units.hpp"
#include "engine/measure_pass.hpp"
#include "engine/ring_pass.hpp"

namespace ringscan {
namespace {

constexpr double kWantedMass = 0.95;
constexpr int kExponentSteps = 100;
constexpr std::int64_t kKernelTile = 64;

/// The exponents asked for, and the grid on which the smallest sufficient one is looked for.
std::vector<double> all_exponents(const AnalysisRequest& request) {
  std::vector<double> exponents = request.exponents;
  for (int step = 1; step <= kExponentSteps; ++step) exponents.push_back(static_cast<double>(step) / kExponentSteps);
  std::sort(exponents.begin(), exponents.end());
  exponents.erase(std::unique(exponents.begin(), exponents.end()), exponents.end());
  return exponents;
}

SequenceLayout make_layout(LayoutKind kind, std::int64_t seq_len, int world_size) {
  const std::int64_t runs = static_cast<std::int64_t>(world_size) * (kind == LayoutKind::kZigzag ? 2 : 1);
  return {kind, seq_len, world_size, seq_len >= runs * kKernelTile * 8 ? kKernelTile : 1};
}

/// Some KV heads of a layer and their query heads, and which of their measures are taken under one layout.
struct Share {
  LayoutKind kind = LayoutKind::kContiguous;
  MeasureChoice measures;
  std::vector<int> heads;     ///< of the layer
  std::vector<int> kv_heads;  ///< of the layer

  bool needs_lse() const { return measures.recency || measures.kept_mass; }
};

/// How finely a layer is cut to fit: KV heads read at once, query heads (of one KV head) that go round together.
struct Cut {
  int kv_heads_read = 1;
  int heads_a_pass = 1;
};

/// The rows of one query-head group, as its measures need them.
struct RowBuffers {
  RowBuffers(const LayerShape& layer, std::int64_t tokens, std::int64_t heads, MemoryLedger* ledger)
      : shape{layer.batch, tokens, heads, 1},
        o_buffer(bytes(shape), ledger),
        lse_buffer(bytes(shape), ledger),
        recent_buffer(bytes(shape), ledger) {}
  static std::size_t bytes(const Shape4& shape) {
    return static_cast<std::size_t>(element_count(shape)) * sizeof(float);
  }
  std::size_t rows() const { return static_cast<std::size_t>(shape[0] * shape[1]); }

  Shape4 shape;
  Buffer o_buffer;
  Buffer lse_buffer;
  Buffer recent_buffer;
};

/// Sums over this rank's rows, head by head.
struct HeadSums {
  double recency = 0.0;
  double signed_weights = 0.0;
  std::vector<double> kept_low;
  std::vector<double> kept_high;
  std::vector<StickReach> reach;  ///< of all ranks already
};

class LayerAnalyzer {
 public:
  LayerAnalyzer(const LayerTask& task, const LayerShape& layer)
      : request_(*task.request),
        transport_(*task.transport),
        reader_(*task.reader),
        layer_(layer),
        ledger_(*task.ledger),
        on_progress_(task.on_progress),
        scale_(request_.scale.value_or(1.0 / std::sqrt(static_cast<double>(layer.head_dim)))),
        reach_params_{request_.epsilons},
        mass_params_{request_.select, all_exponents(request_)},
        kernels_(make_cpu_kernels()),
        measures_(make_cpu_measure_kernels()),
        sums_(static_cast<std::size_t>(layer.num_heads)) {}

  /// The cut that moves data least often within `limit_bytes` a rank. @throws Error(kBadInput) where none does.
  Cut choose_cut(std::size_t limit_bytes) const {
    const int group = layer_.num_heads / layer_.num_kv_heads;
    std::size_t least = 0;
    for (int read = layer_.num_kv_heads; read >= 1; --read) {
      for (int pass = group; pass >= 1; --pass) {
        least = bytes_of({read, pass});
        if (least <= limit_bytes) return {read, pass};
      }
    }
    throw bad_input("memory: one head at a time takes " + human_bytes(least) + " a rank, and a rank has " +
                    human_bytes(limit_bytes) + ": use more ranks, or give a larger --memory");
  }

  LayerAnalysis run(const Cut& cut) {
    const std::vector<Share> shares = make_shares(cut);
    double behind = 0.0;
    for (const Share& share : shares) {
      work(share, cut);
      behind += 1.0;
      on_progress_(behind / static_cast<double>(shares.size()));
    }
    return {layer_, figures()};
  }

 private:
  /// Of all ranks.
  double num_rows() const { return static_cast<double>(layer_.batch) * static_cast<double>(layer_.seq_len); }

  /// Row by row the work is even under zigzag; what must walk near first wants contiguous shards.
  std::vector<std::pair<LayoutKind, MeasureChoice>> layouts() const {
    MeasureChoice even = request_.measures;
    MeasureChoice near_first{false, even.reach, false, false};
    const bool is_window = even.kept_mass && request_.select == SparseSelect::kWindow;
    if (transport_.world_size() == 1 || is_window) return {{LayoutKind::kContiguous, even}};
    even.reach = false;
    std::vector<std::pair<LayoutKind, MeasureChoice>> kinds;
    if (even.recency || even.kept_mass || even.sign_balance) kinds.emplace_back(LayoutKind::kZigzag, even);
    if (near_first.reach) kinds.emplace_back(LayoutKind::kContiguous, near_first);
    return kinds;
  }

  std::vector<Share> make_shares(const Cut& cut) const {
    const int group = layer_.num_heads / layer_.num_kv_heads;
    std::vector<Share> shares;
    for (int first = 0; first < layer_.num_kv_heads; first += cut.kv_heads_read) {
      for (const auto& [kind, measures] : layouts()) {
        Share share{kind, measures, {}, {}};
        for (int kv_head = first; kv_head < std::min(first + cut.kv_heads_read, layer_.num_kv_heads); ++kv_head) {
          share.kv_heads.push_back(kv_head);
          for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) share.heads.push_back(head);
        }
        shares.push_back(std::move(share));
      }
    }
    return shares;
  }

  std::size_t bytes_of(const Cut& cut) const {
    const std::int64_t tokens =
        make_layout(LayoutKind::kContiguous, layer_.seq_len, transport_.world_size()).max_local_tokens() + kKernelTile;
    const auto rows = static_cast<std::size_t>(layer_.batch * tokens);
    const auto dim = static_cast<std::size_t>(layer_.head_dim);
    const auto read = static_cast<std::size_t>(cut.kv_heads_read);
    const auto group = static_cast<std::size_t>(layer_.num_heads / layer_.num_kv_heads);
    const std::size_t input = rows * dim * read * (group * size_of(layer_.q_type) + size_of(layer_.kv_type));
    const std::size_t staging = rows * dim * read * std::max(group * layer_.q_staging, layer_.kv_staging);
    const std::size_t travelling = 2 * rows * (dim + 1) * size_of(layer_.kv_type);
    const PartialShape shape{layer_.batch, tokens, cut.heads_a_pass, 1};
    std::size_t block = kernels_->block_bytes(SoftmaxParams{}, shape);
    if (request_.measures.reach) block = std::max(block, measures_->block_bytes(shape, reach_params_));
    if (request_.measures.kept_mass) block = std::max(block, measures_->block_bytes(shape, mass_params_));
    // o and two statistics; or the reach of each row and epsilon, as a list.
    const std::size_t row_values = rows * static_cast<std::size_t>(cut.heads_a_pass) *
                                   std::max(3 * sizeof(float), 2 * sizeof(std::int64_t) * request_.epsilons.size());
    return input + staging + travelling + block + row_values + kernels_->scratch_bytes(layer_.head_dim, 1, kKeyBlock);
  }

  Buffer read(const char* dataset, const SequenceLayout& layout, const std::vector<int>& heads) {
    SlabSelection selection;
    for (const Chunk& chunk : layout.chunks(transport_.rank())) {
      if (!chunk.run.empty()) selection.tokens.push_back(chunk.run);
    }
    selection.heads = heads;
    return reader_.read_slab(*reader_.find(layer_.name, dataset), selection, !request_.allow_nonfinite, &ledger_);
  }

  void work(const Share& share, const Cut& cut) {
    const SequenceLayout layout = make_layout(share.kind, layer_.seq_len, transport_.world_size());
    const std::int64_t tokens = layout.local_tokens(transport_.rank());
    const Buffer q = read("q", layout, share.heads);
    const Buffer k = read("k", layout, share.kv_heads);
    const auto kv_heads = static_cast<std::int64_t>(share.kv_heads.size());
    const auto heads = static_cast<std::int64_t>(share.heads.size());
    MeasureTask task;
    task.layout = &layout;
    task.scale = scale_;
    task.q = dense_any_view(q.data(), layer_.q_type, {layer_.batch, tokens, heads, layer_.head_dim});
    const ElementType k_type = type_in_memory(reader_.find(layer_.name, "k")->type);
    task.k = dense_any_view(k.data(), k_type, {layer_.batch, tokens, kv_heads, layer_.head_dim});
    const int group = layer_.num_heads / layer_.num_kv_heads;
    for (int kv_head = 0; kv_head < static_cast<int>(kv_heads); ++kv_head) {
      for (int first = 0; first < group; first += cut.heads_a_pass) {
        std::vector<HeadSlot> slots;
        for (int i = first; i < std::min(first + cut.heads_a_pass, group); ++i)
          slots.push_back({kv_head * group + i, kv_head});
        task.slots = slots;
        measure(share, task);
      }
    }
  }

  void measure(const Share& share, const MeasureTask& task) {
    const int first_head = share.heads[static_cast<std::size_t>(task.slots[0].q_head)];
    HeadSums* sums = &sums_[static_cast<std::size_t>(first_head)];
    if (share.measures.recency || share.measures.kept_mass || share.measures.sign_balance) {
      measure_rows(share, task, sums);
    }
    if (!share.measures.reach) return;
    ReachCounts counts = run_reach_pass(task, reach_params_, transport_, *measures_, &ledger_);
    const std::vector<std::int64_t> medians = select_quantiles(counts.keys, 0.5, transport_);
    const std::vector<std::int64_t> far = select_quantiles(counts.keys, 0.99, transport_);
    transport_.all_reduce(counts.never, ReduceOp::kSum);
    const std::size_t epsilons = reach_params_.epsilons.size();
    for (std::size_t i = 0; i < medians.size(); ++i) {
      sums[i / epsilons].reach.push_back({medians[i], far[i], static_cast<double>(counts.never[i]) / num_rows()});
    }
  }

  /// Rows are numbered as the slots are, so that buffers hold these heads alone.
  void measure_rows(const Share& share, const MeasureTask& task, HeadSums* sums) {
    const auto heads = static_cast<std::int64_t>(task.slots.size());
    RowBuffers rows(layer_, task.q.shape[1], heads, &ledger_);
    if (share.needs_lse()) pass(task, SoftmaxParams{}, rows, rows.lse_buffer);
    if (share.measures.recency) {
      pass(task, SoftmaxParams{true, request_.recency_window + 1}, rows, rows.recent_buffer);
      add(rows, sums, &HeadSums::recency, [&](std::size_t at) {
        return std::exp(double{rows.recent_buffer.as<float>()[at]} - double{rows.lse_buffer.as<float>()[at]});
      });
    }
    if (share.measures.sign_balance) {
      pass(task, CogParams{}, rows, rows.recent_buffer);
      add(rows, sums, &HeadSums::signed_weights, [&](std::size_t at) { return double{rows.o_buffer.as<float>()[at]}; });
    }
    if (!share.measures.kept_mass) return;
    MeasureTask own = task;
    std::vector<HeadSlot> slots;
    own.q = narrowed(task, slots);
    own.slots = slots;
    const auto lse = dense_view(std::as_const(rows.lse_buffer).as<float>(), rows.shape);
    const KeptMass kept = run_mass_pass(own, mass_params_, lse, transport_, *measures_, &ledger_);
    const std::size_t count = mass_params_.exponents.size();
    for (std::size_t slot = 0; slot < slots.size(); ++slot) {
      const auto part = [&](const std::vector<double>& all) {
        return std::vector<double>(all.begin() + static_cast<std::ptrdiff_t>(slot * count),
                                   all.begin() + static_cast<std::ptrdiff_t>((slot + 1) * count));
      };
      sums[slot].kept_low = part(kept.low);
      sums[slot].kept_high = part(kept.high);
    }
  }

  /// q from the first of the task's heads on, and the slots counted from there.
  static AnyView narrowed(const MeasureTask& task, std::vector<HeadSlot>& slots) {
    AnyView q = task.q;
    q.data = q.row(0, 0, task.slots[0].q_head);
    q.shape[2] = static_cast<std::int64_t>(task.slots.size());
    for (const HeadSlot& slot : task.slots) slots.push_back({slot.q_head - task.slots[0].q_head, slot.kv_head});
    return q;
  }

  /// One mechanism with v = 1: `lse` and o of the rows.
  void pass(const MeasureTask& task, const Mechanism& mechanism, RowBuffers& rows, Buffer& lse) {
    std::vector<HeadSlot> slots;
    double one = 1.0;
    std::array<std::byte, sizeof(double)> value{};
    convert_elements(&one, ElementType::kFloat64, value.data(), task.k.type, 1);
    RingPassTask ring;
    ring.layout = task.layout;
    ring.mechanism = mechanism;
    ring.scale = task.scale;
    ring.key_block = kKeyBlock;
    ring.q = narrowed(task, slots);
    ring.k = task.k;
    ring.v = {value.data(), task.k.type, {task.k.shape[0], task.k.shape[1], task.k.shape[2], 1}, {0, 0, 0, 1}};
    ring.slots = slots;
    ring.o = dense_any_view(rows.o_buffer.data(), ElementType::kFloat32, rows.shape);
    ring.statistic = dense_view(lse.as<float>(), rows.shape);
    run_ring_pass(ring, transport_, *kernels_, &ledger_);
  }

  template <typename Value>
  static void add(const RowBuffers& rows, HeadSums* sums, double HeadSums::*sum, Value&& value) {
    const auto heads = static_cast<std::size_t>(rows.shape[2]);
    for (std::size_t at = 0; at < rows.rows() * heads; ++at) sums[at % heads].*sum += value(at);
  }

  /// Collective.
  std::vector<HeadFigures> figures() {
    const double rows = num_rows();
    std::vector<HeadFigures> all;
    for (int head = 0; head < layer_.num_heads; ++head) {
      HeadSums& sums = sums_[static_cast<std::size_t>(head)];
      HeadFigures figures;
      figures.head = head;
      figures.kv_head = layer_.kv_head_of(head);
      const auto mean = [&](double sum) { return transport_.RankGroup::all_reduce(sum, ReduceOp::kSum) / rows; };
      if (request_.measures.recency) figures.recency_ratio = mean(sums.recency);
      if (request_.measures.sign_balance) {
        figures.cog_negative_share = std::clamp(0.5 * (1.0 - mean(sums.signed_weights)), 0.0, 1.0);  // NaN passes
      }
      if (request_.measures.kept_mass) set_kept_mass(sums, rows, figures);
      figures.reach = sums.reach;
      all.push_back(std::move(figures));
    }
    return all;
  }

  /// Collective.
  void set_kept_mass(HeadSums& sums, double rows, HeadFigures& figures) {
    transport_.all_reduce(sums.kept_low, ReduceOp::kSum);
    transport_.all_reduce(sums.kept_high, ReduceOp::kSum);
    const std::vector<double>& exponents = mass_params_.exponents;
    for (std::size_t i = 0; i < exponents.size(); ++i) {
      const double kept = 0.5 * (sums.kept_low[i] + sums.kept_high[i]) / rows;
      const double error = 0.5 * (sums.kept_high[i] - sums.kept_low[i]) / rows;
      const bool is_asked =
          std::find(request_.exponents.begin(), request_.exponents.end(), exponents[i]) != request_.exponents.end();
      if (is_asked) {
        figures.kept_mass.push_back(kept);
        figures.kept_mass_error = std::max(figures.kept_mass_error, error);
      }
      const double steps = exponents[i] * kExponentSteps;
      const bool is_on_grid = std::abs(steps - std::round(steps)) < 1e-9;
      if (is_on_grid && !figures.smallest_exponent && kept >= kWantedMass) figures.smallest_exponent = exponents[i];
    }
  }

  static constexpr std::int64_t kKeyBlock = 512;

  const AnalysisRequest& request_;
  Transport& transport_;
  ActivationReader& reader_;
  const LayerShape& layer_;
  MemoryLedger& ledger_;
  const std::function<void(double)>& on_progress_;
  double scale_;
  ReachParams reach_params_;
  MassParams mass_params_;
  std::unique_ptr<Kernels> kernels_;
  std::unique_ptr<MeasureKernels> measures_;
  std::vector<HeadSums> sums_;  // by head
};

}  // namespace

LayerAnalysis analyze_layer(const LayerTask& task, const LayerShape& layer) {
  LayerAnalyzer analyzer(task, layer);
  Cut cut;
  run_collectively(*task.transport, [&] { cut = analyzer.choose_cut(task.memory_limit_bytes); });
  return analyzer.run(cut);
}

}  // namespace ringscan
