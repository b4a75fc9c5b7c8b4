#include "engine/mamba_pass.hpp"

#include <algorithm>

#include "core/stopwatch.hpp"
#include "engine/halo.hpp"
#include "engine/placed_parameter.hpp"

namespace ringscan {
namespace {

/// Tokens that go through the projections together.
constexpr std::int64_t kChunkTokens = 512;

/// A block of the inner channels.
struct ChannelRun {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

std::size_t floats_bytes(std::int64_t count) {
  return static_cast<std::size_t>(count) * sizeof(float);
}

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
        in_proj_(w_.in_proj, kernels.memory()),
        x_proj_(w_.x_proj, kernels.memory()),
        dt_proj_(w_.dt_proj, kernels.memory()),
        out_proj_(w_.out_proj, kernels.memory()) {}

  SsmPassResult run() {
    x_rows_ = buffer(kChunkTokens * s_.d_model);
    conv_in_ = buffer((kChunkTokens + halo_width_) * block_);
    halo_ = Buffer(floats_bytes(batch_ * halo_width_ * s_.d_inner), ledger_);
    dt_b_c_ = buffer(batch_ * tokens_ * s_.dt_b_c());
    for (Buffer* rows : {&u_, &delta_, &z_}) *rows = buffer(batch_ * tokens_ * block_);
    carry();
    {
      const AddSeconds adder(result_.compute_seconds, SpanKind::kCompute);
      for (const ChannelRun& block : blocks()) {
        convolve(block);
        add_x_proj(block);
      }
    }
    for (const ChannelRun& block : blocks()) run_block(block);
    return result_;
  }

 private:
  Buffer buffer(std::int64_t count) const { return Buffer(floats_bytes(count), ledger_, kernels_.memory()); }

  std::vector<ChannelRun> blocks() const {
    std::vector<ChannelRun> runs;
    for (std::int64_t first = 0; first < s_.d_inner; first += block_) {
      runs.push_back({first, std::min(block_, s_.d_inner - first)});
    }
    return runs;
  }

  template <typename Body>
  void for_chunks(Body&& body) {
    for (std::int64_t batch = 0; batch < batch_; ++batch) {
      for (std::int64_t begin = 0; begin < tokens_; begin += kChunkTokens) {
        body(batch, TokenRun{begin, std::min(tokens_, begin + kChunkTokens)});
        heartbeat_.beat();
      }
    }
  }

  /// The chunk's x as float32 rows.
  const float* load_x(std::int64_t batch, const TokenRun& chunk) {
    auto* rows = x_rows_.as<float>();
    for (std::int64_t token = chunk.begin; token < chunk.end; ++token) {
      convert_elements(task_.x.row(batch, token, 0), task_.x.type, rows + (token - chunk.begin) * s_.d_model,
                       ElementType::kFloat32, static_cast<std::size_t>(s_.d_model));
    }
    return rows;
  }

  void in_proj(const float* x, std::int64_t rows, std::int64_t first_row, std::int64_t count, float* out) {
    ProjectTask project;
    project.in = x;
    project.in_stride = project.weight_stride = project.in_dim = s_.d_model;
    project.weight = in_proj_.data() + first_row * s_.d_model;
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
    timed(result_.compute_seconds, SpanKind::kCompute, [&] {
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
        std::copy_n(halo_view().row(batch, i, 0) + block.first, block.count, in + i * block.count);
      }
      in_proj(load_x(batch, chunk), chunk.size(), block.first, block.count, in + before);
      ConvTask conv;
      conv.halo = dense_view<const float>(in, {1, halo_width_, 1, block.count});
      conv.in = dense_view<const float>(in + before, {1, chunk.size(), 1, block.count});
      conv.out = dense_view(u_.as<float>() + (batch * tokens_ + chunk.begin) * block.count, conv.in.shape);
      conv.weight = w_.conv_weight.data() + block.first * s_.conv_width;
      conv.bias = w_.conv_bias.empty() ? nullptr : w_.conv_bias.data() + block.first;
      conv.width = s_.conv_width;
      kernels_.conv1d(conv);
      // The last inputs of this chunk stand before the next one.
      std::copy_n(in + chunk.size() * block.count, before, in);
    });
  }

