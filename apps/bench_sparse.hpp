#pragma once

#include <cstdint>

#include "apps/measurement.hpp"
#include "kernels/kernels.hpp"

namespace ringscan {

struct SparseFigures {
  double gflops = 0.0;  ///< window: of the kept pairs; top-k: of the dense pairs, so that rates compare as times do
  double dense_gflops = 0.0;  ///< softmax over all keys
  Quartiles ratio;            ///< over the repeats, of the one over the other
  int rounds = 0;             ///< top-k: of the search
};

/// n^0.7-sparse attention beside dense softmax, in turn; one head, random normal input, processor time. Top-k and dense
/// softmax compute the last rows of a long sequence alone (2^29 pairs at most).
SparseFigures bench_sparse(Kernels& kernels, SparseSelect select, std::int64_t seq_len, std::int64_t head_dim,
                           int repeats);

}  // namespace ringscan
