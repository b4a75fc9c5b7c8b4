#include "engine/chela_pass.hpp"

#include <algorithm>

#include "core/stopwatch.hpp"
#include "engine/block_rows.hpp"
#include "engine/halo.hpp"
#include "engine/linear_pass.hpp"
#include "engine/long_conv_pass.hpp"
#include "engine/ssm_pass.hpp"

namespace ringscan {
namespace {

/// Taps [channels, width], each channel's the other way round.
std::vector<float> reversed(const std::vector<float>& taps, std::int64_t width) {
  std::vector<float> out(taps.size());
  for (std::ptrdiff_t first = 0; first < std::ssize(taps); first += width) {
    std::reverse_copy(taps.begin() + first, taps.begin() + first + width, out.begin() + first);
  }
  return out;
}

class ChelaPass {
 public:
  ChelaPass(const ChelaPassTask& task, Transport& transport, const ChelaBackend& backend, MemoryLedger* ledger,
            Heartbeat& heartbeat)
      : task_(task),
        w_(*task.weights),
        s_(task.weights->shape),
        transport_(transport),
        backend_(backend),
        ledger_(ledger),
        heartbeat_(heartbeat),
        batch_(task.x.shape[0]),
        tokens_(task.x.shape[1]),
        space_(backend.ssm.work_memory()),
        chunk_tokens_(backend.ssm.chunk_tokens()) {}

  ChelaPassResult run() {
    for (Buffer* buffer : {&x_, &z_}) *buffer = rows_buffer(s_.channels);
    convolve_short();
    convolve_long();
    for (Buffer* buffer : {&v_, &g_, &o_}) *buffer = rows_buffer(s_.v_channels);
    timed_to_end([&] { project_inputs(); });
    attend();
    timed_to_end([&] { project_output(); });
    return result_;
  }

 private:
  std::int64_t rows() const { return batch_ * tokens_; }
  Buffer rows_buffer(std::int64_t row) const { return floats_buffer(rows() * row, space_, ledger_); }
  template <typename Body>
  void timed_to_end(Body&& body) {
    ringscan::timed_to_end(result_.compute_seconds, backend_.ssm, heartbeat_, body);
  }
  Shape4 shape(std::int64_t tokens, std::int64_t row) const { return {batch_, tokens, 1, row}; }

  template <typename Body>
  void for_chunks(Body&& body) {
    ringscan::for_chunks(batch_, tokens_, chunk_tokens_, heartbeat_, body);
  }

  void load_x(std::int64_t batch, const TokenRun& chunk, float* to) {
    load_rows(task_.x, batch, chunk, backend_.ssm, to);
  }

  /// z_ becomes silu(K_s * x).
  void convolve_short() {
    const std::int64_t before = s_.short_width - 1;
    const HaloSchedule schedule = make_halo_schedule(*task_.layout, transport_.rank(), before);
    Buffer halo_buffer(floats_bytes(batch_ * before * s_.channels), ledger_);
    const auto halo = dense_view(halo_buffer.as<float>(), shape(schedule.halo.size(), s_.channels));
    timed_to_end([&] {
      for_chunks([&](std::int64_t batch, const TokenRun& chunk) {
        load_x(batch, chunk, x_.as<float>() + (batch * tokens_ + chunk.begin) * s_.channels);
      });
    });
    TokenRows own;
    own.tokens = task_.layout->chunks(transport_.rank())[0].run;
    own.rows = dense_view<const float>(x_.as<float>(), shape(tokens_, s_.channels));
    Buffer tail_rows;
    TokenRows tail;
    timed(result_.exposed_seconds, [&] {
      tail = tail_on_host(own, before, space_, ledger_, tail_rows);
      result_.sent_bytes += carry_halo(schedule, tail, task_.past.short_inputs, halo, transport_);
    });
    if (tokens_ == 0) return;
    timed_to_end([&] {
      const TensorView<const float> before_own{halo.data, halo.shape, halo.strides};
      if (task_.future.short_inputs.data != nullptr && own.tokens.end == task_.layout->seq_len()) {
        last_rows(schedule, before_own, tail, task_.future.short_inputs);
      }
      ConvTask conv;
      conv.halo = before_own;
      conv.in = own.rows;
      conv.out = dense_view(z_.as<float>(), own.rows.shape);
      conv.weight = w_.short_conv.data();
      conv.width = s_.short_width;
      backend_.ssm.conv1d(conv);
    });
  }

