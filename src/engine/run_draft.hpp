#pragma once
// Internal to run options: a configuration in the making, before its parts are held against each other.

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/run_config.hpp"
#include "engine/settings.hpp"

namespace ringscan {

/// A configuration in the making: mechanisms' parameters apart from the heads that have them.
struct Draft {
  RunConfig config;
  SoftmaxParams softmax;
  StickBreakingParams stick;
  CogParams cog;
  SparseParams sparse;
  LinearParams linear;
  ChelaParams chela;
  std::string mechanism;
  std::map<std::string, std::vector<int>, std::less<>> heads;  // by mechanism
};

/// A mechanism's name and its parameters in a draft.
struct MechanismChoice {
  std::string_view name;
  Mechanism (*of)(const Draft&);
};

inline constexpr MechanismChoice kMechanisms[] = {
    {"softmax", [](const Draft& draft) -> Mechanism { return draft.softmax; }},
    {"stick-breaking", [](const Draft& draft) -> Mechanism { return draft.stick; }},
    {"cog", [](const Draft& draft) -> Mechanism { return draft.cog; }},
    {"sparse", [](const Draft& draft) -> Mechanism { return draft.sparse; }},
    {"linear", [](const Draft& draft) -> Mechanism { return draft.linear; }},
};
inline constexpr std::string_view kMechanismNames = "softmax, stick-breaking, cog, sparse, linear, ssm, mamba or chela";

/// Mechanisms with inputs of their own.
struct BlockChoice {
  std::string_view name;
  BlockMechanism (*of)(const Draft&);
};

inline constexpr BlockChoice kBlockMechanisms[] = {
    {"ssm", [](const Draft&) -> BlockMechanism { return SsmParams{}; }},
    {"mamba", [](const Draft&) -> BlockMechanism { return MambaParams{}; }},
    {"chela", [](const Draft& draft) -> BlockMechanism { return draft.chela; }},
};

/// What was given, by name; for messages about combinations.
using Given = std::map<std::string, const Setting*>;

/// Gives the heads their mechanisms and finds what cannot go together. @throws Error(kBadInput).
void complete(Draft& draft, const Given& given);

}  // namespace ringscan
