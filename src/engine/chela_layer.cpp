#include "engine/chela_layer.hpp"

#include <algorithm>
#include <cmath>
#include <future>
#include <numeric>

#include "core/error.hpp"
#include "core/stopwatch.hpp"
#include "engine/long_conv_pass.hpp"

namespace ringscan {
namespace {

constexpr std::int64_t kMostHeadDim = 256;
constexpr std::int64_t kChannelsAHead = 64;
constexpr const char* kShortInputs = "state/chela/short_inputs";
constexpr const char* kLongInputs = "state/chela/long_inputs";
constexpr const char* kState = "state/chela/S";

/// The datasets of a convolution, [channels, width] each.
std::vector<DatasetInfo> branches_of(const ActivationReader& reader, const std::string& layer, const std::string& name,
                                     std::int64_t channels) {
  std::vector<DatasetInfo> branches;
  if (!reader.find(layer, name + "/0")) branches.push_back(reader.require(layer, name, {channels, -1}));
  for (std::size_t i = branches.size(); reader.find(layer, name + "/" + std::to_string(i)); ++i) {
    branches.push_back(reader.require(layer, name + "/" + std::to_string(i), {channels, -1}));
  }
  for (const DatasetInfo& branch : branches) {
    if (branch.shape[1] < 1) throw bad_input(reader.path() + ": " + branch.path + " has no taps; want at least one");
  }
  return branches;
}

std::int64_t widest(const std::vector<DatasetInfo>& branches) {
  std::int64_t width = 1;
  for (const DatasetInfo& branch : branches) width = std::max(width, branch.shape[1]);
  return width;
}

void check_heads(const ActivationReader& reader, const ChelaShape& shape, const DatasetInfo& x) {
  const auto wrong = [&](const std::string& wanted) {
    return bad_input(reader.path() + ": " + x.path + " has " + std::to_string(shape.channels) + " channels and w_v " +
                     std::to_string(shape.v_channels) + " columns: chela.heads = " + std::to_string(shape.num_heads) +
                     wanted);
  };
  if (shape.num_heads < 1 || shape.channels % shape.num_heads != 0 || shape.v_channels % shape.num_heads != 0) {
    throw wrong(" must divide both");
  }
  if (shape.head_dim() < 1 || shape.v_dim() < 1 || std::max(shape.head_dim(), shape.v_dim()) > kMostHeadDim) {
    throw wrong(" leaves " + std::to_string(shape.head_dim()) + " and " + std::to_string(shape.v_dim()) +
                " a head; want 1 to " + std::to_string(kMostHeadDim));
  }
}

std::vector<std::int64_t> state_shape(const ChelaLayer& layer) {
  return {layer.batch, layer.shape.num_heads, layer.shape.head_dim(), layer.shape.v_dim()};
}

std::vector<float> to_floats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

/// [rows, columns] -> [columns, rows].
std::vector<float> transposed(const std::vector<double>& values, std::int64_t rows, std::int64_t columns) {
  std::vector<float> out(values.size());
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      out[static_cast<std::size_t>(j * rows + i)] =
          static_cast<float>(values[static_cast<std::size_t>(i * columns + j)]);
    }
  }
  return out;
}

SlabSelection rows_of(const TokenRun& rows, std::int64_t channels) {
  SlabSelection selection;
  if (!rows.empty()) selection.tokens = {rows};
  selection.heads.resize(static_cast<std::size_t>(channels));
  std::iota(selection.heads.begin(), selection.heads.end(), 0);
  return selection;
}

class ChelaLayerRun {
 public:
  ChelaLayerRun(const ChelaLayerTask& task, Transport& transport, const ChelaBackend& backend, MemoryLedger* ledger,
                Heartbeat& heartbeat)
      : task_(task),
        layer_(*task.layer),
        shape_(task.layer->shape),
        transport_(transport),
        backend_(backend),
        ledger_(ledger),
        heartbeat_(heartbeat),
        own_(task.layout->chunks(transport.rank())[0].run),
        has_last_(!own_.empty() && own_.end == layer_.seq_len) {}

