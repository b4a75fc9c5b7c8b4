#pragma once
// What one rank computes: one function a block operation, implemented once a backend. A backend that lacks one does
// not compile. Nothing here knows of ranks; kernels and comm never include each other.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/buffer.hpp"
#include "core/memory_space.hpp"
#include "core/tensor_view.hpp"
#include "core/token_run.hpp"
#include "mechanism/mechanism.hpp"

namespace ringscan {

/// One query head of a head group and the KV head it reads, as indices into the views they come with.
struct HeadSlot {
  int q_head = 0;
  int kv_head = 0;
};

/// Called by a kernel now and then (about every millisecond) between tiles: moves transfers on, shows progress.
class Heartbeat {
 public:
  virtual ~Heartbeat() = default;
  virtual void beat() {}
};

/// A run of queries meets a run of keys.
struct AttendTask {
  AnyView q;  ///< [batch, query_run.size(), any heads, head_dim]
  AnyView k;  ///< [batch, key_run.size(), any kv heads, head_dim]
  AnyView v;  ///< [batch, key_run.size(), any kv heads, v_dim]
  std::span<const HeadSlot> slots;
  TokenRun query_run;  ///< global tokens
  TokenRun key_run;    ///< global tokens; may lie before, over or behind the queries
  Band band;           ///< which of the pairs count
  float scale = 1.0f;  ///< z = scale <q, k>
  /// Keys are walked near first in blocks that end on global multiples of this; sums are rounded block by block, so
  /// the bits of a result depend on it, and on nothing else of how keys and queries are cut into runs when both begin
  /// on multiples of it. @pre a positive multiple of 64.
  std::int64_t key_block = 512;
  /// A window that differs by row: the largest i - j of each query row, beside what the band says. Empty: the band
  /// alone. @pre as long as query_run; query - max_delta never falls from one row to the next.
  std::span<const std::int64_t> max_deltas = {};
};

/// What an attend() did, for the report.
struct AttendStats {
  std::int64_t pairs = 0;  ///< visible (query, key) pairs whose score was computed
  std::int64_t tiles_computed = 0;
  std::int64_t tiles_skipped = 0;  ///< visible tiles that early exit made unnecessary

  AttendStats& operator+=(const AttendStats& other) {
    pairs += other.pairs;
    tiles_computed += other.tiles_computed;
    tiles_skipped += other.tiles_skipped;
    return *this;
  }
};

struct PartialShape {
  std::int64_t batch = 0;
  std::int64_t rows = 0;   ///< query_run.size()
  std::int64_t slots = 0;  ///< query heads in the group
  std::int64_t v_dim = 0;
};

/// fp32 accumulators of a run of queries over the keys met so far, in the backend's own arrangement: opaque but to it.
struct LseBlock {
  PartialShape shape;
  bool is_identity = false;  ///< the buffers are unwritten yet, where a backend leaves that to the first attend()
  Buffer out;
  Buffer max;
  Buffer sum;
};
struct StickBlock {
  PartialShape shape;
  bool is_identity = false;  ///< as of an LseBlock
  Buffer out;
  Buffer log2_stick;
  Buffer done;  ///< one flag a tile: nothing further can change it
};

/// The search for the k-th largest score of each row (exact top-k): a range of scores that is counted in bins and
/// narrowed, round by round; among keys of one score, a range of positions. Opaque but to its backend; memory O(bins)
/// a row.
struct TopkBlock {
  PartialShape shape;            ///< v_dim is that of the attend() to come
  std::int64_t first_query = 0;  ///< global token of row 0
  Buffer rows;
  Buffer bins;  ///< empty once the search is over
  Buffer open;
};

/// Which block a mechanism accumulates into.
template <typename Params>
struct BlockOf;
template <>
struct BlockOf<SoftmaxParams> {
  using type = LseBlock;
};
template <>
struct BlockOf<CogParams> {
  using type = LseBlock;
};
template <>
struct BlockOf<StickBreakingParams> {
  using type = StickBlock;
};

/// Where finished rows go: `o` [batch, rows, any heads, v_dim] of any element type, row q_head of each slot. The
/// optional statistics are [batch, rows, any heads] float32, given as views with dim 1; data == nullptr: not wanted.
struct FinishTask {
  MutableAnyView o;
  TensorView<float> statistic;  ///< lse (softmax, cog; natural log) or remainder (stick-breaking)
  std::span<const HeadSlot> slots;
  TensorView<float> kept_mass = {};  ///< sparse: the share of `all` that the rows' kept keys have
  const LseBlock* all = nullptr;     ///< the weights of all visible keys (v_dim 0), where kept_mass is wanted
  AnyView v_own;                     ///< remainder = value: v of the same tokens, kv_head of each slot
  AnyView remainder_value;           ///< remainder = vector: [1, 1, heads, v_dim], q_head of each slot
};

class LinearKernels;  // kernels/linear_kernels.hpp
class SsmKernels;     // kernels/ssm_kernels.hpp
class ChelaKernels;   // kernels/chela_kernels.hpp

/// @pre of all: shapes agree; head_dim and v_dim between 1 and 256 (v_dim 0 where only an LseBlock's weights are
/// wanted, and in a search); k and v of one element type (float32, float16 or
/// bfloat16), q of any of these.
class Kernels {
 public:
  virtual ~Kernels() = default;
  virtual std::string_view name() const = 0;
  /// The instruction set or device in use, for the report.
  virtual std::string device() const = 0;

