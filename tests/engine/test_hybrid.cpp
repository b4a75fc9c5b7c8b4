// All 8 heads of all four layers of a language model, four mechanisms in one job: compiled once with ranks as threads
// and once under mpirun.

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "engine/run.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/engine/job.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;
using ringscan::test::expect;
using ringscan::test::Folder;
using ringscan::test::for_each_world;
using ringscan::test::make_context;
using ringscan::test::read_output;
using ringscan::test::verifies;

namespace {

constexpr std::size_t kHeadDim = 64;
const std::string kSample = RINGSCAN_TEST_DATA "/real_layers.h5";

/// The head assignment of configs/hybrid.ini, and whatever else is given.
RunConfig make_config(const std::string& output) {
  RunConfig config = parse_run_config(
      "input = " + kSample + "\noutput = " + output +
      "\nheads.softmax = 0-1\nheads.stick-breaking = 2-3\nheads.cog = 4-5\nheads.linear = 6-7\nlinear.decay = token\n"
      "outputs = lse,remainder,state\noutput-dtype = float32\noverwrite = on\n");
  return config;
}

/// The largest error of a row, relative to 8 (|v| reaches 8 in the heads that are no linear ones) or to the row's own
/// largest entry, where that is more: linear heads reach 15,000. NaN counts as infinite.
double worst_row_error(const std::vector<double>& found, const std::vector<double>& expected) {
  if (found.size() != expected.size() || found.empty()) return HUGE_VAL;
  double worst = 0.0;
  for (std::size_t row = 0; row < expected.size(); row += kHeadDim) {
    double scale = 8.0, error = 0.0;
    for (std::size_t i = row; i < row + kHeadDim; ++i) {
      scale = std::max(scale, std::abs(expected[i]));
      const double difference = std::abs(found[i] - expected[i]);
      error = difference >= 0.0 ? std::max(error, difference) : HUGE_VAL;
    }
    worst = std::max(worst, error / scale);
  }
  return worst;
}

}  // namespace

TEST_CASE("all heads of all layers of a language model give the outputs that it expects") {
  for_each_world([&](Transport& transport) {
    const Folder folder(transport);
    for (const bool reproducible : {false, true}) {
      RunConfig config = make_config(folder.file("out.h5"));
      config.reproducible = reproducible;
      const RunReport report = run(config, make_context(transport));
      expect(transport, report.peak_bytes <= report.plan.memory.total());
      expect(transport, report.not_collective == 0);
      for (const std::string layer : {"0", "1", "2", "3"}) {
        const double worst = worst_row_error(read_output(config.output, layer, "o", transport),
                                             read_output(kSample, layer, "o", transport));
        expect(transport, worst <= 4e-6);
      }
      expect(transport, verifies(config.input, config.output, transport));
    }
    transport.barrier();
  });
  SUCCEED();
}
