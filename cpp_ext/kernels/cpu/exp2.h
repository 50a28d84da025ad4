// 2^f for f in [-1/2, 1/2]: 1 + f (c1 + f (c2 + ...)), the polynomial of degree 6 with the least
// relative error (3.9e-9, by Remez's algorithm in double precision). Evaluated in float32 with fused
// multiply-adds its relative error is at most 7.6e-8.
#ifndef MMEDGE_KERNELS_CPU_EXP2_H_
#define MMEDGE_KERNELS_CPU_EXP2_H_

namespace mmedge::cpu {
namespace {

constexpr float kExp2[6] = {0.6931472253950105f,  0.2402265108411688f,    0.0555029731420016f,
                            0.009618030782545351f, 0.0013410000965865712f, 0.00015469731968423693f};

template <class V>
inline typename V::F exp2_fraction(typename V::F f) {
  typename V::F p = V::all(kExp2[5]);
#pragma GCC unroll 5
  for (int i = 4; i >= 0; --i) p = V::fma(p, f, V::all(kExp2[i]));
  return V::fma(p, f, V::all(1.0f));
}

}  // namespace
}  // namespace mmedge::cpu

#endif  // MMEDGE_KERNELS_CPU_EXP2_H_
