#include "mechanism/mechanism.hpp"

namespace ringscan {

namespace {

std::string_view name_of(const SoftmaxParams&) {
  return "softmax";
}
std::string_view name_of(const StickBreakingParams&) {
  return "stick-breaking";
}
std::string_view name_of(const CogParams&) {
  return "cog";
}

std::string_view name_of(const SparseParams&) {
  return "sparse";
}
std::string_view name_of(const LinearParams&) {
  return "linear";
}

}  // namespace

std::string_view name_of(const Mechanism& mechanism) {
  return std::visit([](const auto& params) { return name_of(params); }, mechanism);
}

std::string_view name_of(const BlockMechanism& mechanism) {
  constexpr std::string_view kNames[] = {"ssm", "mamba", "chela"};
  return kNames[mechanism.index()];
}

Band band_of(const SoftmaxParams& params) {
  Band band;
  if (params.causal) band.min_delta = 0;
  if (params.window > 0) {
    band.max_delta = params.window - 1;
    if (!params.causal) band.min_delta = 1 - params.window;
  }
  return band;
}

Band band_of(const StickBreakingParams& params) {
  return {params.attend_current ? 0 : 1, Band::kUnbounded};
}

Band band_of(const CogParams& params) {
  return {params.causal ? 0 : -Band::kUnbounded, Band::kUnbounded};
}

Band band_of(const SparseParams&) {
  return {0, Band::kUnbounded};
}

Band band_of(const LinearParams&) {
  return {0, Band::kUnbounded};
}

Band band_of(const Mechanism& mechanism) {
  return std::visit([](const auto& params) { return band_of(params); }, mechanism);
}

bool has_lse(const Mechanism& mechanism) {
  return !has_remainder(mechanism) && !carries_state(mechanism);
}

bool has_remainder(const Mechanism& mechanism) {
  return std::holds_alternative<StickBreakingParams>(mechanism);
}

bool carries_state(const Mechanism& mechanism) {
  return std::holds_alternative<LinearParams>(mechanism);
}

bool is_ordered(const Mechanism& mechanism) {
  return std::holds_alternative<StickBreakingParams>(mechanism);
}

}  // namespace ringscan
