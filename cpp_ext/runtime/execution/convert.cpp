// Elements of any type as float64.
#include "execution/convert.h"

#include <cstdint>
#include <cstring>

#include "execution/float16.h"

namespace mmedge::runtime {
namespace {

// The elements may lie at any address, as in a file.
template <typename T>
void widen(const void* elements, size_t count, double* out) noexcept {
  const auto* bytes = static_cast<const uint8_t*>(elements);
  for (size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, bytes + i * sizeof value, sizeof value);
    out[i] = static_cast<double>(value);
  }
}

}  // namespace

void to_float64(DType dtype, const void* elements, size_t count, double* out) noexcept {
  switch (dtype) {
    case DType::kBool:
      for (size_t i = 0; i < count; ++i) {
        out[i] = static_cast<const uint8_t*>(elements)[i] ? 1.0 : 0.0;
      }
      return;
    case DType::kFloat16:
      for (size_t i = 0; i < count; ++i) {
        uint16_t half;
        std::memcpy(&half, static_cast<const uint8_t*>(elements) + 2 * i, sizeof half);
        out[i] = half_to_float(half);
      }
      return;
    case DType::kFloat32: return widen<float>(elements, count, out);
    case DType::kFloat64: return widen<double>(elements, count, out);
    case DType::kInt8: return widen<int8_t>(elements, count, out);
    case DType::kInt16: return widen<int16_t>(elements, count, out);
    case DType::kInt32: return widen<int32_t>(elements, count, out);
    case DType::kInt64: return widen<int64_t>(elements, count, out);
    case DType::kUint8: return widen<uint8_t>(elements, count, out);
    case DType::kUint16: return widen<uint16_t>(elements, count, out);
    case DType::kUint32: return widen<uint32_t>(elements, count, out);
    case DType::kUint64: return widen<uint64_t>(elements, count, out);
  }
}

}  // namespace mmedge::runtime
