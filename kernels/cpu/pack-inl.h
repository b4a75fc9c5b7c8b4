// Rows of any element type into panels and lane rows of float32, and back.
#if defined(RINGSCAN_PACK_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGSCAN_PACK_INL_H
#undef RINGSCAN_PACK_INL_H
#else
#define RINGSCAN_PACK_INL_H
#endif

#include <cstring>

#include "kernels/cpu/simd_math-inl.h"
#include "kernels/cpu/tile_ops.hpp"

// Without hardware conversions the scalar ones of core are right for infinities and NaN too.
#if HWY_TARGET <= HWY_AVX2 || HWY_TARGET == HWY_NEON
#define RINGSCAN_HAVE_FLOAT16_VECTORS 1
#else
#define RINGSCAN_HAVE_FLOAT16_VECTORS 0
#endif

HWY_BEFORE_NAMESPACE();
namespace ringscan::cpu::HWY_NAMESPACE {

/// One register, on every machine that has them.
HWY_INLINE void CopyFour(const float* from, float* to) {
  std::memcpy(to, from, kPanel * sizeof(float));
}

/// to[lane] = {a[lane], b[lane], c[lane], e[lane]}
HWY_INLINE void StoreFour(Floats a, Floats b, Floats c, Floats e, float* to) {
  const FloatTag d;
#if HWY_TARGET == HWY_SCALAR
  hn::Store(a, d, to);
  hn::Store(b, d, to + 1);
  hn::Store(c, d, to + 2);
  hn::Store(e, d, to + 3);
#else
  hn::StoreInterleaved4(a, b, c, e, d, to);
#endif
}

HWY_INLINE void LoadRow(const std::byte* from, ElementType type, std::size_t count, float* to) {
  const FloatTag d;
  std::size_t i = 0;
  if (type == ElementType::kFloat32) {
    const auto* floats = reinterpret_cast<const float*>(from);
    for (; i + kLanes <= count; i += kLanes) hn::StoreU(hn::LoadU(d, floats + i), d, to + i);
  }
  if (type == ElementType::kBfloat16) {
    const hn::Rebind<std::uint16_t, FloatTag> d16;
    const hn::RebindToUnsigned<FloatTag> d32;
    const auto* bits = reinterpret_cast<const std::uint16_t*>(from);
    for (; i + kLanes <= count; i += kLanes) {
      const auto wide = hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, bits + i)));
      hn::StoreU(hn::BitCast(d, wide), d, to + i);
    }
  }
#if RINGSCAN_HAVE_FLOAT16_VECTORS
  if (type == ElementType::kFloat16) {
    const hn::Rebind<hwy::float16_t, FloatTag> d16;
    const auto* halves = reinterpret_cast<const hwy::float16_t*>(from);
    for (; i + kLanes <= count; i += kLanes) hn::StoreU(hn::PromoteTo(d, hn::LoadU(d16, halves + i)), d, to + i);
  }
#endif
  if (i < count) convert_elements(from + i * size_of(type), type, to + i, ElementType::kFloat32, count - i);
}

/// The source's rows and then zeros, to `num_rows` rows of round_up(dim, kMaxVector).
HWY_INLINE void LoadRows(const RowSource& source, std::size_t num_rows, float* rows) {
  const std::size_t row_floats = round_up(source.dim, kMaxVector);
  const auto stride_bytes = source.stride * static_cast<std::int64_t>(size_of(source.type));
  for (std::size_t r = 0; r < num_rows; ++r) {
    float* row = rows + r * row_floats;
    const std::size_t count = r < source.count ? source.dim : 0;
    if (count > 0) LoadRow(source.data + static_cast<std::int64_t>(r) * stride_bytes, source.type, count, row);
    std::memset(row + count, 0, (row_floats - count) * sizeof(float));
  }
}

/// Four rows at a time become a panel [dim][4]. A panel's last store runs into the next one, which is written later.
HWY_INLINE void InterleaveRows(const float* rows, std::size_t num_rows, std::size_t dim, float factor, float* panels) {
  const FloatTag d;
  const Floats scale = hn::Set(d, factor);
  const std::size_t row_floats = round_up(dim, kMaxVector);
  for (std::size_t r = 0; r < num_rows; r += kPanel) {
    const float* row = rows + r * row_floats;
    for (std::size_t i = 0; i < dim; i += kLanes) {
      const Floats a = hn::Mul(hn::Load(d, row + i), scale);
      const Floats b = hn::Mul(hn::Load(d, row + row_floats + i), scale);
      const Floats c = hn::Mul(hn::Load(d, row + 2 * row_floats + i), scale);
      const Floats e = hn::Mul(hn::Load(d, row + 3 * row_floats + i), scale);
      StoreFour(a, b, c, e, panels + r * dim + i * kPanel);
    }
  }
}

inline void PackKeys(const RowSource& source, float* rows, float* panels) {
  const std::size_t num_rows = round_up(source.count, kRowStep);
  LoadRows(source, num_rows, rows);
  InterleaveRows(rows, num_rows, source.dim, 1.0f, panels);
}

