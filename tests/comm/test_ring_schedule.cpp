// The ring of every rank at once, played through without moving a byte.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "comm/ring_schedule.hpp"
#include "mechanism/ordered_fold.hpp"
#include "tests/support/catch.hpp"

using namespace ringscan;

namespace {

constexpr std::int64_t kUnbounded = Band::kUnbounded;

struct Case {
  std::string name;
  SequenceLayout layout;
  Band band;
};

std::vector<RingSchedule> all_schedules(const Case& c) {
  std::vector<RingSchedule> schedules;
  for (int rank = 0; rank < c.layout.world_size(); ++rank) {
    schedules.push_back(make_ring_schedule(c.layout, c.band, rank));
  }
  return schedules;
}

const TokenRun& run_of(const SequenceLayout& layout, int rank, int chunk) {
  return layout.chunks(rank)[static_cast<std::size_t>(chunk)].run;
}

std::vector<Band> bands(std::int64_t seq_len) {
  return {{0, kUnbounded},                     // causal
          {1, kUnbounded},                     // strict
          {0, 0},                              // a window of one
          {0, 9},                              // windows
          {0, seq_len / 3},                    //
          {1 - seq_len / 4, seq_len / 4 - 1},  // a window without causal
          {-2, 0},                             // mostly later keys
          {-kUnbounded, -1},                   // later keys alone
          {-kUnbounded, kUnbounded},           // everything
          {seq_len / 2, seq_len / 2 + 3},      // far keys alone
          {seq_len + 1, kUnbounded},
          {3, 2}};  // nothing
}

std::vector<Case> cases(const std::vector<int>& world_sizes, const std::vector<std::int64_t>& seq_lens,
                        std::int64_t tile) {
  std::vector<Case> all;
  for (const LayoutKind kind : {LayoutKind::kContiguous, LayoutKind::kZigzag}) {
    for (const int world_size : world_sizes) {
      for (const std::int64_t seq_len : seq_lens) {
        for (const Band& band : bands(seq_len)) {
          const std::string name = std::string(name_of(kind)) + ", " + std::to_string(world_size) + " ranks, " +
                                   std::to_string(seq_len) + " tokens, band " + std::to_string(band.min_delta) + ".." +
                                   std::to_string(band.max_delta);
          all.push_back({name, SequenceLayout(kind, seq_len, world_size, tile), band});
        }
      }
    }
  }
  return all;
}

/// Small enough to look at every token; ranks without a token included.
std::vector<Case> small_cases() {
  std::vector<Case> all = cases({1, 2, 3, 4, 7}, {0, 1, 5, 24, 37}, 1);
  for (Case& c : cases({1, 2, 3, 5, 8}, {3, 16, 41}, 4)) all.push_back(std::move(c));
  return all;
}

std::vector<Case> large_cases() {
  return cases({6, 16, 31, 64}, {100, 64 * 64 * 3 + 77}, 64);
}

/// First thing wrong with how KV blocks travel, or "".
std::string fault_of_transfers(const Case& c) {
  const int world_size = c.layout.world_size();
  const std::vector<RingSchedule> schedules = all_schedules(c);
  const std::size_t steps = schedules[0].size();
  std::vector<int> holds;  // by rank: whose keys are in its buffer; -1: nobody's
  for (int rank = 0; rank < world_size; ++rank) holds.push_back(rank);
  for (std::size_t step_index = 0; step_index < steps; ++step_index) {
    std::vector<int> arrives(holds.size(), -1);
    for (int rank = 0; rank < world_size; ++rank) {
      const RingSchedule& schedule = schedules[static_cast<std::size_t>(rank)];
      if (schedule.size() != steps) return "schedules differ in length";
      const RingStep& step = schedule[step_index];
      const bool is_here = step.kv_rank == rank || holds[static_cast<std::size_t>(rank)] == step.kv_rank;
      if (!step.parts.empty() && !is_here) return "computes with keys that are not here";
      if ((step.recv_from >= 0) != (step.next_kv_rank >= 0)) return "receives from someone, or someone's keys, alone";
      if (step.recv_from >= 0 && step.recv_from != (rank + world_size - 1) % world_size) return "not from rank - 1";
      if (step_index + 1 == steps && (step.send_to >= 0 || step.recv_from >= 0)) return "a transfer at the last step";
      if (step.recv_from >= 0 && schedule[step_index + 1].kv_rank != step.next_kv_rank) return "kv_rank is not next";
      if (step.send_to < 0) continue;
      if (step.send_to != (rank + 1) % world_size) return "not to rank + 1";
      if (!is_here) return "sends what it does not have";
      if (c.layout.local_tokens(step.kv_rank) == 0) return "sends no tokens";
      const RingStep& partner = schedules[static_cast<std::size_t>(step.send_to)][step_index];
      if (partner.recv_from != rank || partner.next_kv_rank != step.kv_rank) return "transfers do not match";
      arrives[static_cast<std::size_t>(step.send_to)] = step.kv_rank;
    }
    for (int rank = 0; rank < world_size; ++rank) {
      const RingStep& step = schedules[static_cast<std::size_t>(rank)][step_index];
      if (step.next_kv_rank != arrives[static_cast<std::size_t>(rank)]) return "waits for what nobody sends";
    }
    holds = arrives;
  }
  return "";
}

/// A block's hops end at the last rank that has work with it.
std::string fault_of_travel_length(const Case& c) {
  const int world_size = c.layout.world_size();
  const std::vector<RingSchedule> schedules = all_schedules(c);
  std::vector<int> hops(static_cast<std::size_t>(world_size), 0);
  std::vector<int> last_use(static_cast<std::size_t>(world_size), 0);
  for (int rank = 0; rank < world_size; ++rank) {
    for (const RingStep& step : schedules[static_cast<std::size_t>(rank)]) {
      const auto origin = static_cast<std::size_t>(step.kv_rank);
      const int distance = (rank - step.kv_rank + world_size) % world_size;
      if (step.send_to >= 0) ++hops[origin];
      if (!step.parts.empty()) last_use[origin] = std::max(last_use[origin], distance);
    }
  }
  if (hops != last_use) return "a block travels further than its last use, or not so far";
  const int longest = *std::max_element(hops.begin(), hops.end());
  const bool is_cyclic = c.layout.kind() == LayoutKind::kContiguous && c.band.min_delta < 0;
  const auto wanted_steps = static_cast<std::size_t>(longest + (is_cyclic ? 2 : 1));
  return schedules[0].size() == wanted_steps ? "" : "more steps than the longest way needs";
}

/// Pairs of tokens, summed over the parts, against all there are.
std::string fault_of_pair_counts(const Case& c) {
  for (int rank = 0; rank < c.layout.world_size(); ++rank) {
    std::int64_t pairs = 0;
    for (const RingStep& step : make_ring_schedule(c.layout, c.band, rank)) {
      for (const RingPart& part : step.parts) {
        const std::int64_t in_part = count_pairs(part.band, run_of(c.layout, rank, part.query_chunk),
                                                 run_of(c.layout, step.kv_rank, part.key_chunk));
        if (in_part == 0) return "a part without a visible pair";
        pairs += in_part;
      }
    }
    std::int64_t wanted = 0;
    for (const Chunk& queries : c.layout.chunks(rank)) {
      wanted += count_pairs(c.band, queries.run, {0, c.layout.seq_len()});
    }
    if (pairs != wanted) return "rank " + std::to_string(rank) + " meets other pairs than it should";
  }
  return "";
}

/// The keys of each query in the order they are met, a part being walked near first (descending).
std::vector<std::int64_t> walk(const Case& c, const RingSchedule& schedule, int query_chunk, std::int64_t query) {
  std::vector<std::int64_t> keys;
  for (const RingStep& step : schedule) {
    for (const RingPart& part : step.parts) {
      if (part.query_chunk != query_chunk) continue;
      const TokenRun& run = run_of(c.layout, step.kv_rank, part.key_chunk);
      for (std::int64_t key = run.end - 1; key >= run.begin; --key) {
        if (part.band.sees(query, key)) keys.push_back(key);
      }
    }
  }

  return keys;
}

/// Every visible key exactly once; under the contiguous layout down from the query, and then around.
std::string fault_of_walks(const Case& c) {
  const std::int64_t seq_len = c.layout.seq_len();
  for (int rank = 0; rank < c.layout.world_size(); ++rank) {
    const RingSchedule schedule = make_ring_schedule(c.layout, c.band, rank);
    const auto chunks = c.layout.chunks(rank);
    for (std::size_t chunk = 0; chunk < chunks.size(); ++chunk) {
      for (std::int64_t query = chunks[chunk].run.begin; query < chunks[chunk].run.end; ++query) {
        std::vector<std::int64_t> cyclic;
        for (std::int64_t back = 0; back < seq_len; ++back) {
          const std::int64_t key = (query - back + seq_len) % seq_len;
          if (c.band.sees(query, key)) cyclic.push_back(key);
        }
        std::vector<std::int64_t> met = walk(c, schedule, static_cast<int>(chunk), query);
        if (c.layout.kind() == LayoutKind::kZigzag) {  // any order
          std::sort(met.begin(), met.end());
          std::sort(cyclic.begin(), cyclic.end());
        }
        if (met != cyclic) return "query " + std::to_string(query) + " meets its keys in another order";
      }
    }
  }
  return "";
}

/// Near first inside a step; joined by adjacency, at most three open partial results for each run of queries.
std::string fault_of_zigzag_joins(const Case& c) {
  for (int rank = 0; rank < c.layout.world_size(); ++rank) {
    std::vector<OrderedFold<int>> folds(c.layout.chunks(rank).size());
    for (const RingStep& step : make_ring_schedule(c.layout, c.band, rank)) {
      for (std::size_t i = 0; i < step.parts.size(); ++i) {
        const RingPart& part = step.parts[i];
        const bool is_next_of_same = i > 0 && step.parts[i - 1].query_chunk == part.query_chunk;
        if (is_next_of_same && step.parts[i - 1].key_chunk <= part.key_chunk) return "not near first inside a step";
        auto& fold = folds[static_cast<std::size_t>(part.query_chunk)];
        fold.add(run_of(c.layout, step.kv_rank, part.key_chunk), 0, [](int&, int) {});
        if (fold.parts().size() > 3) return "more than three open partial results";
      }
    }
    for (const auto& fold : folds) {
      if (fold.parts().size() > 1) return "partial results are left apart";
    }
  }
  return "";
}

std::int64_t transferred_tokens(const Case& c) {
  std::int64_t tokens = 0;
  for (const RingSchedule& schedule : all_schedules(c)) {
    for (const RingStep& step : schedule) {
      if (step.send_to >= 0) tokens += c.layout.local_tokens(step.kv_rank);
    }
  }
  return tokens;
}

/// Stops at the first case with a fault and names it.
template <typename Check>
void require_no_fault(const std::vector<Case>& all, Check&& fault_of) {
  for (const Case& c : all) {
    const std::string fault = fault_of(c);
    if (fault.empty()) continue;
    INFO(c.name);
    REQUIRE(fault == "");
  }
  REQUIRE(!all.empty());
}

}  // namespace

