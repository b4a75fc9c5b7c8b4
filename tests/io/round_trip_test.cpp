// What is written comes back, for every type, layout and number of ranks, and by collective transfers alone.
#include "io/slab.hpp"
#include "tests/io/sample_data.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using namespace ringscan::test;

namespace {

constexpr ElementType kTypes[] = {ElementType::kFloat64, ElementType::kFloat32, ElementType::kFloat16,
                                  ElementType::kBfloat16};

class SmallPieces {
 public:
  explicit SmallPieces(std::size_t bytes) : before_(piece_limit_bytes()) { set_piece_limit_bytes(bytes); }
  ~SmallPieces() { set_piece_limit_bytes(before_); }

 private:
  std::size_t before_;
};

void expect_collective(const RankContext& context, const TransferRecord& record) {
  const std::string in_all = " of " + std::to_string(record.transfers);
  if (context.access.is_parallel()) {
    expect(record.not_collective == 0, "none is independent: " + std::to_string(record.not_collective) + in_all);
  }
  const std::int64_t most = context.group.all_reduce(record.transfers, ReduceOp::kMax);
  expect(record.transfers == most, "as many on all ranks: " + std::to_string(most) + in_all);
}

/// Two writes of interleaved heads, then reads of all heads, of some with holes, of the whole, and of one head.
void round_trip(RankContext& context, LayoutKind kind, ElementType type, const std::vector<std::int64_t>& shape) {
  const std::string what = std::string(name_of(type)) + ", " + std::string(name_of(kind)) + ", seq_len " +
                           std::to_string(shape[1]) + ", ranks " + std::to_string(context.world_size());
  const std::string path = context.file("sample.h5");
  const SequenceLayout layout(kind, shape[1], context.world_size(), 4);
  {
    ActivationWriter writer(context.access, path, true);
    const DatasetInfo info = writer.create("7", "q", type, shape);
    for (const std::vector<int>& heads : {std::vector<int>{0, 2, 4}, std::vector<int>{1, 3}}) {
      const SlabSelection shard = shard_of(layout, context.rank(), heads);
      const Buffer slab = sample_slab(shape, shard, type);
      writer.write_slab(info, shard, slab.data());
    }
    expect_collective(context, writer.record());
    writer.finish();
  }
  ActivationReader reader(context.access, path);
  std::vector<std::int64_t> want = shape;
  want[1] = -1;
  const DatasetInfo info = reader.require("7", "q", want);
  expect(info.type == type && info.shape == shape, what + ": description");
  for (const std::vector<int>& heads : {all_heads(5), std::vector<int>{0, 2, 3}, std::vector<int>{4}}) {
    const SlabSelection shard = shard_of(layout, context.rank(), heads);
    MemoryLedger ledger;
    const Buffer slab = reader.read_slab(info, shard, true, &ledger);
    expect(ledger.current_bytes() == slab.size_bytes(), what + ": ledger");
    expect_sample(slab, shape, shard, type_in_memory(type), what);
  }
  const std::vector<double> whole = reader.read_whole(info);
  expect(std::int64_t(whole.size()) == count_of(shape), what + ": size of the whole");
  for (std::size_t i = 0; i < whole.size(); ++i) {
    expect(whole[i] == double(sample_value(std::int64_t(i))), what + ": the whole");
  }
  expect_collective(context, reader.record());
  const std::int64_t dim = shape.size() == 4 ? shape[3] : 1;
  if (context.rank() == context.world_size() - 1 && shape[1] > 2) {  // one rank alone
    const std::vector<double> head = reader.read_head(info, 1, {1, shape[1]}, 3);
    for (std::int64_t token = 1; token < shape[1]; ++token) {
      expect(head[std::size_t((token - 1) * dim)] == sample_value(((shape[1] + token) * 5 + 3) * dim),
             what + ": one head");
    }
  }
}

}  // namespace

TEST_CASE("every element type comes back under both layouts") {
  on_ranks([](RankContext& context) {
    for (const ElementType type : kTypes) {
      round_trip(context, LayoutKind::kContiguous, type, {2, 37, 5, 6});
      round_trip(context, LayoutKind::kZigzag, type, {2, 37, 5, 6});
    }
  });
}

TEST_CASE("shards may be empty, and statistics have no dim") {
  on_ranks([](RankContext& context) {
    round_trip(context, LayoutKind::kContiguous, ElementType::kFloat32, {2, 3, 5, 2});
    round_trip(context, LayoutKind::kZigzag, ElementType::kBfloat16, {2, 1, 5, 2});
    round_trip(context, LayoutKind::kZigzag, ElementType::kFloat32, {2, 29, 5});
    round_trip(context, LayoutKind::kContiguous, ElementType::kFloat16, {2, 0, 5, 2});
  });
}

TEST_CASE("slabs are split, equally often on all ranks") {
  for (const std::size_t limit : {std::size_t{1}, std::size_t{100}, std::size_t{700}, std::size_t{2500}}) {
    const SmallPieces small(limit);
    on_ranks([](RankContext& context) {
      round_trip(context, LayoutKind::kZigzag, ElementType::kBfloat16, {2, 19, 5, 3});
      round_trip(context, LayoutKind::kContiguous, ElementType::kFloat64, {3, 5, 5, 2});
    });
  }
}

TEST_CASE("pieces of a slab are contiguous in memory and within the limit") {
  DatasetInfo dataset;
  dataset.path = "/q";
  dataset.shape = {3, 100, 4, 8};
  const Slab slab("file", dataset, {{{10, 30}, {50, 61}}, {0, 2, 3}});
  REQUIRE(slab.element_count() == 3 * 31 * 3 * 8);
  REQUIRE(slab.to_global(0) == 10 * 32);
  REQUIRE(slab.to_global(20 * 24 + 8) == (50 * 4 + 2) * 8);
  REQUIRE(slab.to_global(31 * 24 * 2 + 23) == ((200 + 10) * 4 + 3) * 8 + 7);
  for (const std::size_t limit : {std::size_t{1}, std::size_t{96}, std::size_t{1000}, std::size_t{2976 * 2}}) {
    std::int64_t next = 0;
    for (const SlabPiece& piece : slab.pieces(4, limit)) {
      REQUIRE(piece.first_element == next);
      REQUIRE((piece.element_count * 4 <= std::int64_t(limit) || piece.token_count == 1));
      next += piece.element_count;
    }
    REQUIRE(next == slab.element_count());
  }
  REQUIRE(slab.pieces(4, 2976 * 2).size() == 2);
  REQUIRE(slab.pieces(4, std::size_t{1} << 30).size() == 1);
}