  /// z_ becomes Z = K_l * z_.
  void convolve_long() {
    const TokenRun own = task_.layout->chunks(transport_.rank())[0].run;
    const TokenRun kept = kept_inputs(*task_.layout, s_.long_width, transport_.rank());
    if (task_.future.long_inputs.data != nullptr) {
      for (std::int64_t batch = 0; batch < batch_ && !kept.empty(); ++batch) {
        const float* from = z_.as<float>() + (batch * tokens_ + kept.begin - own.begin) * s_.channels;
        space_.copy_out(task_.future.long_inputs.row(batch, 0, 0), from, floats_bytes(kept.size() * s_.channels));
      }
    }
    LongConvPassTask conv;
    conv.layout = task_.layout;
    conv.values = dense_view(z_.as<float>(), shape(tokens_, s_.channels));
    conv.taps = w_.long_conv.data();
    conv.width = s_.long_width;
    conv.past = task_.past.long_inputs;
    conv.reproducible = task_.reproducible;
    const LongConvResult result = run_long_conv_pass(conv, transport_, backend_.chela, ledger_);
    result_.compute_seconds += result.compute_seconds;
    result_.exposed_seconds += result.exposed_seconds;
    result_.sent_bytes += result.sent_bytes;
  }

  /// out = in weight^T for a chunk's rows.
  void project(const float* in, std::int64_t in_dim, const PlacedParameter& weight, std::int64_t row_count, float* out,
               std::int64_t out_dim, bool adds) {
    ProjectTask task;
    task.in = in;
    task.in_stride = task.weight_stride = task.in_dim = in_dim;
    task.weight = weight.data();
    task.out = out;
    task.out_stride = task.out_dim = out_dim;
    task.rows = row_count;
    task.adds = adds;
    backend_.ssm.project(task);
  }

  /// V from x and G's argument from Z; then K takes the place of x, and Q that of Z.
  void project_inputs() {
    for_chunks([&](std::int64_t batch, const TokenRun& chunk) {
      const std::int64_t row = batch * tokens_ + chunk.begin;
      const auto count = static_cast<std::size_t>(chunk.size() * s_.v_channels);
      float* const x = x_.as<float>() + row * s_.channels;
      float* const z = z_.as<float>() + row * s_.channels;
      float* const v = v_.as<float>() + row * s_.v_channels;
      project(x, s_.channels, w_.w_v, chunk.size(), v, s_.v_channels, false);
      backend_.chela.silu({v, count});
      project(z, s_.channels, w_.w_g, chunk.size(), g_.as<float>() + row * s_.v_channels, s_.v_channels, false);
      backend_.chela.affine(z, chunk.size(), w_.kk.span(), w_.mk.span(), x);
      backend_.chela.affine(z, chunk.size(), w_.kq.span(), w_.mq.span(), z);
    });
  }

  AnyView heads_of(const Buffer& buffer, std::int64_t dim) const {
    return dense_any_view(buffer.data(), ElementType::kFloat32, {batch_, tokens_, s_.num_heads, dim});
  }

  void attend() {
    std::vector<HeadSlot> slots(static_cast<std::size_t>(s_.num_heads));
    for (std::size_t head = 0; head < slots.size(); ++head)
      slots[head] = {static_cast<int>(head), static_cast<int>(head)};
    LinearPassTask pass;
    pass.layout = task_.layout;
    pass.scale = task_.scale;
    pass.q = heads_of(z_, s_.head_dim());
    pass.k = heads_of(x_, s_.head_dim());
    pass.v = heads_of(v_, s_.v_dim());
    pass.slots = slots;
    pass.o = dense_any_view(o_.data(), ElementType::kFloat32, {batch_, tokens_, s_.num_heads, s_.v_dim()});
    pass.reproducible = task_.reproducible;
    const std::vector<LinearState> initial =
        task_.past.state != nullptr ? initial_states() : std::vector<LinearState>{};
    std::vector<LinearState> final_states;
    pass.initial = initial;
    if (task_.future.state != nullptr) pass.final_states = &final_states;
    const RingPassResult result = run_linear_pass(pass, transport_, backend_.linear, ledger_);
    result_.compute_seconds += result.compute_seconds;
    result_.exposed_seconds += result.exposed_seconds;
    result_.sent_bytes += result.sent_bytes;
    if (task_.future.state == nullptr || state_owner(*task_.layout) != transport_.rank()) return;
    for_states([&](std::int64_t batch, std::int64_t head, std::size_t first) {
      const auto slot = static_cast<std::size_t>(head);
      backend_.linear.load(final_states[groups().group_of(slot)], batch, groups().place_of(slot),
                           {task_.future.state + first, state_size()}, {});
    });
  }

  StateGroups groups() const { return StateGroups(static_cast<std::size_t>(s_.num_heads), backend_.linear); }
  std::size_t state_size() const { return static_cast<std::size_t>(s_.head_dim() * s_.v_dim()); }

