#include "engine/context_files.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "engine/layer_io.hpp"

namespace ringscan {
namespace {

/// k and v of a block have one type.
ElementType kv_type_of(const DatasetInfo& k, const DatasetInfo& v) {
  return type_in_memory(k.type) == type_in_memory(v.type) ? type_in_memory(k.type) : ElementType::kFloat32;
}

ContextBlock read_block(const KeySegment& segment, const TokenRun& run, const std::vector<int>& kv_heads,
                        bool with_values, bool check_finite, MemoryLedger* ledger) {
  SlabSelection selection;
  selection.tokens = {{run.begin - segment.run.begin, run.end - segment.run.begin}};
  selection.heads = kv_heads;
  const ElementType type = kv_type_of(segment.k, segment.v);
  const Shape4 shape{segment.k.shape[0], run.size(), static_cast<std::int64_t>(kv_heads.size()), segment.k.shape[3]};
  ContextBlock block;
  block.run = run;
  block.k_buffer = read_slab_as(*segment.reader, segment.k, selection, type, check_finite, ledger);
  block.k = dense_any_view(std::as_const(block.k_buffer).data(), type, shape);
  block.v = block.k;
  block.v.shape[3] = 0;
  if (!with_values) return block;
  block.v_buffer = read_slab_as(*segment.reader, segment.v, selection, type, check_finite, ledger);
  block.v =
      dense_any_view(std::as_const(block.v_buffer).data(), type, {shape[0], shape[1], shape[2], segment.v.shape[3]});
  return block;
}

}  // namespace

ContextFiles::ContextFiles(FileAccess& access, const std::vector<std::string>& paths) {
  for (const std::string& path : paths) readers_.emplace_back(access, path);
}

void ContextFiles::inspect(LayerShape& layer) const {
  for (const ActivationReader& reader : readers_) {
    const DatasetInfo k = reader.require(layer.name, "k", {layer.batch, -1, layer.num_kv_heads, layer.head_dim});
    const DatasetInfo v = reader.require(layer.name, "v", {layer.batch, k.shape[1], layer.num_kv_heads, layer.v_dim});
    ContextPart part;
    part.tokens = k.shape[1];
    part.kv_type = kv_type_of(k, v);
    part.staging = std::max(staging_bytes(k, part.kv_type), staging_bytes(v, part.kv_type));
    layer.context.push_back(part);
  }
}

std::vector<KeySegment> ContextFiles::segments(const LayerShape& layer) {
  std::vector<KeySegment> segments;
  std::int64_t begin = 0;
  for (ActivationReader& reader : readers_) {
    const DatasetInfo k = *reader.find(layer.name, "k");
    segments.push_back({&reader, {begin, begin + k.shape[1]}, k, *reader.find(layer.name, "v")});
    begin += k.shape[1];
  }
  return segments;
}

TransferRecord ContextFiles::record() const {
  TransferRecord sum;
  for (const ActivationReader& reader : readers_) {
    sum.bytes += reader.record().bytes;
    sum.seconds += reader.record().seconds;
    sum.transfers += reader.record().transfers;
    sum.not_collective += reader.record().not_collective;
  }
  return sum;
}

ContextFigures& ContextFigures::operator+=(const ContextFigures& other) {
  blocks_read += other.blocks_read;
  blocks_left += other.blocks_left;
  return *this;
}

StreamedContext::StreamedContext(std::vector<KeySegment> segments, std::vector<int> kv_heads, std::int64_t block_tokens,
                                 bool check_finite, IoQueue& queue, MemoryLedger* ledger)
    : segments_(std::move(segments)),
      kv_heads_(std::move(kv_heads)),
      block_tokens_(block_tokens),
      check_finite_(check_finite),
      queue_(queue),
      ledger_(ledger),
      tokens_(segments_.empty() ? 0 : segments_.back().run.end) {
  for (std::int64_t end = tokens_; end > 0; end = block_before(end, 0).begin) ++num_blocks_;
}

/// The one that holds token end - 1.
const KeySegment* StreamedContext::segment_before(std::int64_t end) const {
  const auto found = std::find_if(segments_.begin(), segments_.end(), [&](const KeySegment& segment) {
    return segment.run.begin < end && end <= segment.run.end;
  });
  return found != segments_.end() ? &*found : nullptr;
}

TokenRun StreamedContext::block_before(std::int64_t end, std::int64_t first_needed) const {
  const std::int64_t number = (tokens_ - end) / block_tokens_;
  const std::int64_t grid = tokens_ - (number + 1) * block_tokens_;
  return {std::max({grid, segment_before(end)->run.begin, first_needed}), end};
}

void StreamedContext::begin(std::int64_t first_needed, bool with_values) {
  first_needed_ = first_needed;
  with_values_ = with_values;
  fetch_end_ = tokens_;
  fetched_ = 0;
  if (queue_.has_thread()) fetch();
}

void StreamedContext::fetch() {
  if (fetch_end_ <= first_needed_) return;
  const TokenRun run = block_before(fetch_end_, first_needed_);
  // By value: where this walk ends early the queue may still have the block ahead of it.
  coming_ = queue_.submit<ContextBlock>(
      [segment = *segment_before(fetch_end_), run, heads = kv_heads_, with_values = with_values_, check = check_finite_,
       ledger = ledger_] { return read_block(segment, run, heads, with_values, check, ledger); });
  fetch_end_ = run.begin;
  ++fetched_;
}

std::optional<ContextBlock> StreamedContext::next() {
  if (!coming_.valid()) fetch();
  if (!coming_.valid()) return std::nullopt;
  ContextBlock block = coming_.get();
  if (queue_.has_thread()) fetch();
  return block;
}

void StreamedContext::end() {
  figures_.blocks_read += fetched_;
  figures_.blocks_left += num_blocks_ - fetched_;
  first_needed_ = fetch_end_;
  if (!coming_.valid()) return;
  // A block that nobody needs any more, but that all ranks are reading. What is wrong with its numbers is nobody's
  // concern; what this rank alone could not do, is.
  try {
    coming_.get();
  } catch (const Error& error) {
    if (!error.is_collective()) throw;
  }
}

}  // namespace ringscan
