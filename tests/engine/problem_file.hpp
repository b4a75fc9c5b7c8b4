#pragma once
// Attention problems as an activation file.

#include <string>
#include <vector>

#include "comm/transport.hpp"
#include "io/activation_file.hpp"
#include "tests/engine/access.hpp"
#include "tests/support/attention_problem.hpp"

namespace ringscan::test {

/// Writes the problems as layers "0", "1", ...; collective.
inline void write_input(const std::string& path, const std::vector<testing::AttentionProblem>& layers,
                        Transport& transport) {
  const auto access = make_access(transport);
  ActivationWriter writer(*access, path, false);
  for (std::size_t index = 0; index < layers.size(); ++index) {
    const testing::AttentionProblem& problem = layers[index];
    const SequenceLayout layout(LayoutKind::kContiguous, problem.seq_len, transport.world_size(), 1);
    const auto write = [&](const char* name, const std::vector<float>& whole, std::int64_t heads, std::int64_t dim) {
      const DatasetInfo info =
          writer.create(std::to_string(index), name, problem.type, {problem.batch, problem.seq_len, heads, dim});
      SlabSelection selection;
      const TokenRun run = layout.chunks(transport.rank())[0].run;
      if (!run.empty()) selection.tokens = {run};
      for (int head = 0; head < heads; ++head) selection.heads.push_back(head);
      const auto shard = testing::shard_of(whole, problem.type, problem.batch, heads * dim, layout, transport.rank());
      writer.write_slab(info, selection, shard.data());
    };
    write("q", problem.q, problem.num_heads, problem.head_dim);
    write("k", problem.k, problem.num_kv_heads, problem.head_dim);
    write("v", problem.v, problem.num_kv_heads, problem.v_dim);
  }
  writer.finish();
}

}  // namespace ringscan::test
