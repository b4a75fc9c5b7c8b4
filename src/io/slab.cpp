#include "io/slab.hpp"

#include <algorithm>
#include <atomic>

#include "core/error.hpp"
#include "io/messages.hpp"

namespace ringscan {
namespace {

std::atomic<std::size_t> g_piece_limit_bytes{std::size_t{1} << 30};

std::vector<std::array<int, 2>> runs_of(const std::vector<int>& heads) {
  std::vector<std::array<int, 2>> runs;
  for (const int head : heads) {
    if (!runs.empty() && runs.back()[1] == head) {
      runs.back()[1] = head + 1;
    } else {
      runs.push_back({head, head + 1});
    }
  }
  return runs;
}

void check_selection(const SlabSelection& selection, std::int64_t seq_len, std::int64_t num_heads,
                     const std::string& subject) {
  std::int64_t token_end = 0;
  for (const TokenRun& run : selection.tokens) {
    if (run.begin < token_end || run.end < run.begin || run.end > seq_len) {
      throw failure(subject + ": cannot select tokens [" + std::to_string(run.begin) + ", " + std::to_string(run.end) +
                    ") of " + std::to_string(seq_len) + ", in ascending order");
    }
    token_end = run.end;
  }
  int head_end = 0;
  for (const int head : selection.heads) {
    if (head < head_end || head >= num_heads) {
      throw failure(subject + ": cannot select head " + std::to_string(head) + " of " + std::to_string(num_heads) +
                    ", in ascending order");
    }
    head_end = head + 1;
  }
}

}  // namespace

std::size_t piece_limit_bytes() {
  return g_piece_limit_bytes.load();
}

void set_piece_limit_bytes(std::size_t bytes) {
  g_piece_limit_bytes.store(bytes);
}

std::int64_t SlabSelection::token_count() const {
  std::int64_t count = 0;
  for (const TokenRun& run : tokens) count += run.size();
  return count;
}

Slab::Slab(const std::string& file, const DatasetInfo& dataset, const SlabSelection& selection)
    : extent_{1, 1, 1, 1}, rank_(static_cast<int>(dataset.shape.size())), selection_(selection) {
  const std::string subject = subject_of(file, dataset.path);
  if (rank_ < 1 || rank_ > 4) {
    throw bad_input(subject + ": shape " + shape_text(dataset.shape) +
                    " found, [batch, seq, heads, dim] or the first of these wanted");
  }
  std::copy(dataset.shape.begin(), dataset.shape.end(), extent_.begin());
  check_selection(selection_, extent_[1], extent_[2], subject);
  head_runs_ = runs_of(selection_.heads);
  tokens_ = selection_.token_count();
}

std::vector<SlabPiece> Slab::pieces(std::size_t element_bytes, std::size_t limit_bytes) const {
  std::vector<SlabPiece> pieces;
  if (element_count() == 0) return pieces;
  const std::int64_t limit = std::max<std::int64_t>(1, static_cast<std::int64_t>(limit_bytes / element_bytes));
  const std::int64_t item_elements = tokens_ * row_elements();
  const bool items_fit = item_elements <= limit;
  const std::int64_t batch_step = items_fit ? limit / item_elements : 1;
  const std::int64_t token_step = items_fit ? tokens_ : std::max<std::int64_t>(1, limit / row_elements());
  for (std::int64_t batch = 0; batch < extent_[0]; batch += batch_step) {
    for (std::int64_t token = 0; token < tokens_; token += token_step) {
      const std::int64_t batch_count = std::min(batch_step, extent_[0] - batch);
      const std::int64_t token_count = std::min(token_step, tokens_ - token);
      pieces.push_back({batch, batch_count, token, token_count, (batch * tokens_ + token) * row_elements(),
                        batch_count * token_count * row_elements()});
    }
  }
  return pieces;
}

void Slab::select(hid_t space, const SlabPiece& piece) const {
  H5S_seloper_t how = H5S_SELECT_SET;
  std::int64_t run_begin_local = 0;
  for (const TokenRun& run : selection_.tokens) {
    const TokenRun part_local = intersect({run_begin_local, run_begin_local + run.size()},
                                          {piece.token_begin_local, piece.token_begin_local + piece.token_count});
    const std::int64_t shift = run.begin - run_begin_local;
    if (!part_local.empty()) select_run(space, piece, {part_local.begin + shift, part_local.end + shift}, how);
    run_begin_local += run.size();
  }
}

void Slab::select_run(hid_t space, const SlabPiece& piece, const TokenRun& run, H5S_seloper_t& how) const {
  for (const auto& [head_begin, head_end] : head_runs_) {
    const hsize_t start[4] = {static_cast<hsize_t>(piece.batch_begin), static_cast<hsize_t>(run.begin),
                              static_cast<hsize_t>(head_begin), 0};
    const hsize_t count[4] = {static_cast<hsize_t>(piece.batch_count), static_cast<hsize_t>(run.size()),
                              static_cast<hsize_t>(head_end - head_begin), static_cast<hsize_t>(extent_[3])};
    checked(H5Sselect_hyperslab(space, how, start, nullptr, count, nullptr));
    how = H5S_SELECT_OR;
  }
}

std::int64_t Slab::to_global(std::int64_t element_local) const {
  const std::int64_t dim = element_local % extent_[3];
  const std::int64_t row = element_local / extent_[3];
  const std::int64_t heads = static_cast<std::int64_t>(selection_.heads.size());
  const std::int64_t head = selection_.heads[static_cast<std::size_t>(row % heads)];
  const std::int64_t batch = row / heads / tokens_;
  std::int64_t token = row / heads % tokens_;
  for (const TokenRun& run : selection_.tokens) {
    if (token < run.size()) {
      token += run.begin;
      break;
    }
    token -= run.size();
  }
  return ((batch * extent_[1] + token) * extent_[2] + head) * extent_[3] + dim;
}

}  // namespace ringscan
