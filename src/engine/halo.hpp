#pragma once
// Carries the inputs before a rank's tokens over a transport, as the halo schedule says.

#include <cstddef>
#include <vector>

#include "comm/halo_schedule.hpp"
#include "comm/transport.hpp"
#include "core/buffer.hpp"
#include "core/tensor_view.hpp"
#include "kernels/kernels.hpp"

namespace ringscan {

/// Rows of float32 by global token. `rows` is [batch, tokens.size(), 1, row].
struct TokenRows {
  TokenRun tokens;
  TensorView<const float> rows;
};

/// The last `width` rows of `own`, or all it has, where the host reads them: in place where `space`, which they lie in,
/// is the host's, else copied to `copies`.
TokenRows tail_on_host(const TokenRows& own, std::int64_t width, MemorySpace& space, MemoryLedger* ledger,
                       Buffer& copies);

/// Collective. `halo` [batch, schedule.halo.size(), 1, row] becomes the rows of the tokens before this rank's: from
/// `own`, the last rows of each rank (at least as many as it has or as the halo is wide), and before token 0 from
/// `initial` [batch, halo width, 1, row] (data == nullptr: zeros). Returns the bytes this rank has sent. A rank that
/// receives nothing and has no `initial` may have no halo (data == nullptr): it would be zeros.
std::size_t carry_halo(const HaloSchedule& schedule, const TokenRows& own, const TensorView<const float>& initial,
                       const TensorView<float>& halo, Transport& transport);

/// A halo on its way from the memory it lies in to the like of another rank, one message a batch item. Beats look for
/// failures while a device waits for it.
class MovingHalo final : public Heartbeat {
 public:
  /// Starts what carry_halo() moves, the rows before token 0 apart: those are left as they are. `own` and `halo` lie in
  /// memory that the transport carries, the rows of a batch item side by side, and stay in use until wait(); a rank
  /// that receives nothing may have no halo. @pre no shard with tokens is shorter than the halo, unless it is the only
  /// rank: a halo comes from one rank at most, whole, and goes to one at most.
  MovingHalo(const HaloSchedule& schedule, const TokenRows& own, const TensorView<float>& halo, Transport& transport);

  std::size_t sent_bytes() const { return sent_bytes_; }
  /// See Ticket::order(): what is given to the work queue from now on may read the halo, and overwrite `own`.
  void order();
  /// @throws Error(kFailure) where a rank has failed.
  void beat() override;
  /// @throws Error(kFailure) where a rank has failed.
  void wait();

 private:
  std::vector<Ticket> moving_;  // by batch item
  std::size_t sent_bytes_ = 0;
};

/// The last `width` rows up to the end of `own`, of which the first ones may be in the halo: `last` [batch, width, 1,
/// row]. @pre own.tokens is not empty and ends where the rank's tokens end; the halo is `width` wide.
void last_rows(const HaloSchedule& schedule, const TensorView<const float>& halo, const TokenRows& own,
               const TensorView<float>& last);

}  // namespace ringscan
