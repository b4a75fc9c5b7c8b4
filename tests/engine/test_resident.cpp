// Jobs whose kernels have a memory of their own, as a device has: ranks as threads and under mpirun.

#include <string>
#include <vector>

#include "engine/resident.hpp"
#include "engine/run.hpp"
#include "tests/comm/worlds.hpp"
#include "tests/engine/job.hpp"
#include "tests/support/attention_problem.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/far_kernels.hpp"
#include "tests/support/far_transport.hpp"

using namespace ringscan;
using ringscan::test::expect;
using ringscan::test::FarKernels;
using ringscan::test::FarMemory;
using ringscan::test::FarTransport;
using ringscan::test::Folder;
using ringscan::test::for_each_world;
using ringscan::test::make_context;
using ringscan::test::read_output;
using ringscan::test::verifies;
using ringscan::testing::max_abs_difference;

namespace {

const std::string kSample = RINGSCAN_TEST_DATA "/real_layers.h5";

RunConfig make_config(const std::string& output, const std::string& lines) {
  return parse_run_config("input = " + kSample + "\noutput = " + output + "\noverwrite = on\n" + lines);
}

/// The same job near and far: equal outputs, bit for bit. `carried`: keys and states go from far memory to far memory.
void expect_equal_jobs(const std::string& lines, const std::vector<std::string>& datasets, Transport& transport,
                       bool carried = false) {
  const Folder folder(transport);
  RunConfig config = make_config(folder.file("near.h5"), lines);
  run(config, make_context(transport));
  const std::string near = config.output;
  config.output = folder.file("far.h5");
  RunContext context = make_context(transport);
  context.make_kernels = [] { return std::make_unique<FarKernels>(); };
  FarTransport carrier(transport);
  if (carried) context.transport = &carrier;
  const RunReport report = run(config, context);
  expect(transport, report.backend == "far" && report.device_peak_bytes > 0);
  expect(transport, verifies(config.input, config.output, transport));
  for (const std::string& dataset : datasets) {
    for (const std::string layer : {"0", "3"}) {
      const auto found = read_output(config.output, layer, dataset, transport);
      const auto wanted = read_output(near, layer, dataset, transport);
      bool same = found.size() == wanted.size();
      for (std::size_t i = 0; same && i < found.size(); ++i) {
        same = found[i] == wanted[i] || (std::isnan(found[i]) && std::isnan(wanted[i]));
      }
      expect(transport, same);
    }
  }
  transport.barrier();
}

}  // namespace

TEST_CASE("a device's shards give what the host's give, heads with a state beside them") {
  for_each_world([](Transport& transport) {
    const std::string heads =
        "heads.softmax = 0-1\nheads.stick-breaking = 2-3\nheads.cog = 4-5\nheads.linear = 6-7\n"
        "linear.decay = token\noutputs = lse,remainder,state\n";
    for (const char* type : {"float32", "float64", "bfloat16"}) {
      expect_equal_jobs(heads + "output-dtype = " + type + "\n", {"o", "lse", "remainder", "state/S"}, transport);
    }
    expect_equal_jobs("mechanism = stick-breaking\nstick-breaking.remainder = value\nlayout = zigzag\n", {"o"},
                      transport);
  });
  SUCCEED();
}

TEST_CASE("sparse attention and kept masses on a device's shards") {
  for_each_world([](Transport& transport) {
    for (const char* select : {"window", "topk"}) {
      expect_equal_jobs("mechanism = sparse\noutputs = lse,kept_mass\nsparse.select = " + std::string(select) + "\n",
                        {"o", "lse", "kept_mass"}, transport);
    }
  });
  SUCCEED();
}

TEST_CASE("a transport that carries a device's memory takes keys and states from there") {
  for_each_world([](Transport& transport) {
    // All heads of a shard lie as they travel; some heads are packed.
    expect_equal_jobs("mechanism = softmax\nlayout = zigzag\noutputs = lse\n", {"o", "lse"}, transport, true);
    expect_equal_jobs("mechanism = softmax\ncausal = off\nlayout = contiguous\n", {"o"}, transport, true);
    expect_equal_jobs("mechanism = softmax\nkv-heads-at-once = 3\n", {"o"}, transport, true);
    expect_equal_jobs(
        "heads.softmax = 0,2,5\nheads.stick-breaking = 1,3\nheads.sparse = 4\nheads.linear = 6-7\n"
        "linear.decay = token\noutputs = state\n",
        {"o", "state/S"}, transport, true);
    expect_equal_jobs("mechanism = linear\nlinear.decay = none\noutputs = state\n", {"o", "state/S"}, transport, true);
  });
  SUCCEED();
}

TEST_CASE("keys of a context come to the device block by block") {
  for_each_world([](Transport& transport) {
    expect_equal_jobs(
        "heads.softmax = 0-2\nheads.stick-breaking = 3-5\nheads.sparse = 6-7\ncontext = " + kSample + "\n", {"o"},
        transport);
  });
  SUCCEED();
}

TEST_CASE("backend = cuda without a GPU for every rank is one line on all ranks") {
  for_each_world([](Transport& transport) {
    const Folder folder(transport);
    const RunConfig config = make_config(folder.file("o.h5"), "mechanism = softmax\nbackend = cuda\n");
    RunContext context = make_context(transport);
    const int devices = count_cuda_devices();
    context.ranks_on_node = devices + 1;
    std::string message;
    try {
      run(config, context);
    } catch (const Error& error) {
      expect(transport, error.code() == ExitCode::kBadInput && error.is_collective());
      message = error.what();
    }
    std::string wanted = "backend = cuda: found " + std::to_string(devices + 1) + " ranks on a node with ";
    if (devices == 0) wanted = "backend = cuda: found no GPU";
    if (!has_cuda_backend()) wanted = "backend = cuda: this build has no CUDA backend";
    expect(transport, message.starts_with(wanted) && message.find('\n') == std::string::npos);
    expect(transport, folder.files() == 0);
    transport.barrier();
  });
  SUCCEED();
}

TEST_CASE("a tensor goes to another memory and back; on the host it stays where it is") {
  FarMemory far;
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  const AnyView host = dense_any_view(values.data(), ElementType::kFloat32, {1, 3, 2, 1});
  const Resident there(host, far);
  REQUIRE(there.view().data != host.data);
  const HostCopy back(there.view(), far);
  REQUIRE(std::equal(values.begin(), values.end(), reinterpret_cast<const float*>(back.view().data)));
  REQUIRE(Resident(host, host_memory()).view().data == host.data);
  REQUIRE(Resident(AnyView{}, far).view().data == nullptr);
}
