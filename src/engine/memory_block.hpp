#pragma once
// One block mechanism over synthetic inputs in memory, as run_block() goes but for the files.

#include <memory>

#include "comm/transport.hpp"
#include "core/buffer.hpp"
#include "engine/block_plan.hpp"
#include "engine/chela_pass.hpp"
#include "engine/ssm_pass.hpp"
#include "engine/synthetic_activations.hpp"

namespace ringscan {

/// What blocks compute with: made once a rank from its Kernels, which must outlive it.
class BlockKernels {
 public:
  explicit BlockKernels(const Kernels& kernels)
      : ssm_(kernels.make_ssm()), chela_(kernels.make_chela()), backend_{*chela_, *ssm_, kernels.linear()} {}

  SsmKernels& ssm() const { return *ssm_; }
  const ChelaBackend& chela() const { return backend_; }

 private:
  std::unique_ptr<SsmKernels> ssm_;
  std::unique_ptr<ChelaKernels> chela_;
  ChelaBackend backend_;
};

/// A rank's share of one, with its inputs and its output.
class MemoryBlock {
 public:
  virtual ~MemoryBlock() = default;

  /// Collective. The block once; figures are of this rank.
  virtual SsmPassResult run(Transport& transport, const BlockKernels& kernels, MemoryLedger* ledger) = 0;
};

/// `plan` is of synthetic_block_shape(), `spec` the inputs that go with it; both outlive the block, and `config` does.
std::unique_ptr<MemoryBlock> make_memory_block(const BlockPlan& plan, const SyntheticSpec& spec,
                                               const RunConfig& config, int rank, const BlockKernels& kernels,
                                               MemoryLedger* ledger);

}  // namespace ringscan
