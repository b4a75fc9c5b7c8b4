#include "core/error.hpp"
#include "engine/run.hpp"

namespace ringscan {

std::unique_ptr<Kernels> make_kernels(const std::string& name, const RunContext& context) {
  Transport& transport = *context.transport;
  if (context.make_kernels) return context.make_kernels();
  const int devices = name == "cpu" ? 0 : count_cuda_devices();
  const bool has_own = context.ranks_on_node <= devices;
  const bool all_have = transport.RankGroup::all_reduce(std::int64_t{has_own ? 1 : 0}, ReduceOp::kMin) == 1;
  std::unique_ptr<Kernels> kernels;
  run_collectively(transport, [&] {
    if (name == "cuda" && !has_cuda_backend()) {
      throw bad_input("backend = cuda: this build has no CUDA backend; use backend = cpu");
    }
    if (name == "cuda" && devices == 0) {
      throw bad_input("backend = cuda: found no GPU of compute capability 8.0 or later here; use backend = cpu");
    }
    if (name == "cuda" && !has_own) {
      throw bad_input("backend = cuda: found " + std::to_string(context.ranks_on_node) + " ranks on a node with " +
                      std::to_string(devices) + (devices == 1 ? " GPU" : " GPUs") + ", want at most one rank a GPU");
    }
    kernels = name == "cpu" || !all_have ? make_cpu_kernels() : make_cuda_kernels(context.rank_on_node);
  });
  return kernels;
}

}  // namespace ringscan
