#pragma once
// Shards and blocks of keys where the kernels compute: in place on the host, as copies on a device.

#include <vector>

#include "core/buffer.hpp"
#include "core/tensor_view.hpp"
#include "engine/layer_io.hpp"

namespace ringscan {

/// A dense tensor in a space: the host's own where the space is the host's, else a copy.
class Resident {
 public:
  Resident() = default;
  /// @pre host is dense, or holds nothing.
  Resident(const AnyView& host, MemorySpace& space);
  const AnyView& view() const { return view_; }

 private:
  Buffer copy_;
  AnyView view_;
};

/// The way back: a dense tensor of a space on the host.
class HostCopy {
 public:
  HostCopy(const AnyView& resident, MemorySpace& space);
  const AnyView& view() const { return view_; }

 private:
  Buffer copy_;
  AnyView view_;
};

/// What of a shard the passes read.
class ResidentInput {
 public:
  ResidentInput() = default;
  /// @pre input, on the host, outlives this.
  ResidentInput(const ShardInput& input, MemorySpace& space);

  AnyView q() const { return q_.view(); }
  /// On a device v lies right behind k, as they travel.
  AnyView k() const { return k_; }
  AnyView v() const { return v_; }
  AnyView remainder_value() const { return remainder_value_.view(); }
  AnyView log_decay() const { return log_decay_.view(); }

 private:
  Resident q_, remainder_value_, log_decay_;
  Buffer kv_copy_;
  AnyView k_, v_;
};

/// What of a shard the passes write.
class ResidentOutput {
 public:
  /// @pre what output, on the host, points to outlives this.
  ResidentOutput(const ShardOutput& output, MemorySpace& space);

  MutableAnyView o() const { return o_; }
  TensorView<float> lse() const { return lse_.view; }
  TensorView<float> remainder() const { return remainder_.view; }
  TensorView<float> kept_mass() const { return kept_mass_.view; }

  /// Rows of `heads` (places in the shard) of o, and all statistics, come to the host's output by `way`, the space that
  /// they lie in or its Kernels::staging(). @pre what wrote them is through.
  void bring_back(const std::vector<int>& heads, MemorySpace& way) const;

 private:
  struct Statistic {
    TensorView<float> host;
    Buffer copy;
    TensorView<float> view;
  };
  Statistic make_statistic(const TensorView<float>& host) const;

  MemorySpace* space_;
  MutableAnyView host_o_;
  Buffer o_copy_;
  MutableAnyView o_;  // on a device float32 for a float64 output, which is widened on its way back
  Statistic lse_, remainder_, kept_mass_;
};

}  // namespace ringscan
