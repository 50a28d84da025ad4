// An element is not finite where all bits of its exponent are set; NaN has a fraction beside them.
#include "execution/finite.h"

#include <algorithm>
#include <cstring>

namespace mmedge::runtime {
namespace {

// Vectors between two looks at what was found.
constexpr size_t kBlock = 256;

template <class Bits>
struct Format;
template <>
struct Format<uint16_t> {
  static constexpr uint16_t kExponent = 0x7c00;
  static constexpr uint16_t kMagnitude = 0x7fff;
};
template <>
struct Format<uint32_t> {
  static constexpr uint32_t kExponent = 0x7f800000;
  static constexpr uint32_t kMagnitude = 0x7fffffff;
};
template <>
struct Format<uint64_t> {
  static constexpr uint64_t kExponent = 0x7ff0000000000000;
  static constexpr uint64_t kMagnitude = 0x7fffffffffffffff;
};

template <class T>
T load(const uint8_t* at) noexcept {
  T bits;
  std::memcpy(&bits, at, sizeof bits);  // a caller's memory may be unaligned
  return bits;
}

template <class Bits>
bool is_finite_as(const TensorView& view) noexcept {
  // In the processor's vectors: no compiler makes them of a loop at the level that the library is
  // built with.
  typedef Bits Vector __attribute__((vector_size(16)));
  constexpr Bits kExponent = Format<Bits>::kExponent;
  const auto* at = static_cast<const uint8_t*>(view.data);
  const auto* const end = at + static_cast<size_t>(view.elements()) * sizeof(Bits);
  while (static_cast<size_t>(end - at) >= sizeof(Vector)) {
    const size_t vectors = std::min(kBlock, static_cast<size_t>(end - at) / sizeof(Vector));
    auto found = Vector{} != Vector{};
    for (size_t i = 0; i < vectors; ++i, at += sizeof(Vector)) {
      found |= (load<Vector>(at) & kExponent) == kExponent;
    }
    for (size_t lane = 0; lane < sizeof(Vector) / sizeof(Bits); ++lane) {
      if (found[lane] != 0) return false;
    }
  }
  for (; at != end; at += sizeof(Bits)) {
    if ((load<Bits>(at) & kExponent) == kExponent) return false;
  }
  return true;
}

template <class Bits>
NonFinite find_as(const TensorView& view) noexcept {
  const auto* at = static_cast<const uint8_t*>(view.data);
  NonFinite found;
  for (int64_t i = 0; i < view.elements(); ++i) {
    const Bits magnitude =
        load<Bits>(at + static_cast<size_t>(i) * sizeof(Bits)) & Format<Bits>::kMagnitude;
    found.nan = found.nan || magnitude > Format<Bits>::kExponent;
    found.infinity = found.infinity || magnitude == Format<Bits>::kExponent;
  }
  return found;
}

}  // namespace

bool is_finite(const TensorView& view) noexcept {
  switch (view.dtype) {
    case DType::kFloat16: return is_finite_as<uint16_t>(view);
    case DType::kFloat32: return is_finite_as<uint32_t>(view);
    case DType::kFloat64: return is_finite_as<uint64_t>(view);
    default: return true;
  }
}

NonFinite find_non_finite(const TensorView& view) noexcept {
  switch (view.dtype) {
    case DType::kFloat16: return find_as<uint16_t>(view);
    case DType::kFloat32: return find_as<uint32_t>(view);
    case DType::kFloat64: return find_as<uint64_t>(view);
    default: return {};
  }
}

}  // namespace mmedge::runtime