  /// What the block's u adds to (dt, B, C).
  void add_x_proj(const ChannelRun& block) {
    for_chunks([&](std::int64_t batch, const TokenRun& chunk) {
      const std::int64_t row = batch * tokens_ + chunk.begin;
      ProjectTask project;
      project.in = u_.as<float>() + row * block.count;
      project.in_stride = project.in_dim = block.count;
      project.weight = x_proj_.data() + block.first;
      project.weight_stride = s_.d_inner;
      project.out = dt_b_c_.as<float>() + row * s_.dt_b_c();
      project.out_stride = project.out_dim = s_.dt_b_c();
      project.rows = chunk.size();
      project.adds = block.first > 0;
      kernels_.project(project);
    });
  }

  void run_block(const ChannelRun& block) {
    timed(result_.compute_seconds, SpanKind::kCompute, [&] {
      if (block_ < s_.d_inner) convolve(block);
      for_chunks([&](std::int64_t batch, const TokenRun& chunk) {
        const std::int64_t row = batch * tokens_ + chunk.begin;
        in_proj(load_x(batch, chunk), chunk.size(), s_.d_inner + block.first, block.count,
                z_.as<float>() + row * block.count);
        ProjectTask project;
        project.in = dt_b_c_.as<float>() + row * s_.dt_b_c();
        project.in_stride = s_.dt_b_c();
        project.in_dim = project.weight_stride = s_.dt_rank;
        project.weight = dt_proj_.data() + block.first * s_.dt_rank;
        project.out = delta_.as<float>() + row * block.count;
        project.out_stride = project.out_dim = block.count;
        project.rows = chunk.size();
        kernels_.project(project);
      });
    });
    scan(block);
    const AddSeconds adder(result_.compute_seconds, SpanKind::kCompute);
    for_chunks([&](std::int64_t batch, const TokenRun& chunk) {
      ProjectTask project;
      project.in = u_.as<float>() + (batch * tokens_ + chunk.begin) * block.count;
      project.in_stride = project.in_dim = block.count;
      project.weight = out_proj_.data() + block.first;
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
  const MambaWeights& w_;
  const MambaShape& s_;
  Transport& transport_;
  SsmKernels& kernels_;
  MemoryLedger* ledger_;
  Heartbeat& heartbeat_;
  std::int64_t batch_;
  std::int64_t tokens_;
  std::int64_t halo_width_;
  std::int64_t block_;
  PlacedParameter in_proj_, x_proj_, dt_proj_, out_proj_;
  Buffer x_rows_;   // [kChunkTokens, d_model]
  Buffer conv_in_;  // [halo and kChunkTokens, block]
  Buffer halo_;     // [batch, halo, d_inner]
  Buffer dt_b_c_;   // [batch, tokens, dt_rank + 2 d_state]
  Buffer u_;        // [batch, tokens, block], like the next two
  Buffer delta_;
  Buffer z_;
  SsmPassResult result_;
};

}  // namespace

SsmPassResult run_mamba_pass(const MambaPassTask& task, Transport& transport, SsmKernels& kernels, MemoryLedger* ledger,
                             Heartbeat& heartbeat) {
  return MambaPass(task, transport, kernels, ledger, heartbeat).run();
}

std::size_t mamba_pass_bytes(const MambaShape& shape, std::int64_t batch, std::int64_t tokens,
                             std::int64_t block_channels) {
  const std::int64_t block = std::clamp<std::int64_t>(block_channels, 1, shape.d_inner);
  const std::int64_t halo = shape.conv_width - 1;
  return floats_bytes(kChunkTokens * shape.d_model + (kChunkTokens + halo) * block + 2 * batch * halo * shape.d_inner +
                      batch * tokens * (shape.dt_b_c() + 3 * block) + 2 * batch * block * shape.d_state) +
         ssm_pass_bytes(batch, block, shape.d_state) + 4 * 128;
}

}  // namespace ringscan