  ChelaLayerFigures run() {
    ChelaLayerFigures figures;
    const Stopwatch reading;
    auto ready = std::async(std::launch::async, [&] { backend_.ssm.warm_up(); });
    const ChelaWeights weights = read_chela_weights(*task_.reader, layer_, task_.check_finite);
    MemorySpace& space = backend_.ssm.work_memory();
    const PlacedChelaWeights placed(weights, space);  // on a device a copy, beside the warming up
    const DatasetInfo x = *task_.reader->find(layer_.name, "chela/x");
    const Buffer x_rows =
        task_.reader->read_slab(x, rows_of(own_, shape_.channels), task_.check_finite, ledger_, backend_.ssm.memory());
    Buffer y_rows(count_of(own_.size()) * sizeof(float), ledger_for(space, ledger_), space);
    ChelaPassTask pass;
    pass.layout = task_.layout;
    pass.weights = &placed;
    pass.scale = task_.scale;
    pass.reproducible = task_.reproducible;
    pass.x = dense_any_view(x_rows.data(), layer_.x_type, {layer_.batch, own_.size(), 1, shape_.channels});
    pass.y = view(y_rows.as<float>(), own_.size());
    if (task_.initial != nullptr) read_past(pass);
    figures.read_seconds = reading.seconds();
    ready.get();
    if (task_.writes_state) make_future(pass);
    figures.pass = run_chela_pass(pass, transport_, backend_, ledger_, heartbeat_);
    timed(figures.write_seconds, SpanKind::kWait, [&] {
      write_y(y_rows);
      if (task_.writes_state) write_state();
    });
    return figures;
  }

 private:
  std::size_t count_of(std::int64_t rows) const {
    return static_cast<std::size_t>(layer_.batch * rows * shape_.channels);
  }
  template <typename T>
  TensorView<T> view(T* data, std::int64_t rows) const {
    return dense_view(data, {layer_.batch, rows, 1, shape_.channels});
  }

  /// An address even where there is nothing to hold, since none means nothing wanted.
  Buffer rows_buffer(std::int64_t rows) const { return Buffer((count_of(rows) + 1) * sizeof(float), ledger_); }

  DatasetInfo require_inputs(const char* name, std::int64_t width) const {
    return task_.initial->require(layer_.name, name, {layer_.batch, width - 1, shape_.channels});
  }

  /// Collective.
  Buffer read_inputs(const char* name, std::int64_t width, const TokenRun& rows) {
    Buffer floats = rows_buffer(rows.size());
    if (width == 1) return floats;
    const DatasetInfo info = require_inputs(name, width);
    const Buffer slab = task_.initial->read_slab(info, rows_of(rows, shape_.channels), task_.check_finite, ledger_);
    convert_elements(slab.data(), type_in_memory(info.type), floats.data(), ElementType::kFloat32,
                     count_of(rows.size()));
    return floats;
  }

  void read_past(ChelaPassTask& pass) {
    const TokenRun before_short{0, shape_.short_width - 1};
    const TokenRun before_long = wanted_past(*task_.layout, shape_.long_width, task_.reproducible, transport_.rank());
    DatasetInfo state;
    run_collectively(transport_, [&] {
      if (shape_.short_width > 1) require_inputs(kShortInputs, shape_.short_width);
      if (shape_.long_width > 1) require_inputs(kLongInputs, shape_.long_width);
      state = task_.initial->require(layer_.name, kState, state_shape(layer_));
    });
    past_short_ = read_inputs(kShortInputs, shape_.short_width, before_short);
    past_long_ = read_inputs(kLongInputs, shape_.long_width, before_long);
    past_state_ = task_.initial->read_whole(state);
    pass.past.short_inputs = view(std::as_const(past_short_).as<float>(), before_short.size());
    pass.past.long_inputs = view(std::as_const(past_long_).as<float>(), before_long.size());
    pass.past.state = past_state_.data();
  }

  void make_future(ChelaPassTask& pass) {
    kept_ = kept_inputs(*task_.layout, shape_.long_width, transport_.rank());
    last_short_ = rows_buffer(shape_.short_width - 1);
    last_long_ = rows_buffer(kept_.size());
    last_state_.resize(static_cast<std::size_t>(layer_.batch * shape_.channels * shape_.v_dim()));
    pass.future.short_inputs = view(last_short_.as<float>(), shape_.short_width - 1);
    pass.future.long_inputs = view(last_long_.as<float>(), kept_.size());
    pass.future.state = last_state_.data();
  }

  void write_y(const Buffer& rows) {
    SlabSelection selection = rows_of(own_, 0);
    selection.heads = task_.output->y_heads;
    Buffer converted(count_of(own_.size()) * size_of(layer_.y_type), ledger_);
    const Shape4 shape{layer_.batch, own_.size(), 1, shape_.channels};
    backend_.ssm.convert(dense_any_view(rows.data(), ElementType::kFloat32, shape),
                         dense_any_view(converted.data(), layer_.y_type, shape));
    task_.writer->write_slab(task_.output->y, selection, converted.data());
  }

  void write_state() {
    if (shape_.short_width > 1) {
      const std::int64_t rows = shape_.short_width - 1;
      task_.writer->write_slab(task_.output->short_inputs, rows_of({0, has_last_ ? rows : 0}, shape_.channels),
                               last_short_.data());
    }
    if (shape_.long_width > 1) write_long_inputs();
    SlabSelection selection = rows_of({0, has_last_ ? shape_.num_heads : 0}, shape_.head_dim());
    task_.writer->write_slab(task_.output->state, selection, last_state_.data());
  }

