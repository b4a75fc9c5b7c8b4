#pragma once
// A CHELA block small enough for the oracle, and its run over the ranks.

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "engine/chela_pass.hpp"
#include "engine/long_conv_pass.hpp"
#include "kernels/kernels.hpp"
#include "kernels/reference/chela_oracle.hpp"
#include "tests/comm/worlds.hpp"

namespace ringscan::testing {

struct ChelaProblem {
  ChelaWeights weights;
  std::int64_t batch = 1;
  std::int64_t seq_len = 0;
  std::vector<float> x;  // [batch, seq_len, channels]

  double scale() const { return 1.0 / static_cast<double>(weights.shape.head_dim()); }

  void fill() {
    const ChelaShape& s = weights.shape;
    std::mt19937 generator(static_cast<std::uint32_t>(seq_len + 7 * s.long_width));
    const auto draw = [&generator](std::vector<float>& values, std::int64_t count, double deviation) {
      std::normal_distribution<float> normal(0.0f, static_cast<float>(deviation));
      values.resize(static_cast<std::size_t>(count));
      for (float& value : values) value = normal(generator);
    };
    draw(x, batch * seq_len * s.channels, 1.0);
    draw(weights.short_conv, s.channels * s.short_width, 1.0 / static_cast<double>(s.short_width));
    draw(weights.long_conv, s.channels * s.long_width, 4.0 / static_cast<double>(3 + s.long_width));
    for (auto* parameter : {&weights.kq, &weights.mq, &weights.kk, &weights.mk}) draw(*parameter, s.channels, 1.0);
    const double deviation = 1.0 / static_cast<double>(s.channels);
    for (auto* matrix : {&weights.w_v, &weights.w_g, &weights.w_o}) draw(*matrix, s.channels * s.v_channels, deviation);
  }

  oracle::ChelaParameters parameters() const {
    const ChelaShape& s = weights.shape;
    const auto exactly = [](const std::vector<float>& values) {
      return std::vector<double>(values.begin(), values.end());
    };
    const auto transposed = [](const std::vector<float>& values, std::int64_t rows, std::int64_t columns) {
      std::vector<double> out(values.size());
      for (std::int64_t i = 0; i < rows; ++i) {
        for (std::int64_t j = 0; j < columns; ++j) {
          out[static_cast<std::size_t>(j * rows + i)] = values[static_cast<std::size_t>(i * columns + j)];
        }
      }
      return out;
    };
    oracle::ChelaParameters p;
    p.channels = s.channels;
    p.v_channels = s.v_channels;
    p.num_heads = s.num_heads;
    p.scale = scale();
    p.short_conv = exactly(weights.short_conv);
    p.long_conv = exactly(weights.long_conv);
    p.kq = exactly(weights.kq);
    p.mq = exactly(weights.mq);
    p.kk = exactly(weights.kk);
    p.mk = exactly(weights.mk);
    p.w_v = transposed(weights.w_v, s.v_channels, s.channels);
    p.w_g = transposed(weights.w_g, s.v_channels, s.channels);
    p.w_o = transposed(weights.w_o, s.channels, s.v_channels);
    return p;
  }

