// For any processor: vectors of four floats as the compiler makes them.
#include "attend.h"
#include "exp2.h"

namespace mmedge::cpu {
namespace {

struct Portable {
  typedef float F __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
  static constexpr int kWidth = 4;
  static constexpr int kQueries = 4;
  // See isa_avx512.cpp. With 4 lanes the count of multiplications decides: not measured.
  static constexpr int most_dots(int) { return 3; }
  template <int N>
  static constexpr int kKeys = N > 2 ? 2 : 4;
  static constexpr int kColumns = 2;
  template <int N>
  static constexpr int kRows = 4;

  static F zero() { return F{}; }
  static F all(float x) { return F{x, x, x, x}; }
  static F load(const float* p) {
    F a;
    __builtin_memcpy(&a, p, sizeof a);
    return a;
  }
  static F load_part(const float* p, int n) {
    F a{};
    for (int i = 0; i < n; ++i) a[i] = p[i];
    return a;
  }
  static void store(float* p, F a) { __builtin_memcpy(p, &a, sizeof a); }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F fma(F a, F b, F c) { return a * b + c; }
  // b where either is NaN.
  static F max(F a, F b) { return choose(a > b, a, b); }
  static F choose(I mask, F a, F b) {
    return reinterpret_cast<F>((reinterpret_cast<I>(a) & mask) |
                               (reinterpret_cast<I>(b) & ~mask));
  }
  static F zero_where_minus_inf(F a) { return choose(a == all(-kInf), zero(), a); }
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
    const I low = x < all(-126.0f);
    const F y = choose(low, zero(), x);
    // The nearest integer, for what is far below 2^22.
    const F magic = all(12582912.0f);
    const F n = (y + magic) - magic;
    const F p = exp2_fraction<Portable>(y - n);
    const I power = (__builtin_convertvector(n, I) + 127) << 23;
    return choose(low, zero(), p * reinterpret_cast<F>(power));
  }
  // Elements [d, d + 4) of 4 rows, times `factor`, to 4 rows of `out` that are `step` apart.
  static void transpose(const float* const* rows, int d, float factor, float* out, int step) {
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) out[j * step + i] = factor * rows[i][d + j];
    }
  }
  static float highest(F a) {
    float best = a[0];
    for (int i = 1; i < 4; ++i) best = a[i] > best ? a[i] : best;
    return best;
  }
  static float total(F a) { return (a[0] + a[1]) + (a[2] + a[3]); }
  static float first(F a) { return a[0]; }
  static void store_sums(float* p, const F (&a)[4]) {
    for (int i = 0; i < 4; ++i) p[i] = total(a[i]);
  }
};

bool usable() { return true; }

}  // namespace

const Isa kPortable = {"portable", usable, 16, Attend<Portable>::run};

}  // namespace mmedge::cpu