TEST_CASE("Transfers of the ring match pairwise and carry what is there", "[ring]") {
  require_no_fault(small_cases(), fault_of_transfers);
  require_no_fault(large_cases(), fault_of_transfers);
}

TEST_CASE("No block travels further than it is needed", "[ring]") {
  require_no_fault(small_cases(), fault_of_travel_length);
  require_no_fault(large_cases(), fault_of_travel_length);
}

TEST_CASE("Every visible pair is met once, and no part is empty", "[ring]") {
  require_no_fault(small_cases(), fault_of_pair_counts);
  require_no_fault(large_cases(), fault_of_pair_counts);
}

TEST_CASE("Each query meets each key once, in cyclic order under the contiguous layout", "[ring]") {
  require_no_fault(small_cases(), fault_of_walks);
}

TEST_CASE("Zigzag keeps at most three partial results open", "[ring]") {
  std::vector<Case> causal;
  for (Case& c : large_cases()) {
    if (c.layout.kind() == LayoutKind::kZigzag && c.band.min_delta >= 0 && c.band.max_delta == kUnbounded) {
      causal.push_back(std::move(c));
    }
  }
  require_no_fault(causal, fault_of_zigzag_joins);
}

TEST_CASE("Windows and causality cut the bytes that move", "[ring]") {
  const int world_size = 64;
  const std::int64_t shard = 128;
  const SequenceLayout layout(LayoutKind::kContiguous, world_size * shard, world_size, 64);
  const auto tokens = [&](const Band& band) { return transferred_tokens({"", layout, band}); };
  // Block o goes to the ranks after it, and not around.
  REQUIRE(tokens({0, kUnbounded}) == shard * world_size * (world_size - 1) / 2);
  REQUIRE(tokens({-kUnbounded, kUnbounded}) == shard * world_size * (world_size - 1));
  // A window of one key stays at home; one of up to shard + 1 keys reaches the next rank, the last block none.
  REQUIRE(tokens({0, 0}) == 0);
  REQUIRE(tokens({0, 1}) == shard * (world_size - 1));
  REQUIRE(tokens({0, shard}) == shard * (world_size - 1));
  REQUIRE(tokens({0, shard + 1}) == shard * (2 * world_size - 3));
  REQUIRE(make_ring_schedule(layout, {0, shard}, 0).size() == 2);

  const SequenceLayout zigzag(LayoutKind::kZigzag, world_size * shard, world_size, 64);
  REQUIRE(transferred_tokens({"", zigzag, {0, kUnbounded}}) == shard * world_size * (world_size - 1));
}

