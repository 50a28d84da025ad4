// Compiled for AVX-512 F, DQ, BW and VL (Skylake-SP and later, Zen 4 and later).
#include <immintrin.h>

#include "attend.h"
#include "exp2.h"

namespace mmedge::cpu {
namespace {

struct Avx512 {
  using F = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kQueries = 2;
  // Rows up to which scores are cheaper as dot products: a lane costs `dim` multiplications for a
  // key however few of its 16 rows there are, a dot product dim / 16 and the sum of its elements.
  // Measured on Zen 4 with 3 to 16 rows, 64 and 512 keys: alike at 6 rows of 32, 10 of 64 and 14 of
  // 128 elements.
  static constexpr int most_dots(int dim) { return 4 + dim / 12; }
  template <int N>
  static constexpr int kKeys = 8;
  static constexpr int kColumns = 4;
  template <int N>
  static constexpr int kRows = N == 4 ? 4 : 8;

  static F zero() { return _mm512_setzero_ps(); }
  static F all(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load_part(const float* p, int n) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p);
  }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  // b where either is NaN.
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F zero_where_minus_inf(F a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, all(-kInf), _CMP_NEQ_UQ), a);
  }
  // Which of 64 bytes are not 0, and which of 16 floats are minus infinity.
  static uint64_t mask_of(const uint8_t* p) {
    const __m512i bytes = _mm512_loadu_si512(p);
    return _mm512_test_epi8_mask(bytes, bytes);
  }
  static uint32_t lost_of(F a) { return _mm512_cmp_ps_mask(a, all(-kInf), _CMP_EQ_OQ); }
  static F exp2(F x) {
    // Below -126 the result is 0: it would be denormal, and those are slow to multiply with.
    const __mmask16 low = _mm512_cmp_ps_mask(x, all(-126.0f), _CMP_LT_OQ);
    const F n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_maskz_scalef_ps(static_cast<__mmask16>(~low),
                                  exp2_fraction<Avx512>(_mm512_sub_ps(x, n)), n);
  }
  // Elements [d, d + 16) of 16 rows, times `factor`, to 16 rows of `out` that are `step` apart.
  static void transpose(const float* const* rows, int d, float factor, float* out, int step) {
    F a[16], b[16];
    const F by = all(factor);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = _mm512_mul_ps(load(rows[i] + d), by);
    // Pairs of rows, then of pairs, inside each quarter of a vector ...
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      a[i] = halves_of(b[i], b[i + 2], 0);
      a[i + 1] = halves_of(b[i], b[i + 2], 1);
      a[i + 2] = halves_of(b[i + 1], b[i + 3], 0);
      a[i + 3] = halves_of(b[i + 1], b[i + 3], 1);
    }
    // ... and then quarters: a[4 g + c] has rows 4 g to 4 g + 3 of elements c, 4 + c, 8 + c, 12 + c.
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const F low = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x44);
      const F high = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xee);
      const F low2 = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x44);
      const F high2 = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xee);
      store(out + c * step, _mm512_shuffle_f32x4(low, low2, 0x88));
      store(out + (4 + c) * step, _mm512_shuffle_f32x4(low, low2, 0xdd));
      store(out + (8 + c) * step, _mm512_shuffle_f32x4(high, high2, 0x88));
      store(out + (12 + c) * step, _mm512_shuffle_f32x4(high, high2, 0xdd));
    }
  }
  static F halves_of(F a, F b, int high) {
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(x, y) : _mm512_unpacklo_pd(x, y));
  }
  static float highest(F a) { return _mm512_reduce_max_ps(a); }
  static float total(F a) { return _mm512_reduce_add_ps(a); }
  static float first(F a) { return _mm512_cvtss_f32(a); }
  static __m256 halves(F a) {
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  }
  static void store_sums(float* p, const F (&a)[4]) {
    const __m256 low = _mm256_hadd_ps(halves(a[0]), halves(a[1]));
    const __m256 high = _mm256_hadd_ps(halves(a[2]), halves(a[3]));
    const __m256 sums = _mm256_hadd_ps(low, high);
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
  }
};

bool usable() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

}  // namespace

const Isa kAvx512 = {"avx512", usable, 32, Attend<Avx512>::run};

}  // namespace mmedge::cpu
