#include <cstdint>

#include "comm/nccl_transport.hpp"
#include "core/error.hpp"
#include "engine/run.hpp"

namespace ringscan {

std::unique_ptr<Transport> make_device_transport(const Kernels& kernels, const RunContext& context,
                                                 double hop_limit_seconds) {
  Transport& transport = *context.transport;
  void* const queue = kernels.memory().work_queue();
  const bool takes_nccl = has_nccl() && queue != nullptr && transport.world_size() > 1;
  if (transport.RankGroup::all_reduce(std::int64_t{takes_nccl ? 1 : 0}, ReduceOp::kMin) == 0) return nullptr;
  NcclOptions options;
  options.device = context.rank_on_node;
  options.work_stream = static_cast<CUstream_st*>(queue);
  options.hop_limit_seconds = hop_limit_seconds;
  return make_nccl_transport(transport, options);
}

}  // namespace ringscan
