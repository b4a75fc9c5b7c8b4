#pragma once
// An exclusive prefix scan over the ranks as data: who sends what to whom at each step. No MPI, no buffers.

#include <vector>

#include "sequence/sequence_layout.hpp"

namespace ringscan {

/// Each rank has a value over its own run of tokens and an associative, not commutative combine; it wants the combined
/// value of all ranks before it. It keeps two: `before`, over ranks joined so far that lie before it (at first none),
/// and `through`, the same and its own (at first its own). At each step it sends `through` as it is when the step
/// begins; what it receives adjoins, on the far side, all that it has, and is joined to both (kDirect: to `before`).
struct ScanStep {
  int send_to = -1;    ///< -1: nothing is sent
  int recv_from = -1;  ///< -1: nothing is received
};

using ScanSchedule = std::vector<ScanStep>;

enum class ScanKind {
  /// Recursive doubling (Hillis and Steele): at step s rank r sends to r + 2^s. With P ranks ceil(log2 P) steps, at
  /// most
  /// as many messages of one value a rank, P ceil(log2 P) - 2^ceil(log2 P) + 1 in all, and two joins a message.
  kLogarithmic,
  /// One after the other: a rank receives from the one before it, then sends to the one behind it. 2 steps and 1
  /// message
  /// a rank, P - 1 one after the other until the last rank has its own; each is joined in the order of the ranks, so
  /// that the result does not depend on their number where the combine is only nearly associative.
  kSerial,
  /// All at once: a rank sends its own value, as it stands at the beginning, to each behind it, at step s to r + 1 + s.
  /// P - 1 steps that do not wait for each other, P (P - 1) / 2 messages in all, one join a message: for few ranks
  /// whose values are small beside a link's latency.
  kDirect,
};

/// The steps of `rank`. Ranks without a token take no part: their schedule is empty and nobody waits for them. All
/// others have schedules of one length (none where there is one such rank alone); transfers match pairwise.
/// @pre a contiguous layout; 0 <= rank < layout.world_size().
ScanSchedule make_scan_schedule(ScanKind kind, const SequenceLayout& layout, int rank);

/// Those of all ranks, by rank.
std::vector<ScanSchedule> make_scan_schedules(ScanKind kind, const SequenceLayout& layout);

/// The ranks that hold tokens, ascending: those that take part.
std::vector<int> scan_participants(const SequenceLayout& layout);

}  // namespace ringscan
