#include "engine/mamba_pass.hpp"

#include <algorithm>

#include "core/stopwatch.hpp"
#include "engine/block_rows.hpp"
#include "engine/halo.hpp"

namespace ringscan {
namespace {

/// A block of the inner channels.
struct ChannelRun {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

class MambaPass {
 public:
  MambaPass(const MambaPassTask& task, Transport& transport, SsmKernels& kernels, MemoryLedger* ledger,
            Heartbeat& heartbeat)
      : task_(task),
        w_(*task.weights),
        s_(task.weights->shape),
        transport_(transport),
        kernels_(kernels),
        ledger_(ledger),
        heartbeat_(heartbeat),
        batch_(task.x.shape[0]),
        tokens_(task.x.shape[1]),
        halo_width_(s_.conv_width - 1),
        block_(std::clamp<std::int64_t>(task.block_channels, 1, s_.d_inner)),
        chunk_tokens_(kernels.chunk_tokens()),
        space_(kernels.work_memory()) {}

  SsmPassResult run() {
    const std::int64_t chunk = std::min(chunk_tokens_, tokens_);
    x_rows_ = buffer(chunk * s_.d_model);
    conv_in_ = buffer((chunk + halo_width_) * block_);
    halo_ = Buffer(floats_bytes(batch_ * halo_width_ * s_.d_inner), ledger_);
    dt_b_c_ = buffer(batch_ * tokens_ * s_.dt_b_c());
    for (Buffer* rows : {&u_, &delta_, &z_}) *rows = buffer(batch_ * tokens_ * block_);
    carry();
    timed_to_end([&] {
      for (const ChannelRun& block : blocks()) {
        convolve(block);
        add_x_proj(block);
      }
    });
    for (const ChannelRun& block : blocks()) run_block(block);
    return result_;
  }

 private:
  Buffer buffer(std::int64_t count) const { return floats_buffer(count, space_, ledger_); }
  template <typename Body>
  void timed_to_end(Body&& body) {
    ringscan::timed_to_end(result_.compute_seconds, kernels_, heartbeat_, body);
  }

  std::vector<ChannelRun> blocks() const {
    std::vector<ChannelRun> runs;
    for (std::int64_t first = 0; first < s_.d_inner; first += block_) {
      runs.push_back({first, std::min(block_, s_.d_inner - first)});
    }
    return runs;
  }

  template <typename Body>
  void for_chunks(Body&& body) {
    ringscan::for_chunks(batch_, tokens_, chunk_tokens_, heartbeat_, body);
  }

  /// The chunk's x as float32 rows.
  const float* load_x(std::int64_t batch, const TokenRun& chunk) {
    auto* rows = x_rows_.as<float>();
    load_rows(task_.x, batch, chunk, kernels_, rows);
    return rows;
  }

  void in_proj(const float* x, std::int64_t rows, std::int64_t first_row, std::int64_t count, float* out) {
    ProjectTask project;
    project.in = x;
    project.in_stride = project.weight_stride = project.in_dim = s_.d_model;
    project.weight = w_.in_proj.data() + first_row * s_.d_model;
    project.out = out;
    project.out_stride = project.out_dim = count;
    project.rows = rows;
    kernels_.project(project);
  }

  TensorView<float> halo_view() { return dense_view(halo_.as<float>(), {batch_, halo_width_, 1, s_.d_inner}); }

  /// The convolution's inputs before this rank's tokens, and those that a later run needs.
  void carry() {
    const HaloSchedule schedule = make_halo_schedule(*task_.layout, transport_.rank(), halo_width_);
    const TokenRun own = task_.layout->chunks(transport_.rank())[0].run;
    TokenRows tail;
    tail.tokens = {std::max(own.begin, own.end - halo_width_), own.end};
    const std::int64_t rows = tail.tokens.size();
    Buffer tail_rows(floats_bytes(batch_ * rows * s_.d_inner), ledger_);
    timed_to_end([&] {
      for (std::int64_t batch = 0; batch < batch_ && rows > 0; ++batch) {
        in_proj(load_x(batch, {tokens_ - rows, tokens_}), rows, 0, s_.d_inner,
                tail_rows.as<float>() + batch * rows * s_.d_inner);
      }
    });
    tail.rows = dense_view<const float>(tail_rows.as<float>(), {batch_, rows, 1, s_.d_inner});
    const Shape4 state_shape{batch_, halo_width_, 1, s_.d_inner};
    const AddSeconds adder(result_.exposed_seconds);
    TensorView<float> halo = halo_view();
    halo.shape[1] = schedule.halo.size();
    result_.sent_bytes +=
        carry_halo(schedule, tail, dense_view<const float>(task_.initial.conv, state_shape), halo, transport_);
    if (task_.final.conv == nullptr || own.empty() || transport_.rank() != last_rank_of(*task_.layout)) return;
    last_rows(schedule, dense_view<const float>(halo_.as<float>(), state_shape), tail,
              dense_view(task_.final.conv, state_shape));
  }