/// Rows of float32 become panels of their columns (row: dim, depth: the row).
HWY_INLINE void RowsToColumnPanels(const float* rows, std::size_t num_rows, std::size_t dim, float* panels) {
  const std::size_t row_floats = round_up(dim, kMaxVector);
  const std::size_t out_rows = round_up(dim, kRowStep);
  for (std::size_t row = 0; row < num_rows; ++row) {
    for (std::size_t i = 0; i < out_rows; i += kPanel) {
      CopyFour(rows + row * row_floats + i, panels + i * kKeyTile + row * kPanel);
    }
  }
}

/// Panels of kQueryTile rows become lane rows.
HWY_INLINE void PanelsToLanes(const float* panels, std::size_t dim, float* lanes) {
  for (std::size_t group = 0; group < kLaneGroups; ++group) {
    for (std::size_t i = 0; i < dim; ++i) {
      const float* from = panels + group * kLaneGroup * dim + i * kPanel;
      float* to = lanes + (group * dim + i) * kLaneGroup;
      for (std::size_t lane = 0; lane < kLaneGroup; lane += kPanel) CopyFour(from + lane * dim, to + lane);
    }
  }
}

inline void PackValues(const RowSource& source, float* rows, float* panels) {
  LoadRows(source, source.count, rows);
  RowsToColumnPanels(rows, source.count, source.dim, panels);
}

inline void PackQueries(const RowSource& source, float factor, float* rows, float* panels, float* lanes) {
  LoadRows(source, kQueryTile, rows);
  InterleaveRows(rows, kQueryTile, source.dim, factor, panels);
  PanelsToLanes(panels, source.dim, lanes);
}

inline void LanesToRows(const float* out, const float* divisor, std::size_t out_rows, float* rows) {
  const FloatTag d;
  HWY_ALIGN float panel[kLanes * kPanel];
  for (std::size_t lane = 0; lane < kQueryTile; lane += kLanes) {
    const Floats by = hn::Load(d, divisor + lane);
    const float* from = out + (lane / kLaneGroup) * out_rows * kLaneGroup + lane % kLaneGroup;
    for (std::size_t row = 0; row < out_rows; row += kPanel) {
      const Floats a = hn::Div(hn::Load(d, from + row * kLaneGroup), by);
      const Floats b = hn::Div(hn::Load(d, from + (row + 1) * kLaneGroup), by);
      const Floats c = hn::Div(hn::Load(d, from + (row + 2) * kLaneGroup), by);
      const Floats e = hn::Div(hn::Load(d, from + (row + 3) * kLaneGroup), by);
      StoreFour(a, b, c, e, panel);
      for (std::size_t i = 0; i < kLanes; ++i) CopyFour(panel + i * kPanel, rows + (lane + i) * out_rows + row);
    }
  }
}

/// Rounded to nearest, ties to even; NaN stays NaN.
HWY_INLINE auto RoundToBfloat16(Floats x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> d32;
  const hn::RebindToUnsigned<FloatTag> du32;
  const hn::Rebind<std::uint16_t, FloatTag> d16;
  const auto bits = hn::BitCast(du32, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du32, 1));
  const auto rounded = hn::Add(hn::Add(bits, hn::Set(du32, 0x7fff)), odd);
  const auto quiet = hn::Or(bits, hn::Set(du32, 0x400000));
  const auto chosen = hn::IfThenElse(hn::IsNaN(x), hn::BitCast(d, quiet), hn::BitCast(d, rounded));
  return hn::DemoteTo(d16, hn::BitCast(d32, hn::ShiftRight<16>(hn::BitCast(du32, chosen))));
}

inline void StoreRow(const float* row, ElementType type, void* to, std::size_t count) {
  const FloatTag d;
  std::size_t i = 0;
  if (type == ElementType::kBfloat16) {
    const hn::Rebind<std::uint16_t, FloatTag> d16;
    auto* bits = static_cast<std::uint16_t*>(to);
    for (; i + kLanes <= count; i += kLanes) hn::StoreU(RoundToBfloat16(hn::LoadU(d, row + i)), d16, bits + i);
  }
#if RINGSCAN_HAVE_FLOAT16_VECTORS
  if (type == ElementType::kFloat16) {
    const hn::Rebind<hwy::float16_t, FloatTag> d16;
    auto* halves = static_cast<hwy::float16_t*>(to);
    for (; i + kLanes <= count; i += kLanes) hn::StoreU(hn::DemoteTo(d16, hn::LoadU(d, row + i)), d16, halves + i);
  }
#endif
  if (i < count) {
    convert_elements(row + i, ElementType::kFloat32, static_cast<std::byte*>(to) + i * size_of(type), type, count - i);
  }
}

}  // namespace ringscan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#undef RINGSCAN_HAVE_FLOAT16_VECTORS
#endif
