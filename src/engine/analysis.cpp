#include "engine/analysis.hpp"

#include "core/stopwatch.hpp"
#include "core/system_memory.hpp"
#include "engine/layer_analysis.hpp"
#include "engine/layer_io.hpp"

namespace ringscan {

Analysis analyze(const AnalysisRequest& request, const AnalysisContext& context) {
  const Stopwatch watch;
  Transport& transport = *context.transport;
  ActivationReader reader(*context.access, request.input);
  std::vector<LayerShape> layers;
  run_collectively(transport, [&] {
    for (const std::string& name : reader.layers(request.layers)) layers.push_back(inspect_layer(reader, name, {}));
  });
  const std::size_t available = request.memory_bytes.value_or(available_memory_bytes() / 10 * 9 /
                                                              static_cast<std::size_t>(context.ranks_on_node));
  const auto limit =
      static_cast<std::size_t>(transport.RankGroup::all_reduce(static_cast<std::int64_t>(available), ReduceOp::kMin));

  Analysis analysis;
  analysis.request = request;
  analysis.world_size = transport.world_size();
  analysis.transport = transport.name();
  MemoryLedger ledger;
  for (std::size_t index = 0; index < layers.size(); ++index) {
    const LayerShape& layer = layers[index];
    const auto on_progress = [&](double fraction) {
      if (!context.on_progress) return;
      context.on_progress((static_cast<double>(index) + fraction) / static_cast<double>(layers.size()),
                          layer.name.empty() ? "measuring" : "layer " + layer.name);
    };
    analysis.layers.push_back(analyze_layer({&request, &transport, &reader, &ledger, limit, on_progress}, layer));
  }
  analysis.seconds = transport.RankGroup::all_reduce(watch.seconds(), ReduceOp::kMax);
  analysis.peak_bytes = static_cast<std::size_t>(
      transport.RankGroup::all_reduce(static_cast<std::int64_t>(ledger.peak_bytes()), ReduceOp::kMax));
  return analysis;
}

}  // namespace ringscan