  /// u of the block: in_proj's first half, convolved.
  void convolve(const ChannelRun& block) {
    auto* in = conv_in_.as<float>();
    const std::int64_t before = halo_width_ * block.count;
    for_chunks([&](std::int64_t batch, const TokenRun& chunk) {
      for (std::int64_t i = 0; i < halo_width_ && chunk.begin == 0; ++i) {
        space_.copy_in(in + i * block.count, halo_view().row(batch, i, 0) + block.first, floats_bytes(block.count));
      }
      in_proj(load_x(batch, chunk), chunk.size(), block.first, block.count, in + before);
      ConvTask conv;
      conv.halo = dense_view<const float>(in, {1, halo_width_, 1, block.count});
      conv.in = dense_view<const float>(in + before, {1, chunk.size(), 1, block.count});
      conv.out = dense_view(u_.as<float>() + (batch * tokens_ + chunk.begin) * block.count, conv.in.shape);
      conv.weight = w_.conv_weight.data() + block.first * s_.conv_width;
      conv.bias = w_.conv_bias.data() == nullptr ? nullptr : w_.conv_bias.data() + block.first;
      conv.width = s_.conv_width;
      kernels_.conv1d(conv);
      // The last inputs of this chunk stand before the next one; no chunk but the last is shorter than the halo.
      const std::size_t row_bytes = floats_bytes(block.count);
      if (chunk.end < tokens_) {
        space_.copy_rows(in, row_bytes, in + chunk.size() * block.count, row_bytes, row_bytes,
                         static_cast<std::size_t>(halo_width_));
      }
    });
  }

  /// What the block's u adds to (dt, B, C).
  void add_x_proj(const ChannelRun& block) {
    for_chunks([&](std::int64_t batch, const TokenRun& chunk) {
      const std::int64_t row = batch * tokens_ + chunk.begin;
      ProjectTask project;
      project.in = u_.as<float>() + row * block.count;
      project.in_stride = project.in_dim = block.count;
      project.weight = w_.x_proj.data() + block.first;
      project.weight_stride = s_.d_inner;
      project.out = dt_b_c_.as<float>() + row * s_.dt_b_c();
      project.out_stride = project.out_dim = s_.dt_b_c();
      project.rows = chunk.size();
      project.adds = block.first > 0;
      kernels_.project(project);
    });
  }

  void run_block(const ChannelRun& block) {
    timed_to_end([&] {
      if (block_ < s_.d_inner) convolve(block);
      for_chunks([&](std::int64_t batch, const TokenRun& chunk) {
        const std::int64_t row = batch * tokens_ + chunk.begin;
        in_proj(load_x(batch, chunk), chunk.size(), s_.d_inner + block.first, block.count,
                z_.as<float>() + row * block.count);
        ProjectTask project;
        project.in = dt_b_c_.as<float>() + row * s_.dt_b_c();
        project.in_stride = s_.dt_b_c();
        project.in_dim = project.weight_stride = s_.dt_rank;
        project.weight = w_.dt_proj.data() + block.first * s_.dt_rank;
        project.out = delta_.as<float>() + row * block.count;
        project.out_stride = project.out_dim = block.count;
        project.rows = chunk.size();
        kernels_.project(project);
      });
    });
    scan(block);
    timed_to_end([&] { add_out_proj(block); });
  }

  /// What the block's gated y adds to the output.
  void add_out_proj(const ChannelRun& block) {
    for_chunks([&](std::int64_t batch, const TokenRun& chunk) {
      ProjectTask project;
      project.in = u_.as<float>() + (batch * tokens_ + chunk.begin) * block.count;
      project.in_stride = project.in_dim = block.count;
      project.weight = w_.out_proj.data() + block.first;
      project.weight_stride = s_.d_inner;
      project.out = task_.out.row(batch, chunk.begin, 0);
      project.out_stride = project.out_dim = s_.d_out;
      project.rows = chunk.size();
      project.adds = block.first > 0;
      kernels_.project(project);
    });
  }

