// Compiled for AVX2 and FMA (Haswell and later, Zen and later).
#include <immintrin.h>

#include "attend.h"
#include "exp2.h"

namespace mmedge::cpu {
namespace {

struct Avx2 {
  using F = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kQueries = 2;
  // See isa_avx512.cpp; here alike at 6 rows of 32, 7 of 64 and more than 8 of 128 elements.
  static constexpr int most_dots(int dim) { return 5 + dim / 32; }
  template <int N>
  static constexpr int kKeys = 6;
  static constexpr int kColumns = 2;
  template <int N>
  static constexpr int kRows = N == 2 ? 4 : 8;

  static F zero() { return _mm256_setzero_ps(); }
  static F all(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load_part(const float* p, int n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
  }
  static void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  // b where either is NaN.
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F zero_where_minus_inf(F a) {
    return _mm256_and_ps(a, _mm256_cmp_ps(a, all(-kInf), _CMP_NEQ_UQ));
  }
  // Which of 64 bytes are not 0, and which of 8 floats are minus infinity.
  static uint64_t mask_of(const uint8_t* p) {
    uint64_t zeros = 0;
    for (int i = 0; i < 2; ++i) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * i));
      const __m256i equal = _mm256_cmpeq_epi8(bytes, _mm256_setzero_si256());
      zeros |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(equal))) << 32 * i;
    }
    return ~zeros;
  }
  static uint32_t lost_of(F a) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, all(-kInf), _CMP_EQ_OQ)));
  }
  static F exp2(F x) {
    // Below -126 the result is set to 0: it would be denormal, and its exponent has no room.
    const F low = _mm256_cmp_ps(x, all(-126.0f), _CMP_LT_OQ);
    const F y = _mm256_blendv_ps(x, zero(), low);
    const F n = _mm256_round_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const F p = exp2_fraction<Avx2>(_mm256_sub_ps(y, n));
    const __m256i power = _mm256_slli_epi32(
        _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_andnot_ps(low, _mm256_mul_ps(p, _mm256_castsi256_ps(power)));
  }
  // Elements [d, d + 8) of 8 rows, times `factor`, to 8 rows of `out` that are `step` apart.
  static void transpose(const float* const* rows, int d, float factor, float* out, int step) {
    F a[8], b[8];
    const F by = all(factor);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) a[i] = _mm256_mul_ps(load(rows[i] + d), by);
    // Pairs of rows, then of pairs, inside each half of a vector, and then the halves.
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
      a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
      a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
      a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      store(out + c * step, _mm256_permute2f128_ps(a[c], a[4 + c], 0x20));
      store(out + (4 + c) * step, _mm256_permute2f128_ps(a[c], a[4 + c], 0x31));
    }
  }
  static float highest(F a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  static float total(F a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static float first(F a) { return _mm256_cvtss_f32(a); }
  static void store_sums(float* p, const F (&a)[4]) {
    const F sums = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
  }
};

bool usable() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

const Isa kAvx2 = {"avx2", usable, 16, Attend<Avx2>::run};

}  // namespace mmedge::cpu