TEST_CASE("Tokens of one rank among many do not move", "[ring]") {
  const SequenceLayout layout(LayoutKind::kContiguous, 60, 64, 64);
  for (int rank = 0; rank < 64; ++rank) {
    const RingSchedule schedule = make_ring_schedule(layout, {0, kUnbounded}, rank);
    REQUIRE(schedule.size() == 1);
    REQUIRE(schedule[0].parts.size() == (rank == 0 ? 1 : 0));
    REQUIRE(schedule[0].send_to == -1);
  }
}

TEST_CASE("Keys behind the query come at the very last step, from the rank's own shard", "[ring]") {
  const SequenceLayout layout(LayoutKind::kContiguous, 40, 4, 1);
  const RingSchedule schedule = make_ring_schedule(layout, {-kUnbounded, kUnbounded}, 1);
  std::vector<int> kv_ranks;
  for (const RingStep& step : schedule) kv_ranks.push_back(step.kv_rank);
  REQUIRE(kv_ranks == std::vector<int>{1, 0, 3, 2, 1});
  REQUIRE(schedule.front().parts.at(0).band == Band{0, kUnbounded});
  REQUIRE(schedule.at(1).parts.at(0).band == Band{-kUnbounded, kUnbounded});
  REQUIRE(schedule.back().parts.at(0).band == Band{-kUnbounded, -1});
}