  /// Each rank writes those of its own tokens; where the kernel is longer than this sequence, a share of what was
  /// before it (or zeros) moves up.
  void write_long_inputs() {
    const std::int64_t rows = shape_.long_width - 1;
    const DatasetInfo& info = task_.output->long_inputs;
    const std::int64_t moved = std::max<std::int64_t>(0, rows - layer_.seq_len);
    const SequenceLayout shares(LayoutKind::kContiguous, moved, transport_.world_size(), 1);
    const TokenRun share = shares.chunks(transport_.rank())[0].run;
    if (moved > 0) {
      const std::int64_t skipped = task_.initial != nullptr ? rows - moved : 0;
      Buffer before;
      if (task_.initial != nullptr) {
        before = read_inputs(kLongInputs, shape_.long_width, {share.begin + skipped, share.end + skipped});
      } else {
        before = rows_buffer(share.size());
        before.fill_zero();
      }
      task_.writer->write_slab(info, rows_of(share, shape_.channels), before.data());
    }
    const std::int64_t first = rows - layer_.seq_len;  // the row of token 0
    const TokenRun own{kept_.begin + first, kept_.end + first};
    task_.writer->write_slab(info, rows_of(kept_.empty() ? TokenRun{} : own, shape_.channels), last_long_.data());
  }

  const ChelaLayerTask& task_;
  const ChelaLayer& layer_;
  const ChelaShape& shape_;
  Transport& transport_;
  const ChelaBackend& backend_;
  MemoryLedger* ledger_;
  Heartbeat& heartbeat_;
  TokenRun own_;
  bool has_last_;
  TokenRun kept_;
  Buffer past_short_, past_long_;
  Buffer last_short_, last_long_;
  std::vector<double> past_state_, last_state_;
};

}  // namespace

std::int64_t default_chela_heads(std::int64_t channels, std::int64_t v_channels) {
  const std::int64_t heads = channels / kChannelsAHead;
  const bool divides = channels % kChannelsAHead == 0 && heads >= 1 && v_channels % heads == 0;
  return divides ? heads : 1;
}

ChelaLayer inspect_chela_layer(const ActivationReader& reader, const std::string& name, std::int64_t num_heads,
                               std::optional<ElementType> output_dtype) {
  const DatasetInfo x = reader.require(name, "chela/x", {-1, -1, -1});
  const std::int64_t channels = x.shape[2];
  const DatasetInfo w_v = reader.require(name, "chela/w_v", {channels, -1});
  reader.require(name, "chela/w_g", {channels, w_v.shape[1]});
  reader.require(name, "chela/w_o", {w_v.shape[1], channels});
  for (const char* map : {"chela/kq", "chela/mq", "chela/kk", "chela/mk"}) reader.require(name, map, {channels});
  ChelaLayer layer;
  layer.name = name;
  layer.batch = x.shape[0];
  layer.seq_len = x.shape[1];
  layer.shape.channels = channels;
  layer.shape.v_channels = w_v.shape[1];
  layer.shape.num_heads = num_heads > 0 ? num_heads : default_chela_heads(channels, w_v.shape[1]);
  layer.shape.short_width = widest(branches_of(reader, name, "chela/short_conv", channels));
  layer.shape.long_width = widest(branches_of(reader, name, "chela/long_conv", channels));
  check_heads(reader, layer.shape, x);
  layer.x_type = type_in_memory(x.type);
  layer.y_type = output_dtype.value_or(x.type);
  return layer;
}

std::vector<float> fold_branches(const std::vector<std::vector<double>>& branches, std::int64_t channels) {
  std::size_t width = 0;
  const auto count = static_cast<std::size_t>(channels);
  for (const auto& branch : branches) width = std::max(width, branch.size() / count);
  std::vector<double> sum(count * width, 0.0);
  for (const auto& branch : branches) {
    const std::size_t own_width = branch.size() / count;
    for (std::size_t i = 0; i < branch.size(); ++i) sum[i / own_width * width + i % own_width] += branch[i];
  }
  return to_floats(sum);
}

