#include "engine/synthetic_activations.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/local_transport.hpp"
#include "core/error.hpp"
#include "io/activation_file.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

std::vector<float> values_of(const SyntheticSpec& spec, std::int64_t layer, SyntheticDataset dataset,
                             std::int64_t first, std::size_t count) {
  std::vector<float> values(count);
  fill_synthetic(spec, layer, dataset, first, values);
  return values;
}

struct Moments {
  double mean = 0.0;
  double deviation = 0.0;
};

template <typename T>
Moments moments_of(const std::vector<T>& values) {
  double sum = 0.0;
  double squares = 0.0;
  for (const T value : values) {
    sum += static_cast<double>(value);
    squares += static_cast<double>(value) * static_cast<double>(value);
  }
  const auto n = static_cast<double>(values.size());
  return {sum / n, std::sqrt(squares / n - (sum / n) * (sum / n))};
}

/// z = <q_i, k_j> / sqrt(head_dim) for the first tokens of one head.
std::vector<double> scores_of(const SyntheticSpec& spec, std::int64_t tokens) {
  const auto d = static_cast<std::size_t>(spec.head_dim);
  const auto rows = static_cast<std::size_t>(tokens);
  const std::vector<float> q = values_of(spec, 0, SyntheticDataset::kQ, 0, rows * d);
  const std::vector<float> k = values_of(spec, 0, SyntheticDataset::kK, 0, rows * d);
  std::vector<double> scores;
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < rows; ++j) {
      double dot = 0.0;
      for (std::size_t c = 0; c < d; ++c) dot += static_cast<double>(q[i * d + c]) * static_cast<double>(k[j * d + c]);
      scores.push_back(dot / std::sqrt(static_cast<double>(d)));
    }
  }
  return scores;
}

}  // namespace

TEST_CASE("An element depends on its place alone") {
  SyntheticSpec spec;
  spec.seed = 7;
  const std::int64_t far = std::int64_t{3} << 33;
  const std::vector<float> whole = values_of(spec, 2, SyntheticDataset::kK, far, 101);
  for (const std::size_t begin : {0u, 1u, 2u, 7u, 50u}) {
    const std::vector<float> part =
        values_of(spec, 2, SyntheticDataset::kK, far + static_cast<std::int64_t>(begin), 51);
    REQUIRE(std::equal(part.begin(), part.end(), whole.begin() + static_cast<std::ptrdiff_t>(begin)));
  }
  REQUIRE(values_of(spec, 2, SyntheticDataset::kV, far, 101) != whole);
  REQUIRE(values_of(spec, 1, SyntheticDataset::kK, far, 101) != whole);
  spec.seed = 8;
  REQUIRE(values_of(spec, 2, SyntheticDataset::kK, far, 101) != whole);
}

TEST_CASE("Normal values are normal") {
  const std::vector<float> values = values_of(SyntheticSpec{}, 0, SyntheticDataset::kQ, 0, 400000);
  const Moments moments = moments_of(values);
  REQUIRE(std::abs(moments.mean) < 0.01);
  REQUIRE(std::abs(moments.deviation - 1.0) < 0.01);
  std::int64_t within_one = 0;
  double neighbours = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    REQUIRE(std::abs(values[i]) < 7.0f);
    within_one += std::abs(values[i]) < 1.0f ? 1 : 0;
    if (i > 0) neighbours += static_cast<double>(values[i]) * static_cast<double>(values[i - 1]);
  }
  const auto n = static_cast<double>(values.size());
  REQUIRE(std::abs(static_cast<double>(within_one) / n - 0.6827) < 0.005);
  REQUIRE(std::abs(neighbours / n) < 0.01);
}

TEST_CASE("A long stick has strongly negative scores, whatever head_dim") {
  for (const std::int64_t head_dim : {8, 64, 128}) {
    INFO("head_dim " << head_dim);
    SyntheticSpec spec;
    spec.kind = SyntheticKind::kLongStick;
    spec.num_heads = 1;
    spec.num_kv_heads = 1;
    spec.head_dim = head_dim;
    const std::vector<double> scores = scores_of(spec, 400);
    const Moments moments = moments_of(scores);
    REQUIRE(std::abs(moments.mean + 12.0) < 0.5);
    REQUIRE(std::abs(moments.deviation - 1.5) < 0.3);
    double taken = 0.0;  // -log of the stick that a key leaves, on average
    for (const double z : scores) taken += std::log1p(std::exp(z));
    taken /= static_cast<double>(scores.size());
    REQUIRE(taken * 1e5 < std::log(0x1p24));
  }
}

TEST_CASE("A file is the same for any number of ranks") {
  SyntheticSpec spec;
  spec.batch = 2;
  spec.seq_len = 37;
  spec.num_heads = 4;
  spec.num_kv_heads = 2;
  spec.head_dim = 5;
  spec.v_dim = 3;
  spec.num_layers = 2;
  spec.seed = 11;
  spec.dtype = ElementType::kBfloat16;
  const std::string path =
      (std::filesystem::temp_directory_path() / ("ringscan_synthetic_" + std::to_string(::getpid()) + ".h5")).string();
  for (const int ranks : {1, 3, 40}) {
    INFO(ranks << " ranks");
    run_ranks(ranks, [&](Transport& transport) {
      const auto access = make_shared_file_access(transport);
      double last = 0.0;
      write_synthetic(*access, spec, path, true, [&](double done) { last = done; });
      if (last != 1.0) throw failure("progress ends at " + std::to_string(last));
    });
    SoloGroup solo;
    const auto access = make_shared_file_access(solo);
    ActivationReader reader(*access, path);
    REQUIRE(reader.layers() == std::vector<std::string>{"0", "1"});
    REQUIRE(reader.attributes().at("kind") == "normal");
    const DatasetInfo k = reader.require("1", "k", {2, 37, 2, 5});
    REQUIRE(reader.require("0", "q", {2, 37, 4, 5}).type == ElementType::kBfloat16);
    REQUIRE(reader.require("0", "v", {2, 37, 2, 3}).type == ElementType::kBfloat16);
    const std::vector<float> want = values_of(spec, 1, SyntheticDataset::kK, 0, 2 * 37 * 2 * 5);
    const std::vector<double> found = reader.read_whole(k);
    REQUIRE(found.size() == want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      REQUIRE(found[i] == static_cast<double>(to_float(to_bfloat16(want[i]))));
    }
  }
  std::filesystem::remove(path);
}

TEST_CASE("Log decays are of the linear heads, 0 or less, and part of the payload") {
  SyntheticSpec spec;
  spec.seq_len = 5000;
  spec.num_linear_heads = 2;
  const std::vector<float> decays = values_of(spec, 0, SyntheticDataset::kLogDecay, 0, 10000);
  REQUIRE(std::all_of(decays.begin(), decays.end(), [](float g) { return g <= 0.0f; }));
  REQUIRE(std::abs(moments_of(decays).mean + 0.05) < 0.005);
  SyntheticSpec without = spec;
  without.num_linear_heads = 0;
  REQUIRE(spec.payload_bytes() - without.payload_bytes() == 5000 * 2 * 4);
}
