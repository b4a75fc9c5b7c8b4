#include "kernels/cuda/tensor_map.hpp"

#include <array>
#include <string>

#include "kernels/cuda/check.hpp"

namespace ringscan::cuda {
namespace {

/// The driver's function, found through the runtime, so that nothing links with the driver.
using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

EncodeTiled encode_tiled() {
  static const EncodeTiled found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result));
    if (result != cudaDriverEntryPointSuccess) throw failure("CUDA: the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<EncodeTiled>(function);
  }();
  return found;
}

/// `strides`: bytes, of all dimensions but the first.
template <std::size_t kRank>
CUtensorMap encode(const AnyView& view, const std::array<cuuint64_t, kRank>& extents,
                   const std::array<cuuint64_t, kRank - 1>& strides, const std::array<cuuint32_t, kRank>& box) {
  std::array<cuuint32_t, kRank> steps;
  steps.fill(1);
  const auto type =
      view.type == ElementType::kBfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  CUtensorMap map;
  const CUresult result =
      encode_tiled()(&map, type, static_cast<cuuint32_t>(kRank), const_cast<std::byte*>(view.data), extents.data(),
                     strides.data(), box.data(), steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
                     CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw failure("CUDA: cuTensorMapEncodeTiled refused a view of [" + std::to_string(view.shape[0]) + ", " +
                  std::to_string(view.shape[1]) + ", " + std::to_string(view.shape[2]) + ", " +
                  std::to_string(view.shape[3]) + "], error " + std::to_string(static_cast<int>(result)));
  }
  return map;
}

cuuint64_t extent(const AnyView& view, std::size_t axis) {
  return static_cast<cuuint64_t>(view.shape[axis]);
}
/// Bytes from one index of the axis to the next; any valid value where there is only one.
cuuint64_t stride(const AnyView& view, std::size_t axis) {
  return view.shape[axis] > 1 ? 2 * static_cast<cuuint64_t>(view.strides[axis]) : 16;
}

}  // namespace

bool tma_readable(const AnyView& view) {
  if (size_of(view.type) != 2 || reinterpret_cast<std::uintptr_t>(view.data) % 16 != 0) return false;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const std::int64_t stride = view.strides[axis];
    if (view.shape[axis] > 1 && (stride < 0 || stride % 8 != 0)) return false;
  }
  return true;
}

CUtensorMap query_map(const AnyView& q, int rows) {
  return encode<4>(q, {extent(q, 3), extent(q, 1), extent(q, 2), extent(q, 0)},
                   {stride(q, 1), stride(q, 2), stride(q, 0)}, {64, static_cast<cuuint32_t>(rows), 1, 1});
}

CUtensorMap permuted_key_map(const AnyView& view, int keys) {
  const auto run = static_cast<cuuint64_t>(keys / 8);
  // The first key of a box ends where its last run still lies inside.
  return encode<5>(view, {extent(view, 3), 8, extent(view, 1) - 7 * run, extent(view, 2), extent(view, 0)},
                   {run * stride(view, 1), stride(view, 1), stride(view, 2), stride(view, 0)},
                   {64, 8, static_cast<cuuint32_t>(run), 1, 1});
}

}  // namespace ringscan::cuda