  /// The gated y takes u's place.
  void scan(const ChannelRun& block) {
    const auto view = [&](const Buffer& buffer) {
      return dense_any_view(buffer.data(), ElementType::kFloat32, {batch_, tokens_, 1, block.count});
    };
    SsmPassTask pass;
    pass.layout = task_.layout;
    pass.reproducible = task_.reproducible;
    pass.inputs.u = view(u_);
    pass.inputs.delta = view(delta_);
    pass.inputs.z = view(z_);
    const std::int64_t width = s_.dt_b_c();
    AnyView b_c = dense_any_view(std::as_const(dt_b_c_).data(), ElementType::kFloat32, {batch_, tokens_, 1, width});
    b_c.shape[3] = s_.d_state;
    pass.inputs.b = pass.inputs.c = b_c;
    pass.inputs.b.data += floats_bytes(s_.dt_rank);
    pass.inputs.c.data += floats_bytes(s_.dt_rank + s_.d_state);
    pass.inputs.channels_per_group = block.count;
    pass.inputs.a = w_.a.data() + block.first * s_.d_state;
    pass.inputs.d = w_.d.data() + block.first;
    pass.inputs.delta_bias = w_.dt_bias.data() + block.first;
    pass.y = dense_view(u_.as<float>(), {batch_, tokens_, 1, block.count});

    const std::int64_t states = block.count * s_.d_state;
    Buffer initial(task_.initial.h != nullptr ? floats_bytes(batch_ * states) : 0, ledger_);
    Buffer last(task_.final.h != nullptr ? floats_bytes(batch_ * states) : 0, ledger_);
    const auto place = [&](float* whole, std::int64_t batch) {
      return whole + (batch * s_.d_inner + block.first) * s_.d_state;
    };
    for (std::int64_t batch = 0; batch < batch_ && task_.initial.h != nullptr; ++batch) {
      std::copy_n(place(task_.initial.h, batch), states, initial.as<float>() + batch * states);
    }
    if (task_.initial.h != nullptr) pass.initial_state = initial.as<float>();
    if (task_.final.h != nullptr) pass.final_state = last.as<float>();
    result_ += run_ssm_pass(pass, transport_, kernels_, ledger_, heartbeat_);
    if (task_.final.h == nullptr || transport_.rank() != last_rank_of(*task_.layout)) return;
    for (std::int64_t batch = 0; batch < batch_; ++batch) {
      std::copy_n(last.as<float>() + batch * states, states, place(task_.final.h, batch));
    }
  }

  const MambaPassTask& task_;
  const PlacedMambaWeights& w_;
  const MambaShape& s_;
  Transport& transport_;
  SsmKernels& kernels_;
  MemoryLedger* ledger_;
  Heartbeat& heartbeat_;
  std::int64_t batch_;
  std::int64_t tokens_;
  std::int64_t halo_width_;
  std::int64_t block_;
  std::int64_t chunk_tokens_;  // go through the projections together
  MemorySpace& space_;         // of all that follows but the halo
  Buffer x_rows_;              // [chunk, d_model]
  Buffer conv_in_;             // [halo and chunk, block]
  Buffer halo_;                // [batch, halo, d_inner]
  Buffer dt_b_c_;              // [batch, tokens, dt_rank + 2 d_state]
  Buffer u_;                   // [batch, tokens, block], like the next two
  Buffer delta_;
  Buffer z_;
  SsmPassResult result_;
};

}  // namespace

PlacedMambaWeights::PlacedMambaWeights(const MambaWeights& weights, MemorySpace& space)
    : shape(weights.shape),
      in_proj(weights.in_proj, space),
      conv_weight(weights.conv_weight, space),
      conv_bias(weights.conv_bias, space),
      x_proj(weights.x_proj, space),
      dt_proj(weights.dt_proj, space),
      dt_bias(weights.dt_bias, space),
      a(weights.a, space),
      d(weights.d, space),
      out_proj(weights.out_proj, space) {}

SsmPassResult run_mamba_pass(const MambaPassTask& task, Transport& transport, SsmKernels& kernels, MemoryLedger* ledger,
                             Heartbeat& heartbeat) {
  return MambaPass(task, transport, kernels, ledger, heartbeat).run();
}

std::size_t mamba_pass_bytes(const MambaShape& shape, std::int64_t batch, std::int64_t tokens,
                             std::int64_t block_channels, std::int64_t chunk_tokens) {
  const std::int64_t block = std::clamp<std::int64_t>(block_channels, 1, shape.d_inner);
  const std::int64_t halo = shape.conv_width - 1;
  return floats_bytes(chunk_tokens * shape.d_model + (chunk_tokens + halo) * block + 2 * batch * halo * shape.d_inner +
                      batch * tokens * (shape.dt_b_c() + 3 * block) + 2 * batch * block * shape.d_state) +
         ssm_pass_bytes(batch, block, shape.d_state) + 4 * 128;
}

}  // namespace ringscan
