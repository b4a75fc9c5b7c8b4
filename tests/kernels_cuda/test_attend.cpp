// The attend kernels against the float64 oracle, on sizes off every tile edge.
#include "core/error.hpp"
#include "tests/kernels_cuda/device_problem.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using cuda::testing::DeviceMechanism;
using cuda::testing::Errors;
using cuda::testing::Problem;

namespace {

const StickBreakingParams kDense{.epsilon = 0.0};
const SparseParams kWindow{.select = SparseSelect::kWindow, .alpha = 3.0, .exponent = 0.7};

std::string describe(const Problem& p) {
  std::string cuts;
  for (const std::int64_t cut : p.key_cuts) cuts += " " + std::to_string(cut);
  return std::string(name_of(mechanism_of(p))) + " " + std::string(name_of(p.type)) + " N" + std::to_string(p.seq_len) +
         " D" + std::to_string(p.head_dim) + " heads " + std::to_string(p.num_heads) + "/" +
         std::to_string(p.num_kv_heads) + " cuts" + cuts;
}

Errors expect_right(const Problem& problem) {
  INFO(describe(problem));
  const Errors errors = cuda::testing::run_and_compare(problem);
  INFO("o off by " << errors.o << " of max|v|, statistic by " << errors.statistic);
  CHECK(errors.o <= cuda::testing::bound(problem.type));
  CHECK(errors.statistic <= 1e-3);
  return errors;
}

/// Calls f with each mechanism and type.
template <typename F>
void for_all(F&& f) {
  for (const ElementType type : {ElementType::kBfloat16, ElementType::kFloat16}) {
    for (const DeviceMechanism& mechanism :
         {DeviceMechanism(SoftmaxParams{}), DeviceMechanism(kDense), DeviceMechanism(StickBreakingParams{}),
          DeviceMechanism(CogParams{}), DeviceMechanism(kWindow)}) {
      Problem problem;
      problem.mechanism = mechanism;
      problem.type = type;
      f(problem);
    }
  }
}

}  // namespace

TEST_CASE("sizes off every tile edge") {
  for_all([](Problem problem) {
    for (const std::int64_t head_dim : {64, 128}) {
      for (const std::int64_t seq_len : {1, 2, 63, 64, 65, 127, 128, 129, 300, 1000}) {
        problem.head_dim = head_dim;
        problem.seq_len = seq_len;
        problem.seed = static_cast<std::uint32_t>(seq_len + head_dim);
        expect_right(problem);
      }
    }
  });
}

TEST_CASE("head dimensions, padded with zeros to a tile's") {
  for_all([](Problem problem) {
    for (const std::int64_t head_dim : {8, 32, 40, 96, 192, 256}) {
      problem.head_dim = head_dim;
      problem.seq_len = 333;
      expect_right(problem);
    }
  });
}

TEST_CASE("grouped heads, batches, gaps between heads and tokens") {
  for_all([](Problem problem) {
    for (const std::int64_t head_dim : {64, 128}) {
      problem.head_dim = head_dim;
      problem.seq_len = 200;
      problem.batch = 2;
      problem.num_heads = 6;
      problem.num_kv_heads = 2;
      problem.head_gap = 8;
      problem.token_stride = 6 * (head_dim + 8) + 16;
      expect_right(problem);
    }
  });
}

TEST_CASE("bands") {
  Problem problem;
  problem.seq_len = 700;
  for (const DeviceMechanism& mechanism :
       {DeviceMechanism(SoftmaxParams{.causal = false}), DeviceMechanism(SoftmaxParams{.window = 1}),
        DeviceMechanism(SoftmaxParams{.window = 100}), DeviceMechanism(SoftmaxParams{.window = 257}),
        DeviceMechanism(SoftmaxParams{.causal = false, .window = 130}), DeviceMechanism(CogParams{.causal = false}),
        DeviceMechanism(StickBreakingParams{.attend_current = true, .epsilon = 0.0}),
        DeviceMechanism(StickBreakingParams{.attend_current = true})}) {
    problem.mechanism = mechanism;
    for (const std::int64_t head_dim : {64, 128, 256}) {
      problem.head_dim = head_dim;
      expect_right(problem);
    }
  }
}

