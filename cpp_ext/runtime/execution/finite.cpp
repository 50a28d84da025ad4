// An element is not finite where all bits of its exponent are set; NaN has a fraction beside them.
#include "execution/finite.h"

#include <cstring>

namespace mmedge::runtime {
namespace {

// Elements between two looks at what was found: the loop within has no branch and is vectorized.
constexpr int64_t kBlock = 1024;

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

template <class Bits>
Bits load(const uint8_t* at) noexcept {
  Bits bits;
  std::memcpy(&bits, at, sizeof bits);  // a caller's memory may be unaligned
  return bits;
}

template <class Bits>
bool is_finite_as(const TensorView& view) noexcept {
  const auto* at = static_cast<const uint8_t*>(view.data);
  const int64_t count = view.elements();
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    Bits largest = 0;
    for (int64_t i = begin; i < end; ++i) {
      const Bits exponent = load<Bits>(at + static_cast<size_t>(i) * sizeof(Bits)) &
                            Format<Bits>::kExponent;
      largest = exponent > largest ? exponent : largest;
    }
    if (largest == Format<Bits>::kExponent) return false;
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
