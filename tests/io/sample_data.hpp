#pragma once
// Data whose every element says where in its dataset it stands, and is exact in each element type.

#include <numeric>
#include <vector>

#include "core/error.hpp"
#include "io/activation_file.hpp"
#include "sequence/sequence_layout.hpp"
#include "tests/io/rank_runner.hpp"

namespace ringscan::test {

/// Integers in [-128, 128]: exact in bfloat16 and up.
inline float sample_value(std::int64_t index_global) {
  const auto mixed = static_cast<std::uint64_t>(index_global) * 0x9e3779b97f4a7c15u;
  return static_cast<float>(static_cast<int>((mixed >> 40) % 257) - 128);
}

inline std::int64_t count_of(const std::vector<std::int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

inline std::vector<int> all_heads(std::int64_t num_heads) {
  std::vector<int> heads(static_cast<std::size_t>(num_heads));
  std::iota(heads.begin(), heads.end(), 0);
  return heads;
}

inline SlabSelection shard_of(const SequenceLayout& layout, int rank, const std::vector<int>& heads) {
  SlabSelection selection{{}, heads};
  for (const Chunk& chunk : layout.chunks(rank)) {
    if (!chunk.run.empty()) selection.tokens.push_back(chunk.run);
  }
  return selection;
}

/// Calls f(index in the dense slab, index in the dataset) for each element of the selection, in memory order.
template <typename F>
void for_each_selected(const std::vector<std::int64_t>& shape, const SlabSelection& selection, F&& f) {
  const std::int64_t dim = shape.size() == 4 ? shape[3] : 1;
  std::int64_t local = 0;
  for (std::int64_t batch = 0; batch < shape[0]; ++batch) {
    for (const TokenRun& run : selection.tokens) {
      for (std::int64_t token = run.begin; token < run.end; ++token) {
        for (const int head : selection.heads) {
          for (std::int64_t d = 0; d < dim; ++d) f(local++, ((batch * shape[1] + token) * shape[2] + head) * dim + d);
        }
      }
    }
  }
}

inline Buffer sample_slab(const std::vector<std::int64_t>& shape, const SlabSelection& selection, ElementType type) {
  std::vector<float> values;
  for_each_selected(shape, selection,
                    [&](std::int64_t, std::int64_t index_global) { values.push_back(sample_value(index_global)); });
  Buffer slab(values.size() * size_of(type));
  convert_elements(values.data(), ElementType::kFloat32, slab.data(), type, values.size());
  return slab;
}

/// @throws where the slab is not the sample data of the selection.
inline void expect_sample(const Buffer& slab, const std::vector<std::int64_t>& shape, const SlabSelection& selection,
                          ElementType in_memory, const std::string& what) {
  std::vector<float> found(slab.size_bytes() / size_of(in_memory));
  convert_elements(slab.data(), in_memory, found.data(), ElementType::kFloat32, found.size());
  std::int64_t count = 0;
  for_each_selected(shape, selection, [&](std::int64_t local, std::int64_t index_global) {
    ++count;
    expect(local < std::int64_t(found.size()) && found[static_cast<std::size_t>(local)] == sample_value(index_global),
           what + ": element " + std::to_string(local) + " of the slab, " + std::to_string(index_global) +
               " of the dataset");
  });
  expect(count == std::int64_t(found.size()), what + ": size of the slab");
}

/// Writes sample data of that shape by all ranks, into a file that is then complete.
inline void write_sample_file(RankContext& context, const std::string& path, const std::string& layer,
                              const std::string& dataset, ElementType type, const std::vector<std::int64_t>& shape) {
  ActivationWriter writer(context.access, path, false);
  const DatasetInfo info = writer.create(layer, dataset, type, shape);
  const SequenceLayout layout(LayoutKind::kContiguous, shape[1], context.world_size(), 1);
  const SlabSelection shard = shard_of(layout, context.rank(), all_heads(shape[2]));
  const Buffer slab = sample_slab(shape, shard, type);
  writer.write_slab(info, shard, slab.data());
  writer.finish();
}

/// The message of the Error that all ranks throw in `work`.
inline std::string collective_message(RankContext& context, ExitCode code, const std::function<void()>& work) {
  std::string message = "no error";
  try {
    work();
  } catch (const Error& error) {
    message = error.what();
    expect(error.code() == code, "exit code of: " + message);
    expect(error.is_collective(), "all ranks know of: " + message);
    expect(message.find('\n') == std::string::npos, "one line: " + message);
  }
  std::string of_first = message;
  context.group.broadcast(of_first, 0);
  expect_equal(message, of_first);
  return message;
}

inline void expect_contains(const std::string& text, const std::string& part) {
  expect(text.find(part) != std::string::npos, "'" + part + "' stands in: " + text);
}

}  // namespace ringscan::test