  /// Where all views lie that tasks name (o and the statistics too), and blocks; lists and slots are always the host's.
  virtual MemorySpace& memory() const { return host_memory(); }
  /// A second way to the same memory, for another thread of the rank beside memory(): what one has allocated, filled or
  /// computed the other may use, once it is complete.
  virtual MemorySpace& staging() const { return memory(); }
  /// True where no result depends on the places of keys that every row of a task sees: such keys may be given together
  /// with nearer ones that they do not adjoin, as if they did. Else sums follow a global grid of key blocks.
  virtual bool takes_gaps() const { return false; }
  /// Keys that an attend() should be given at a time, so that progress shows; a multiple of every key block.
  virtual std::int64_t piece_keys() const { return 8192; }

  /// Blocks at the identity, and the bytes one takes.
  virtual void make(LseBlock& block, const PartialShape& shape, MemoryLedger* ledger) const = 0;
  virtual void make(StickBlock& block, const PartialShape& shape, MemoryLedger* ledger) const = 0;
  virtual void make(TopkBlock& block, const PartialShape& shape, MemoryLedger* ledger) const = 0;
  virtual std::size_t block_bytes(const Mechanism& mechanism, const PartialShape& shape) const = 0;
  /// Scratch that an attend() takes beside its arguments.
  virtual std::size_t scratch_bytes(std::int64_t head_dim, std::int64_t v_dim, std::int64_t key_block) const = 0;

  /// Adds the task's keys to `block`. For stick-breaking, the block's keys so far end (towards the far side) where
  /// key_run begins to be walked: key_run.end is the first key not yet seen, unless the block is at the identity.
  virtual AttendStats attend(const AttendTask& task, const SoftmaxParams& params, LseBlock& block,
                             Heartbeat& heartbeat) = 0;
  virtual AttendStats attend(const AttendTask& task, const CogParams& params, LseBlock& block,
                             Heartbeat& heartbeat) = 0;
  /// Exact top-k: softmax over the keys that a finished search chose.
  virtual AttendStats attend(const AttendTask& task, const TopkBlock& chosen, LseBlock& block,
                             Heartbeat& heartbeat) = 0;
  virtual AttendStats attend(const AttendTask& task, const StickBreakingParams& params, StickBlock& block,
                             Heartbeat& heartbeat) = 0;