TEST_CASE("keys over several launches that carry the partial, from any query run") {
  for_all([](Problem problem) {
    for (const std::int64_t head_dim : {64, 128}) {
      problem.head_dim = head_dim;
      problem.seq_len = 600;
      for (const TokenRun queries : {TokenRun{0, -1}, TokenRun{250, 410}, TokenRun{599, 600}, TokenRun{0, 10}}) {
        for (const std::vector<std::int64_t>& cuts :
             {std::vector<std::int64_t>{256}, {512, 300, 299, 128}, {600}, {590, 40, 0}}) {
          problem.queries = queries;
          problem.key_cuts = cuts;
          expect_right(problem);
        }
      }
    }
  });
}

TEST_CASE("long items are cut along their keys, and their parts joined") {
  // Few query tiles over many keys: a multiprocessor each would leave most of them idle.
  for (const ElementType type : {ElementType::kBfloat16, ElementType::kFloat16}) {
    for (const DeviceMechanism& mechanism :
         {DeviceMechanism(SoftmaxParams{}), DeviceMechanism(SoftmaxParams{.window = 1700}), DeviceMechanism(kDense),
          DeviceMechanism(CogParams{})}) {
      for (const std::int64_t head_dim : {40, 64, 128, 256}) {
        Problem problem;
        problem.mechanism = mechanism;
        problem.type = type;
        problem.head_dim = head_dim;
        problem.seq_len = 4001;
        problem.batch = 2;
        problem.num_heads = 4;
        problem.num_kv_heads = 2;
        problem.queries = {3700, 4001};
        for (const std::vector<std::int64_t>& cuts : {std::vector<std::int64_t>{5}, {3000, 1700, 3}}) {
          problem.key_cuts = cuts;
          expect_right(problem);
        }
      }
    }
  }
}

TEST_CASE("of more items than multiprocessors the last are cut") {
  for (const DeviceMechanism& mechanism :
       {DeviceMechanism(SoftmaxParams{.causal = false}), DeviceMechanism(kDense), DeviceMechanism(CogParams{})}) {
    Problem problem;
    problem.mechanism = mechanism;
    problem.head_dim = 128;
    problem.seq_len = 6000;
    problem.num_heads = 4;
    problem.queries = {1300, 5900};  // 36 tiles a head: 12 items over a round of 132
    problem.key_cuts = {3};
    expect_right(problem);
  }
}

TEST_CASE("scores of any size") {
  for_all([](Problem problem) {
    problem.head_dim = 128;
    problem.seq_len = 400;
    for (const float shift : {-2000.0f, -200.0f, -30.0f, 30.0f, 200.0f, 2000.0f}) {
      problem.score_shift = shift;
      expect_right(problem);
    }
    problem.score_shift = 0.0f;
    for (const float scale : {4.0f, 16.0f}) {
      problem.input_scale = scale;
      expect_right(problem);
    }
    // In parts, too: some may hold nothing that weighs.
    problem.seq_len = 1800;
    problem.queries = {1600, 1800};
    problem.key_cuts = {1};
    for (const float scale : {1.0f, 16.0f}) {
      problem.input_scale = scale;
      for (const float shift : {-2000.0f, -30.0f, 30.0f, 2000.0f}) {
        problem.score_shift = shift;
        expect_right(problem);
      }
    }
  });
}

TEST_CASE("long sticks: thousands of keys take a little each") {
  for (const ElementType type : {ElementType::kBfloat16, ElementType::kFloat16}) {
    Problem problem;
    problem.mechanism = StickBreakingParams{};
    problem.type = type;
    problem.num_heads = 1;
    problem.seq_len = 12000;
    problem.queries = {11000, 11040};
    problem.input_scale = 0.5f;
    for (const float shift : {-40.0f, -75.0f, -160.0f}) {
      problem.score_shift = shift;
      expect_right(problem);
    }
  }
}

TEST_CASE("long rows: tens of thousands of keys weigh a little each") {
  for (const ElementType type : {ElementType::kBfloat16, ElementType::kFloat16}) {
    Problem problem;
    problem.mechanism = SoftmaxParams{};
    problem.type = type;
    problem.num_heads = 1;
    problem.seq_len = 50001;
    problem.queries = {49985, 50001};
    expect_right(problem);
  }
}

