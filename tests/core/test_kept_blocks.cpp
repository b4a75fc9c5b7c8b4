#include <catch2/catch.hpp>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "core/kept_blocks.hpp"

using ringscan::KeptBlocks;

namespace {

std::vector<std::size_t> freed;

void free_block(void* data, std::size_t capacity) {
  freed.push_back(capacity);
  std::free(data);
}

void* take(KeptBlocks& blocks, std::size_t bytes) {
  void* const data = blocks.take(bytes);
  if (data != nullptr) return data;
  blocks.add(bytes);
  return std::malloc(KeptBlocks::capacity_of(bytes));
}

}  // namespace

TEST_CASE("a capacity is at most an eighth over what is asked for") {
  for (const std::size_t bytes : {1u, 2u, 7u, 8u, 9u, 15u, 16u, 17u, 1000u, 1023u, 1024u, 1025u, 123456789u}) {
    const std::size_t capacity = KeptBlocks::capacity_of(bytes);
    CHECK(capacity >= bytes);
    CHECK(capacity - bytes <= bytes / 8);
    CHECK(KeptBlocks::capacity_of(capacity) == capacity);
  }
}

TEST_CASE("as many bytes as there are no more of are no capacity of few") {
  CHECK(KeptBlocks::capacity_of(SIZE_MAX) == SIZE_MAX);
  CHECK(KeptBlocks::capacity_of(SIZE_MAX - 1000) >= SIZE_MAX - 1000);
}

TEST_CASE("a block that was given up is taken again by who asks for about as much") {
  freed.clear();
  KeptBlocks blocks(1 << 20, free_block);
  void* const first = take(blocks, 1000);
  blocks.give(first, 1000);
  CHECK(blocks.kept_bytes() == KeptBlocks::capacity_of(1000));
  void* const again = take(blocks, 990);
  CHECK(again == first);
  CHECK(blocks.kept_bytes() == 0);
  blocks.give(again, 990);
  blocks.drop();
  CHECK(blocks.kept_bytes() == 0);
  CHECK(freed == std::vector<std::size_t>{KeptBlocks::capacity_of(1000)});
}

TEST_CASE("what is kept and in use is never more than was in use") {
  freed.clear();
  KeptBlocks blocks(1 << 20, free_block);
  void* const small = take(blocks, 1024);
  void* const other = take(blocks, 2048);  // the most in use: 3072
  blocks.give(small, 1024);
  blocks.give(other, 2048);
  CHECK(blocks.kept_bytes() == 3072);
  void* const large = take(blocks, 2560);  // leaves 512: both go
  CHECK(blocks.kept_bytes() == 0);
  CHECK(freed == std::vector<std::size_t>{1024, 2048});
  blocks.give(large, 2560);
  CHECK(blocks.kept_bytes() == 2560);
  blocks.drop();
}

TEST_CASE("no more is kept than may be; the oldest goes first") {
  freed.clear();
  KeptBlocks blocks(3000, free_block);
  void* const a = take(blocks, 1024);
  void* const b = take(blocks, 1280);
  void* const c = take(blocks, 1536);
  void* const huge = take(blocks, 4096);
  blocks.give(huge, 4096);
  CHECK(freed == std::vector<std::size_t>{4096});
  blocks.give(a, 1024);
  blocks.give(b, 1280);
  blocks.give(c, 1536);
  CHECK(blocks.kept_bytes() == 1280 + 1536);
  CHECK(freed == std::vector<std::size_t>{4096, 1024});
  blocks.drop();
}

TEST_CASE("an allocation that failed is not in use") {
  freed.clear();
  KeptBlocks blocks(1 << 20, free_block);
  CHECK(blocks.take(1 << 16) == nullptr);
  void* const a = take(blocks, 1024);
  blocks.give(a, 1024);
  CHECK(blocks.kept_bytes() == 1024);
  blocks.drop();
}