  /// attend() of the last keys that the block's rows meet, then finish(). The block is of no use afterwards: a backend
  /// may never have it written.
  virtual AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const SoftmaxParams& params,
                                  LseBlock& block, Heartbeat& heartbeat) {
    return attend_then_finish(task, rows, params, block, heartbeat);
  }
  virtual AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const CogParams& params,
                                  LseBlock& block, Heartbeat& heartbeat) {
    return attend_then_finish(task, rows, params, block, heartbeat);
  }
  virtual AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const TopkBlock& chosen,
                                  LseBlock& block, Heartbeat& heartbeat) {
    const AttendStats stats = attend(task, chosen, block, heartbeat);
    finish(rows, SoftmaxParams{}, block);
    return stats;
  }
  virtual AttendStats attend_last(const AttendTask& task, const FinishTask& rows, const StickBreakingParams& params,
                                  StickBlock& block, Heartbeat& heartbeat) {
    return attend_then_finish(task, rows, params, block, heartbeat);
  }
  /// True where that takes less than the two.
  virtual bool gains_by_attend_last() const { return false; }

  /// Functions may return before their work is through, on a device: it is done in the order of the calls, before
  /// anything that comes behind it in memory().work_queue(). Waits for all of it, moves the heartbeat on meanwhile, and
  /// returns what the attend()s since the last call did and have not told.
  virtual AttendStats settle(Heartbeat&) { return {}; }

  /// A search for the `keys_kept` (one a query row, at most as many as it sees) largest scores of each row. The keys of
  /// `sample`, all of this rank's with places and a band as if they were the sequence, only say where to look first: no
  /// result depends on them.
  virtual void start_search(const AttendTask& sample, std::span<const std::int64_t> keys_kept, TopkBlock& block) = 0;
  /// One round: counts the task's keys. All keys of the rows are to be counted before narrow().
  virtual void count(const AttendTask& task, TopkBlock& block, Heartbeat& heartbeat) = 0;
  /// As count(), and adds the task's keys to `all` (v_dim 0): the first round may sum the weights of all keys besides.
  virtual void count_and_add(const AttendTask& task, TopkBlock& block, LseBlock& all, Heartbeat& heartbeat) = 0;
  /// Ends a round. True where the choice of every row is exact: then no round is needed, and the bins are given back.
  virtual bool narrow(TopkBlock& block) const = 0;

  /// True where no further key can change any row by more than epsilon.
  virtual bool all_done(const StickBlock& block) const = 0;

  /// `near` becomes the join of both; the same queries, adjoining keys.
  virtual void join(LseBlock& near, const LseBlock& far) const = 0;
  virtual void join(StickBlock& near, const StickBlock& far) const = 0;

  /// Rounds once and writes. A row that saw no key gives o = 0, lse = -inf; or o = 0, remainder = 1 (drop).
  virtual void finish(const FinishTask& task, const SoftmaxParams& params, const LseBlock& block) const = 0;
  virtual void finish(const FinishTask& task, const CogParams& params, const LseBlock& block) const = 0;
  virtual void finish(const FinishTask& task, const StickBreakingParams& params, const StickBlock& block) const = 0;

  /// The functions of linear attention, which carries a state where the above walk over keys.
  virtual const LinearKernels& linear() const = 0;

  /// The functions of whole blocks (selective scans, Mamba, CHELA), on the same device; this must outlive them. By
  /// themselves, the CPU's.
  virtual std::unique_ptr<SsmKernels> make_ssm() const;
  virtual std::unique_ptr<ChelaKernels> make_chela() const;

 private:
  template <typename Params, typename Block>
  AttendStats attend_then_finish(const AttendTask& task, const FinishTask& rows, const Params& params, Block& block,
                                 Heartbeat& heartbeat) {
    const AttendStats stats = attend(task, params, block, heartbeat);
    finish(rows, params, block);
    return stats;
  }
};

/// SIMD on the CPU (Highway): the instruction set is chosen at run time. fp32 arithmetic.
std::unique_ptr<Kernels> make_cpu_kernels();

/// False where this build has no CUDA backend.
bool has_cuda_backend();
/// GPUs of this machine that the backend can use (compute capability 8.0 and later).
int count_cuda_devices();
/// One GPU, as seen from the calling thread. @throws Error(kBadInput) where there is no such backend or device,
/// Error(kFailure) where CUDA fails.
std::unique_ptr<Kernels> make_cuda_kernels(int device);

}  // namespace ringscan