ChelaWeights read_chela_weights(ActivationReader& reader, const ChelaLayer& layer, bool check_finite) {
  const ChelaShape& shape = layer.shape;
  const auto read_dataset = [&](const DatasetInfo& info) {
    std::vector<double> whole = reader.read_whole(info);
    const auto is_finite = [](double x) { return std::isfinite(x); };
    if (!check_finite || std::all_of(whole.begin(), whole.end(), is_finite)) return whole;
    // Every rank has the same in hand, and throws the same.
    Error error = bad_input(reader.path() + ": " + info.path +
                            " holds NaN or infinity; want finite numbers, or --allow-nonfinite");
    error.set_collective();
    throw error;
  };
  const auto read = [&](const std::string& name) { return read_dataset(*reader.find(layer.name, "chela/" + name)); };
  const auto read_taps = [&](const std::string& name) {
    std::vector<std::vector<double>> branches;
    for (const DatasetInfo& branch : branches_of(reader, layer.name, "chela/" + name, shape.channels)) {
      branches.push_back(read_dataset(branch));
    }
    return fold_branches(branches, shape.channels);
  };
  ChelaWeights weights;
  weights.shape = shape;
  weights.short_conv = read_taps("short_conv");
  weights.long_conv = read_taps("long_conv");
  weights.kq = to_floats(read("kq"));
  weights.mq = to_floats(read("mq"));
  weights.kk = to_floats(read("kk"));
  weights.mk = to_floats(read("mk"));
  weights.w_v = transposed(read("w_v"), shape.channels, shape.v_channels);
  weights.w_g = transposed(read("w_g"), shape.channels, shape.v_channels);
  weights.w_o = transposed(read("w_o"), shape.v_channels, shape.channels);
  return weights;
}

ChelaOutput create_chela_output(ActivationWriter& writer, const ChelaLayer& layer, const DatasetInfo* o,
                                const std::vector<int>& heads, bool writes_state) {
  const std::int64_t channels = layer.shape.channels;
  ChelaOutput output;
  if (o != nullptr) {
    output.y = *o;
    output.y_heads = heads;
  } else {
    output.y = writer.create(layer.name, "chela/y", layer.y_type, {layer.batch, layer.seq_len, channels});
    output.y_heads.resize(static_cast<std::size_t>(channels));
    std::iota(output.y_heads.begin(), output.y_heads.end(), 0);
  }
  if (!writes_state) return output;
  const auto create_inputs = [&](const char* name, std::int64_t width) {
    return writer.create(layer.name, name, ElementType::kFloat32, {layer.batch, width - 1, channels});
  };
  if (layer.shape.short_width > 1) output.short_inputs = create_inputs(kShortInputs, layer.shape.short_width);
  if (layer.shape.long_width > 1) output.long_inputs = create_inputs(kLongInputs, layer.shape.long_width);
  output.state = writer.create(layer.name, kState, ElementType::kFloat64, state_shape(layer));
  return output;
}

ChelaLayerBytes chela_layer_bytes(const ChelaLayer& layer, ElementType file_type, const SequenceLayout& layout,
                                  bool reproducible, bool has_initial, bool writes_state, const ChelaBackend& backend) {
  const ChelaShape& s = layer.shape;
  const auto floats = [](std::int64_t count) { return static_cast<std::size_t>(count) * sizeof(float); };
  const auto rows = static_cast<std::size_t>(layer.batch * layout.max_local_tokens() * s.channels);
  const std::int64_t row = layer.batch * s.channels;
  const std::int64_t taps = s.channels * (s.short_width + s.long_width);
  ChelaLayerBytes bytes;
  bytes.input = rows * size_of(layer.x_type) +
                floats(taps + s.channels * s.short_width + 4 * s.channels + 3 * s.channels * s.v_channels);
  bytes.output = rows * (sizeof(float) + size_of(layer.y_type));
  bytes.pass = chela_pass_bytes(s, layout, layer.batch, reproducible, backend);
  std::int64_t before_long = 0, kept = 0;
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    before_long = std::max(before_long, wanted_past(layout, s.long_width, reproducible, rank).size());
    kept = std::max(kept, kept_inputs(layout, s.long_width, rank).size());
  }
  // Each of these is read, or written, beside its converted form.
  if (has_initial) bytes.pass += 2 * floats(row * (s.short_width - 1 + before_long) + 2);
  if (writes_state) {
    const std::int64_t moved =
        ceil_div(std::max<std::int64_t>(0, s.long_width - 1 - layer.seq_len), layout.world_size());
    bytes.pass += floats(row * (s.short_width - 1 + kept + 2 * moved) + 4);
  }
  if (has_initial || writes_state) bytes.pass += 4 * floats(row * s.v_dim());  // float64, in and out
  // float64 files are rounded while they are read; branches of taps are folded in float64.
  bytes.scratch = std::max(file_type == ElementType::kFloat64 ? 2 * sizeof(float) * rows : 0, 4 * floats(taps));
  return bytes;
}

ChelaLayerFigures run_chela_layer(const ChelaLayerTask& task, Transport& transport, const ChelaBackend& backend,
                                  MemoryLedger* ledger, Heartbeat& heartbeat) {
  return ChelaLayerRun(task, transport, backend, ledger, heartbeat).run();
}

}  // namespace ringscan