  /// body(batch, head, index of the first element in [batch, heads, head_dim, v_dim]).
  template <typename Body>
  void for_states(const Body& body) const {
    for (std::int64_t batch = 0; batch < batch_; ++batch) {
      for (std::int64_t head = 0; head < s_.num_heads; ++head) {
        body(batch, head, static_cast<std::size_t>(batch * s_.num_heads + head) * state_size());
      }
    }
  }

  std::vector<LinearState> initial_states() const {
    std::vector<LinearState> states =
        groups().make_states({batch_, 1, s_.head_dim(), s_.v_dim(), false}, backend_.linear, ledger_);
    for_states([&](std::int64_t batch, std::int64_t head, std::size_t first) {
      const auto slot = static_cast<std::size_t>(head);
      backend_.linear.store(states[groups().group_of(slot)], batch, groups().place_of(slot),
                            {task_.past.state + first, state_size()}, {});
    });
    return states;
  }

  /// y = (silu(G) * O) W_o + x.
  void project_output() {
    for_chunks([&](std::int64_t batch, const TokenRun& chunk) {
      const std::int64_t row = batch * tokens_ + chunk.begin;
      float* const g = g_.as<float>() + row * s_.v_channels;
      float* const y = task_.y.row(batch, chunk.begin, 0);
      backend_.chela.gate({g, static_cast<std::size_t>(chunk.size() * s_.v_channels)},
                          o_.as<float>() + row * s_.v_channels);
      load_x(batch, chunk, y);
      project(g, s_.v_channels, w_.w_o, chunk.size(), y, s_.channels, true);
    });
  }

  const ChelaPassTask& task_;
  const PlacedChelaWeights& w_;
  const ChelaShape& s_;
  Transport& transport_;
  const ChelaBackend& backend_;
  MemoryLedger* ledger_;
  Heartbeat& heartbeat_;
  std::int64_t batch_;
  std::int64_t tokens_;
  MemorySpace& space_;         // of all that follows
  std::int64_t chunk_tokens_;  // go through the projections together
  Buffer x_;                   // [batch, tokens, channels]: x, later K
  Buffer z_;                   // [batch, tokens, channels]: silu(K_s * x), Z, later Q
  Buffer v_;                   // [batch, tokens, v_channels], like the next two
  Buffer g_;
  Buffer o_;
  ChelaPassResult result_;
};

}  // namespace

PlacedChelaWeights::PlacedChelaWeights(const ChelaWeights& weights, MemorySpace& space)
    : shape(weights.shape),
      oldest_first(reversed(weights.short_conv, weights.shape.short_width)),
      short_conv(oldest_first, space),
      long_conv(weights.long_conv, space),
      kq(weights.kq, space),
      mq(weights.mq, space),
      kk(weights.kk, space),
      mk(weights.mk, space),
      w_v(weights.w_v, space),
      w_g(weights.w_g, space),
      w_o(weights.w_o, space) {}

ChelaPassResult run_chela_pass(const ChelaPassTask& task, Transport& transport, const ChelaBackend& backend,
                               MemoryLedger* ledger, Heartbeat& heartbeat) {
  return ChelaPass(task, transport, backend, ledger, heartbeat).run();
}

std::size_t chela_pass_bytes(const ChelaShape& shape, const SequenceLayout& layout, std::int64_t batch,
                             bool reproducible, const ChelaBackend& backend) {
  const std::int64_t rows = batch * layout.max_local_tokens();
  const auto heads = static_cast<std::size_t>(shape.num_heads);
  const std::size_t states = (linear_pass_states(heads, reproducible) + 2 * heads) *
                             (backend.linear.state_bytes({batch, 1, shape.head_dim(), shape.v_dim(), false}) + 128);
  const std::size_t received = backend.linear.memory().is_host() ? 0 : kMostDirectBytes;
  const std::size_t halo = floats_bytes(3 * batch * (shape.short_width - 1) * shape.channels);
  const std::size_t convolving =
      halo + long_conv_pass_bytes(layout, batch, shape.channels, shape.long_width, reproducible, backend.chela);
  const std::size_t attending =
      floats_bytes(3 * rows * shape.v_channels) + states + received +
      backend.linear.linear_scratch_bytes({batch, shape.num_heads, shape.head_dim(), shape.v_dim(), false});
  return floats_bytes(2 * rows * shape.channels) + std::max(convolving, attending) + 16 * 128;
}

TokenRun kept_inputs(const SequenceLayout& layout, std::int64_t width, int rank) {
  return intersect(layout.chunks(rank)[0].run,
                   {std::max<std::int64_t>(0, layout.seq_len() - width + 1), layout.seq_len()});
}

}  // namespace ringscan
