// Compiled for AArch64, where NEON is always there.
#include <arm_neon.h>

#include "attend.h"
#include "exp2.h"

namespace mmedge::cpu {
namespace {

struct Neon {
  using F = float32x4_t;
  static constexpr int kWidth = 4;
  static constexpr int kQueries = 4;
  // See isa_avx512.cpp. With 4 lanes the count of multiplications decides: not measured.
  static constexpr int most_dots(int) { return 3; }
  template <int N>
  static constexpr int kKeys = N > 2 ? 4 : 8;
  static constexpr int kColumns = 4;
  template <int N>
  static constexpr int kRows = N == 4 ? 4 : 8;

  static F zero() { return vdupq_n_f32(0.0f); }
  static F all(float x) { return vdupq_n_f32(x); }
  static F load(const float* p) { return vld1q_f32(p); }
  static F load_part(const float* p, int n) {
    float padded[4] = {};
    for (int i = 0; i < n; ++i) padded[i] = p[i];
    return vld1q_f32(padded);
  }
  static void store(float* p, F a) { vst1q_f32(p, a); }
  static F add(F a, F b) { return vaddq_f32(a, b); }
  static F sub(F a, F b) { return vsubq_f32(a, b); }
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  // The other where one is NaN.
  static F max(F a, F b) { return vmaxnmq_f32(a, b); }
  static F zero_where_minus_inf(F a) { return vbslq_f32(vceqq_f32(a, all(-kInf)), zero(), a); }
  // Which of 64 bytes are not 0, and which of 4 floats are minus infinity.
  static uint64_t mask_of(const uint8_t* p) {
    uint64_t mask = 0;
    for (int i = 0; i < 64; ++i) mask |= static_cast<uint64_t>(p[i] != 0) << i;
    return mask;
  }
  static uint32_t lost_of(F a) {
    uint32_t mask = 0;
    for (int i = 0; i < 4; ++i) mask |= static_cast<uint32_t>(a[i] == -kInf) << i;
    return mask;
  }
  static F exp2(F x) {
    // Below -126 the result is set to 0: it would be denormal, and its exponent has no room.
    const uint32x4_t low = vcltq_f32(x, all(-126.0f));
    const F y = vbslq_f32(low, zero(), x);
    const F n = vrndnq_f32(y);
    const F p = exp2_fraction<Neon>(vsubq_f32(y, n));
    const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    return vbslq_f32(low, zero(), vmulq_f32(p, vreinterpretq_f32_s32(power)));
  }
  // Elements [d, d + 4) of 4 rows, times `factor`, to 4 rows of `out` that are `step` apart.
  static void transpose(const float* const* rows, int d, float factor, float* out, int step) {
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) out[j * step + i] = factor * rows[i][d + j];
    }
  }
  static float highest(F a) { return vmaxnmvq_f32(a); }
  static float total(F a) { return vaddvq_f32(a); }
  static float first(F a) { return vgetq_lane_f32(a, 0); }
  static void store_sums(float* p, const F (&a)[4]) {
    vst1q_f32(p, vpaddq_f32(vpaddq_f32(a[0], a[1]), vpaddq_f32(a[2], a[3])));
  }
};

bool usable() { return true; }

}  // namespace

const Isa kNeon = {"neon", usable, 16, Attend<Neon>::run};

}  // namespace mmedge::cpu
