// 16-bit floats and back, rounding to nearest even as cvt.rn does.
#ifndef EMULATOR_FLOAT16_H_
#define EMULATOR_FLOAT16_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace mmedge::cuda {
struct Float16;
struct BFloat16;
}  // namespace mmedge::cuda

namespace emulator {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = bits >> 10 & 31u, fraction = bits & 0x3FFu;
  if (exponent == 31) return float_of(sign | 0x7F800000u | fraction << 13);
  if (exponent != 0) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
  const float small = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -small : small;
}

inline uint16_t float_to_half(float value) {
  const uint32_t bits = bits_of(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (std::isnan(value)) return 0x7FFF;
  const float size = std::fabs(value);
  if (size >= 65520.0f) return sign | 0x7C00;
  if (size < 0x1p-14f) {  // subnormal: the addition rounds to multiples of 2^-24
    return sign | static_cast<uint16_t>(bits_of(size + 0.5f) - bits_of(0.5f));
  }
  const uint32_t whole = bits & 0x7FFFFFFFu;
  const uint32_t rounded = whole + 0xFFFu + (whole >> 13 & 1u);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112u << 10));
}

template <class T>
float to_float(uint16_t bits);

template <>
inline float to_float<mmedge::cuda::Float16>(uint16_t bits) {
  static const std::vector<float> table = [] {
    std::vector<float> all(65536);
    for (uint32_t i = 0; i < 65536; ++i) all[i] = half_to_float(static_cast<uint16_t>(i));
    return all;
  }();
  static const float* const data = table.data();
  return data[bits];
}

template <>
inline float to_float<mmedge::cuda::BFloat16>(uint16_t bits) {
  return float_of(static_cast<uint32_t>(bits) << 16);
}

template <class T>
uint16_t from_float(float value);

template <>
inline uint16_t from_float<mmedge::cuda::Float16>(float value) {
  return float_to_half(value);
}

template <>
inline uint16_t from_float<mmedge::cuda::BFloat16>(float value) {
  if (std::isnan(value)) return 0x7FFF;
  const uint32_t bits = bits_of(value);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace emulator

#endif  // EMULATOR_FLOAT16_H_
