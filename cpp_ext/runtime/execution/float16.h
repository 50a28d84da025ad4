// Numbers of 16 bits (IEEE 754 binary16) to and from float and double, rounded to nearest even.
//
// Integer arithmetic and normal floats alone, so that it is the same on every machine, with
// subnormal floats flushed to zero or not.
#ifndef MMEDGE_RUNTIME_EXECUTION_FLOAT16_H_
#define MMEDGE_RUNTIME_EXECUTION_FLOAT16_H_

#include <cstdint>
#include <cstring>

namespace mmedge::runtime {

inline float half_to_float(uint16_t half) noexcept {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1Fu;
  const uint32_t fraction = half & 0x3FFu;
  float value;
  uint32_t bits;
  if (exponent == 0) {  // zero and subnormals: whole multiples of 2^-24
    value = static_cast<float>(fraction) * 0x1p-24f;
    std::memcpy(&bits, &value, sizeof bits);
    bits |= sign;
  } else {
    const uint32_t wide = exponent == 0x1F ? 0xFFu : exponent + 112;
    bits = sign | wide << 23 | fraction << 13;
  }
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint16_t double_to_half(double value) noexcept {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>(bits >> 48 & 0x8000u);
  const int exponent = static_cast<int>(bits >> 52 & 0x7FF) - 1023;
  const uint64_t fraction = bits & 0xFFFFFFFFFFFFFull;
  if (exponent == 1024) {  // NaN keeps what fits of its payload, and stays NaN
    const uint16_t payload = static_cast<uint16_t>(fraction >> 42);
    return static_cast<uint16_t>(sign | 0x7C00u | (fraction != 0 && payload == 0 ? 1u : payload));
  }
  if (exponent > 15) return static_cast<uint16_t>(sign | 0x7C00u);
  if (exponent < -25) return sign;  // below half of the smallest
  // 53 digits, of which 11 stay, or fewer of a subnormal.
  const uint64_t digits = fraction | 1ull << 52;
  const int drop = exponent >= -14 ? 42 : 28 - exponent;
  const uint64_t half = 1ull << (drop - 1);
  uint64_t rounded = digits >> drop;
  const uint64_t rest = digits & ((half << 1) - 1);
  if (rest > half || (rest == half && (rounded & 1))) ++rounded;
  // A carry out of the digits raises the exponent, up to infinity, as it should.
  const uint64_t base = exponent >= -14 ? static_cast<uint64_t>(exponent + 14) << 10 : 0;
  return static_cast<uint16_t>(sign | (base + rounded));
}

// Every float is a double, so one rounding does.
inline uint16_t float_to_half(float value) noexcept { return double_to_half(value); }

// The step from a magnitude to the next larger one; 32 at the largest, beyond which there is none.
inline double half_spacing(uint16_t half) noexcept {
  const int exponent = half >> 10 & 0x1F;
  const uint64_t power = static_cast<uint64_t>((exponent > 1 ? exponent : 1) - 25 + 1023) << 52;
  double spacing;
  std::memcpy(&spacing, &power, sizeof spacing);
  return spacing;
}

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_FLOAT16_H_
