// Which elements of a reference are fill values, such as the -1e9 of a mask.
#include "execution/fill_values.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace mmedge::runtime {
namespace {

// A fill value is this many times larger than all that is none; kFar where its value alone does not
// give it away, and it is the same in both tensors bit for bit.
constexpr double kOutlying = 10.0;
constexpr double kFar = 1e3;
// Smallest fill value with one or two digits (-50, -100, 255), and smallest power of ten that has
// been added to a value: -1e4 + 3.2 fills as well.
constexpr double kRound = 50.0;
constexpr double kPower = 1e3;
constexpr double kInfinite = std::numeric_limits<double>::infinity();
// Largest numbers of float16, bfloat16, float32 and float64, which masks are filled with.
constexpr double kExtremes[] = {65504.0, 3.3895313892515355e38, 3.4028234663852886e38,
                                1.7976931348623157e308};

// Whether a magnitude is a power of ten or an extreme, and whether it looks like a fill value.
struct Look {
  bool is_exact = false;
  bool is_alike = false;
};

Look look_at(double size) {
  Look look;
  if (!(size >= kRound)) return look;
  for (const double extreme : kExtremes) look.is_exact |= size == extreme;
  const double digits = std::log10(size);
  const double unit = std::pow(10.0, std::floor(digits) - 1.0);
  const double two_digits = std::nearbyint(size / unit) * unit;
  // As far as float32 holds such a number.
  const bool is_plain = std::fabs(size - two_digits) <= 0x1p-23 * size;
  const double power = std::pow(10.0, std::nearbyint(digits));
  const bool is_near = power >= kPower && std::fabs(size - power) <= 0.01 * power;
  look.is_exact |= is_near && is_plain;
  look.is_alike = look.is_exact || is_near || is_plain;
  return look;
}

}  // namespace

bool find_fill_values(const std::vector<double>& sizes, const std::vector<uint8_t>& is_equal,
                      std::vector<uint8_t>* is_fill) {
  const size_t count = sizes.size();
  double largest = 0.0, others = 0.0;
  for (size_t i = 0; i < count; ++i) {
    largest = std::max(largest, sizes[i]);
    if (!is_equal[i]) others = std::max(others, sizes[i]);
  }
  if (largest < kRound) return false;
  // Anything else than the look of the largest is settled.
  if ((others * kFar > largest || others == 0.0) && !look_at(largest).is_alike) return false;
  std::vector<double> factors(count);
  is_fill->assign(count, 0);
  double rest = 0.0;
  for (size_t i = 0; i < count; ++i) {
    const Look look = look_at(sizes[i]);
    factors[i] = look.is_alike ? kOutlying : is_equal[i] && sizes[i] != 0.0 ? kFar : kInfinite;
    (*is_fill)[i] = look.is_exact;
    if (factors[i] == kInfinite) rest = std::max(rest, sizes[i]);
  }
  // What is near to what surely is no fill value is none either, and so on. Two rounds raise `rest`
  // ten times at least, so there are few.
  while (true) {
    bool is_any = false;
    others = 0.0;
    for (size_t i = 0; i < count; ++i) {
      // Beside nothing but zeros only a value of its own look is known to outlie.
      if (rest != 0.0) {
        (*is_fill)[i] = factors[i] != kInfinite && sizes[i] >= factors[i] * rest;
      }
      is_any |= (*is_fill)[i] != 0;
      if (!(*is_fill)[i]) others = std::max(others, sizes[i]);
    }
    if (others <= rest) return is_any;
    rest = others;
  }
}

}  // namespace mmedge::runtime
