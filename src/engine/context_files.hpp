#pragma once
// Earlier activation files as the keys before a run's first token.

#include <cstdint>
#include <future>
#include <string>
#include <vector>

#include "engine/context_keys.hpp"
#include "engine/io_queue.hpp"
#include "engine/run_plan.hpp"
#include "io/activation_file.hpp"

namespace ringscan {

/// The keys of one layer in one file.
struct KeySegment {
  ActivationReader* reader = nullptr;
  TokenRun run;  ///< of the joined sequence
  DatasetInfo k;
  DatasetInfo v;
};

/// The files of --context, opened by all ranks.
class ContextFiles {
 public:
  /// Collective; earliest first. @throws Error(kBadInput) where one is missing or damaged.
  ContextFiles(FileAccess& access, const std::vector<std::string>& paths);

  /// Fills in layer.context. Not collective.
  /// @throws Error(kBadInput) where a file lacks the layer, or has it with another batch, KV heads or width.
  void inspect(LayerShape& layer) const;
  /// Earliest first; the first begins at token 0. @pre inspect() has found the layer.
  std::vector<KeySegment> segments(const LayerShape& layer);
  /// Of all files together.
  TransferRecord record() const;

 private:
  std::vector<ActivationReader> readers_;
};

/// How walks over a context went.
struct ContextFigures {
  std::int64_t blocks_read = 0;
  std::int64_t blocks_left = 0;  ///< not read: behind every window, or behind sticks that were all used up

  ContextFigures& operator+=(const ContextFigures& other);
};

/// A layer's context for the KV heads of one head group. Where the queue has a thread, a block is read while the one
/// before it is met: two blocks in memory, else one.
class StreamedContext final : public ContextKeys {
 public:
  /// @pre `block_tokens` > 0. The queue and the segments' readers must outlive it.
  StreamedContext(std::vector<KeySegment> segments, std::vector<int> kv_heads, std::int64_t block_tokens,
                  bool check_finite, IoQueue& queue, MemoryLedger* ledger);

  std::int64_t tokens() const override { return tokens_; }
  void begin(std::int64_t first_needed, bool with_values) override;
  std::optional<ContextBlock> next() override;
  void end() override;

  const ContextFigures& figures() const { return figures_; }

 private:
  const KeySegment* segment_before(std::int64_t end) const;
  TokenRun block_before(std::int64_t end, std::int64_t first_needed) const;
  void fetch();

  std::vector<KeySegment> segments_;
  std::vector<int> kv_heads_;
  std::int64_t block_tokens_;
  bool check_finite_;
  IoQueue& queue_;
  MemoryLedger* ledger_;
  std::int64_t tokens_;
  std::int64_t num_blocks_ = 0;
  std::int64_t first_needed_ = 0;
  std::int64_t fetch_end_ = 0;  // what comes before it is still to be fetched
  std::int64_t fetched_ = 0;    // blocks of this walk
  bool with_values_ = true;
  std::future<ContextBlock> coming_;
  ContextFigures figures_;
};

}  // namespace ringscan
