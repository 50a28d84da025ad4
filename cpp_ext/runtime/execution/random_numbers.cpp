// Random numbers that are the same on every machine, for sampled tokens and first noise.
#include "execution/random_numbers.h"

#include <cmath>

namespace mmedge::runtime {
namespace {

// 2^64 divided by the golden ratio, odd: the step of SplitMix64.
constexpr uint64_t kStep = 0x9E3779B97F4A7C15u;
constexpr double kTwoPi = 6.283185307179586;

// The state mixed so that one bit changes all others.
constexpr uint64_t mix(uint64_t state) noexcept {
  state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9u;
  state = (state ^ state >> 27) * 0x94D049BB133111EBu;
  return state ^ state >> 31;
}

}  // namespace

RandomStream::RandomStream(uint64_t seed, uint64_t stream) noexcept
    : base_(mix(seed + (stream + 1) * kStep)) {}

double RandomStream::uniform(uint64_t index) const noexcept {
  return static_cast<double>(mix(base_ + (index + 1) * kStep) >> 11) * 0x1p-53;
}

void RandomStream::fill_normal(float* out, size_t count) const noexcept {
  for (size_t i = 0; i < count; i += 2) {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform(i)));
    const double angle = kTwoPi * uniform(i + 1);
    out[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < count) out[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

}  // namespace mmedge::runtime
