#pragma once
// What the passes of blocks share: rows of float32, met chunk by chunk.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/buffer.hpp"
#include "core/stopwatch.hpp"
#include "core/tensor_view.hpp"
#include "core/token_run.hpp"
#include "kernels/ssm_kernels.hpp"

namespace ringscan {

inline std::size_t floats_bytes(std::int64_t count) {
  return static_cast<std::size_t>(count) * sizeof(float);
}

/// Where kernels work; counted where that is the host's memory.
inline Buffer floats_buffer(std::int64_t count, MemorySpace& space, MemoryLedger* ledger) {
  return Buffer(floats_bytes(count), ledger_for(space, ledger), space);
}

/// body(batch, chunk) for the chunks of each batch item.
template <typename Body>
void for_chunks(std::int64_t batches, std::int64_t tokens, std::int64_t chunk_tokens, Heartbeat& heartbeat,
                Body&& body) {
  for (std::int64_t batch = 0; batch < batches; ++batch) {
    for (std::int64_t begin = 0; begin < tokens; begin += chunk_tokens) {
      body(batch, TokenRun{begin, std::min(tokens, begin + chunk_tokens)});
      heartbeat.beat();
    }
  }
}

/// A chunk of x [batch, tokens, 1, channels] as dense float32 rows, where kernels work.
inline void load_rows(const AnyView& x, std::int64_t batch, const TokenRun& chunk, const SsmKernels& kernels,
                      float* to) {
  AnyView rows = x.tokens(chunk.begin, chunk.size());
  rows.data = x.row(batch, chunk.begin, 0);
  rows.shape[0] = 1;
  kernels.convert(rows, dense_any_view(static_cast<void*>(to), ElementType::kFloat32, rows.shape));
}

/// Adds the body's time, to where a device is through with it.
template <typename Body>
void timed_to_end(double& seconds, const SsmKernels& kernels, Heartbeat& heartbeat, Body&& body) {
  const AddSeconds adder(seconds, SpanKind::kCompute);
  body();
  kernels.settle(heartbeat);
}

}  // namespace ringscan
