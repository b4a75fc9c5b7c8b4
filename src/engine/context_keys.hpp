#pragma once
// Keys before a sequence's first token: those of earlier activations, met block by block and never held whole.

#include <cstdint>
#include <optional>

#include "core/buffer.hpp"
#include "core/tensor_view.hpp"
#include "core/token_run.hpp"

namespace ringscan {

/// Some of the keys, the same on every rank.
struct ContextBlock {
  TokenRun run;  ///< of the context's tokens, [0, tokens())
  Buffer k_buffer;
  Buffer v_buffer;
  AnyView k;  ///< [batch, run.size(), KV heads, head_dim]: the KV heads that the pass's slots name, ascending
  AnyView v;  ///< likewise, v_dim wide (0 where a walk takes no values); of the type of k
};

/// The keys for one head group's passes, walked from the nearest to the farthest, as often as a pass needs. Every
/// function but tokens() is collective, and is called alike on all ranks.
class ContextKeys {
 public:
  virtual ~ContextKeys() = default;

  virtual std::int64_t tokens() const = 0;
  /// Begins a walk over the tokens from `first_needed` on, and may begin to fetch the nearest block.
  /// @pre 0 <= first_needed <= tokens(); the last walk has ended.
  virtual void begin(std::int64_t first_needed, bool with_values) = 0;
  /// The next block; none behind the last one. Blocks adjoin, the nearest ends at tokens(), and each begins on a
  /// multiple of the pass's key block, counted back from tokens(), or where a file begins.
  virtual std::optional<ContextBlock> next() = 0;
  /// Ends the walk, wherever it is.
  virtual void end() = 0;
};

}  // namespace ringscan