TEST_CASE("cog: a score of zero has weight 0 and counts in the sum") {
  for (const ElementType type : {ElementType::kBfloat16, ElementType::kFloat16}) {
    Problem problem;
    problem.mechanism = CogParams{};
    problem.type = type;
    problem.seq_len = 300;
    problem.input_scale = 0.0f;
    expect_right(problem);
    // The tile that is wholly seen has one such key, or many, of either row, or none.
    problem.input_scale = 1.0f;
    problem.seq_len = 701;
    problem.batch = 2;
    for (const std::int64_t head_dim : {64, 128, 256}) {
      problem.head_dim = head_dim;
      for (const std::int64_t every : {1, 2, 5, 97, 350}) {
        problem.zero_key_every = every;
        for (const float scale : {1.0f, 0.01f, 6.0f}) {  // weights alike, and far apart
          problem.input_scale = scale;
          expect_right(problem);
        }
      }
    }
  }
}

TEST_CASE("cog: rows whose weights grow too large for bf16 as they are are done again, and no others") {
  Problem problem;
  problem.mechanism = CogParams{};
  problem.batch = 2;
  problem.num_heads = 4;
  problem.num_kv_heads = 2;
  for (const std::int64_t head_dim : {64, 128, 256}) {
    problem.head_dim = head_dim;
    problem.input_scale = 1.0f;
    problem.seq_len = 1030;
    problem.queries = {0, -1};
    problem.key_cuts = {};
    const Errors none = expect_right(problem);
    problem.input_scale = 3.6f;
    const Errors some = expect_right(problem);
    INFO("loaded " << some.tiles_loaded << " tiles where " << none.tiles_loaded << " are needed");
    CHECK(some.tiles_loaded > none.tiles_loaded);
    CHECK(some.tiles_loaded < 2 * none.tiles_loaded);
    // Partials of either kind are carried on, and joined where items are cut.
    for (const float scale : {3.4f, 3.6f, 4.0f}) {
      problem.input_scale = scale;
      problem.key_cuts = {900, 512, 300, 40, 0};
      problem.queries = {0, -1};
      expect_right(problem);
      problem.key_cuts = {600, 3};
      problem.queries = {1000, 1030};
      expect_right(problem);
    }
  }
}

TEST_CASE("tiles outside a growing window are not loaded") {
  Problem problem;
  problem.mechanism = SparseParams{.select = SparseSelect::kWindow, .exponent = 0.5};
  problem.head_dim = 128;
  problem.seq_len = 3000;
  problem.num_heads = 1;
  const Errors window = expect_right(problem);
  problem.mechanism = SoftmaxParams{};
  const Errors dense = expect_right(problem);
  CHECK(window.tiles_loaded * 4 < dense.tiles_loaded);
}

TEST_CASE("finished tiles load no more keys") {
  Problem problem;
  problem.mechanism = StickBreakingParams{};
  problem.head_dim = 128;
  problem.seq_len = 6000;
  problem.queries = {4000, 6000};
  const Errors early = expect_right(problem);
  problem.mechanism = kDense;
  const Errors dense = expect_right(problem);
  INFO("loaded " << early.tiles_loaded << " of " << dense.tiles_loaded << " tiles");
  CHECK(early.tiles_loaded * 5 < dense.tiles_loaded);
}

TEST_CASE("offsets past 2^31 elements") {
  for_all([](Problem problem) {
    problem.head_dim = 128;
    problem.seq_len = 520;
    problem.num_heads = 1;
    problem.token_stride = std::int64_t{1} << 22;
    expect_right(problem);
  });
}

TEST_CASE("what the kernels do not take is an error") {
  cuda::DeviceAttend launch;
  launch.task.q = launch.task.k = launch.task.v = {nullptr, ElementType::kBfloat16, {1, 0, 1, 20}, {0, 20, 20, 1}};
  REQUIRE_THROWS_AS(cuda::attend(launch, SoftmaxParams{}, nullptr), Error);
}