  std::vector<double> exact() const {
    const oracle::ChelaParameters p = parameters();
    std::vector<double> y;
    const auto size = static_cast<std::size_t>(seq_len * weights.shape.channels);
    for (std::int64_t b = 0; b < batch; ++b) {
      const auto first = x.begin() + b * static_cast<std::ptrdiff_t>(size);
      const std::vector<double> item(first, first + static_cast<std::ptrdiff_t>(size));
      const std::vector<double> rows = oracle::chela_block(p, item);
      y.insert(y.end(), rows.begin(), rows.end());
    }
    return y;
  }
};

/// What a run leaves behind, whole on every rank; all values are sums over the ranks of what each has written.
struct ChelaKept {
  std::vector<double> short_inputs, long_inputs, state;
};

struct ChelaRun {
  std::vector<double> y;  // [batch, tokens, channels]
  ChelaKept kept;
  std::size_t peak_bytes = 0;
};

/// The tokens [run) of the problem as a job of its own, which begins with `before` where that is given. `weights`: the
/// problem's.
inline ChelaRun run_chela(const ChelaProblem& p, const PlacedChelaWeights& weights, const TokenRun& run,
                          const ChelaKept* before, std::int64_t tile, bool reproducible, Transport& transport,
                          const ChelaBackend& backend) {
  const ChelaShape& s = p.weights.shape;
  const SequenceLayout layout(LayoutKind::kContiguous, run.size(), transport.world_size(), tile);
  const TokenRun own = layout.chunks(transport.rank())[0].run;
  const auto rows_of = [&](const auto& whole, std::int64_t rows, const TokenRun& wanted) {
    std::vector<float> part;
    for (std::int64_t b = 0; b < p.batch; ++b) {
      for (std::int64_t i = wanted.begin * s.channels; i < wanted.end * s.channels; ++i) {
        part.push_back(static_cast<float>(whole[static_cast<std::size_t>(b * rows * s.channels + i)]));
      }
    }
    part.push_back(0.0f);  // so that even none has an address
    return part;
  };
  const auto view = [&](auto* data, std::int64_t rows) { return dense_view(data, {p.batch, rows, 1, s.channels}); };

  const std::vector<float> x = rows_of(p.x, p.seq_len, {run.begin + own.begin, run.begin + own.end});
  std::vector<float> y(x.size());
  ChelaPassTask task;
  task.layout = &layout;
  task.weights = &weights;
  task.scale = p.scale();
  task.x = dense_any_view(x.data(), ElementType::kFloat32, {p.batch, own.size(), 1, s.channels});
  task.y = view(y.data(), own.size());
  task.reproducible = reproducible;
  const TokenRun long_past = wanted_past(layout, s.long_width, reproducible, transport.rank());
  std::vector<float> short_inputs, long_inputs;
  if (before != nullptr) {
    short_inputs = rows_of(before->short_inputs, s.short_width - 1, {0, s.short_width - 1});
    long_inputs = rows_of(before->long_inputs, s.long_width - 1, long_past);
    task.past.short_inputs = view(std::as_const(short_inputs).data(), s.short_width - 1);
    task.past.long_inputs = view(std::as_const(long_inputs).data(), long_past.size());
    task.past.state = before->state.data();
  }
  const TokenRun kept = kept_inputs(layout, s.long_width, transport.rank());
  std::vector<float> last_short(static_cast<std::size_t>(p.batch * (s.short_width - 1) * s.channels) + 1);
  std::vector<float> last_long(static_cast<std::size_t>(p.batch * kept.size() * s.channels) + 1);
  ChelaRun result;
  result.kept.state.resize(static_cast<std::size_t>(p.batch * s.channels * s.v_dim()));
  task.future.short_inputs = view(last_short.data(), s.short_width - 1);
  task.future.long_inputs = view(last_long.data(), kept.size());
  task.future.state = result.kept.state.data();

  MemoryLedger ledger;
  Heartbeat heartbeat;
  run_chela_pass(task, transport, backend, &ledger, heartbeat);
  result.peak_bytes = ledger.peak_bytes();
  test::expect(transport, result.peak_bytes <= chela_pass_bytes(s, layout, p.batch, reproducible, backend));

  const auto gather = [&](std::vector<double>& whole, std::int64_t rows, const TokenRun& to,
                          const std::vector<float>& part) {
    whole.assign(static_cast<std::size_t>(p.batch * rows * s.channels), 0.0);
    for (std::int64_t b = 0; b < p.batch; ++b) {
      std::copy_n(part.begin() + b * to.size() * s.channels, to.size() * s.channels,
                  whole.begin() + (b * rows + to.begin) * s.channels);
    }
    transport.all_reduce(std::span<double>(whole), ReduceOp::kSum);
  };
  gather(result.y, run.size(), own, y);
  gather(result.kept.short_inputs, s.short_width - 1, {0, s.short_width - 1}, last_short);
  // What lies before this job's first token comes from the job before.
  const std::int64_t moved = s.long_width - 1 - run.size();
  const std::int64_t first_row = kept.empty() ? 0 : kept.begin + moved;
  gather(result.kept.long_inputs, s.long_width - 1, {first_row, first_row + kept.size()}, last_long);
  for (std::int64_t b = 0; b < p.batch && before != nullptr; ++b) {
    for (std::int64_t row = 0; row < moved; ++row) {
      for (std::int64_t c = 0; c < s.channels; ++c) {
        const std::int64_t first = b * (s.long_width - 1);
        result.kept.long_inputs[static_cast<std::size_t>((first + row) * s.channels + c)] =
            before->long_inputs[static_cast<std::size_t>((first + row + run.size()) * s.channels + c)];
      }
    }
  }
  transport.all_reduce(std::span<double>(result.kept.state), ReduceOp::kSum);
  return result;
}

inline ChelaRun run_chela(const ChelaProblem& p, const TokenRun& run, const ChelaKept* before, std::int64_t tile,
                          bool reproducible, Transport& transport, const ChelaBackend& backend) {
  const PlacedChelaWeights weights(p.weights, backend.ssm.work_memory());
  return run_chela(p, weights, run, before, tile, reproducible, transport, backend);
}

inline ChelaRun run_chela(const ChelaProblem& p, const TokenRun& run, const ChelaKept* before, std::int64_t tile,
                          bool reproducible, Transport& transport) {
  const auto chela = make_cpu_chela_kernels();
  const auto ssm = make_cpu_ssm_kernels();
  const auto kernels = make_cpu_kernels();
  return run_chela(p, run, before, tile, reproducible, transport, {*chela, *ssm, kernels->linear()});
}

}  // namespace ringscan::testing
