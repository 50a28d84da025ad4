// The online softmax of one warp: 16 rows against tiles of keys, in fragments.
//
// A lane has elements of rows g and g + 8 (g = lane / 4), called its halves: o[j][2 * half + e] is
// element 8 * j + 2 * (lane % 4) + e. Exponents have base 2; log2 e is part of the scale.
#ifndef MMEDGE_KERNELS_CUDA_SOFTMAX_CUH_
#define MMEDGE_KERNELS_CUDA_SOFTMAX_CUH_

#include "layout.cuh"
#include "nonfinite.cuh"
#include "work_tile.cuh"

namespace mmedge::cuda {

// By how much scores times log2 e may exceed what weights are relative to: weights are up to 2^8,
// far below what 16 bits hold, and as exact as any. It saves most of the moving from one maximum to
// the next (the same rule as in FlashAttention-4).
constexpr float kSlack = 8.0f;

template <class T, int Width, int Keys>
struct Softmax {
  static constexpr int kTiles = Keys / 8;

  float o[Width / 8][4];  // not divided by l yet
  float m[2];             // what weights are relative to, of each half: the maximum of scores times
                          // log2 e of earlier tiles, which later ones exceed by kSlack at most
  float l[2];             // sum of weights; each lane of a row has a part of it until total()

  __device__ __forceinline__ void reset() {
#pragma unroll
    for (int j = 0; j < Width / 8; ++j) o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.0f;
    m[0] = m[1] = -kInfinity;
    l[0] = l[1] = 0.0f;
  }

  // s = q . k
  __device__ __forceinline__ static void multiply_keys(float (&s)[kTiles][4],
                                                       const uint32_t (&q)[Width / 16][4],
                                                       uint32_t keys, int first, int lane) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
    const KeyFragments<Width> fragments(keys, first, lane);
#pragma unroll
    for (int step = 0; step < Width / 16; ++step) {
#pragma unroll
      for (int j = 0; j < kTiles; j += 2) {
        uint32_t k[4];
        fragments.load(k, 8 * j, step);
        multiply_add<T>(s[j], q[step], k[0], k[1]);
        multiply_add<T>(s[j + 1], q[step], k[2], k[3]);
      }
    }
  }

  // Scores s * scale + shift become weights relative to m, which is moved with o and l where maxima
  // have grown by more than kSlack.
  // NaN is passed over by the maximum and makes its row NaN through its weight.
  __device__ __forceinline__ void weigh(float (&s)[kTiles][4], float scale,
                                        const float (&shift)[2]) {
    float tops[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = -kInfinity;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        top = fmaxf(top, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
      }
      top = fmaxf(top, from_lane_xor(top, 1));
      top = fmaxf(top, from_lane_xor(top, 2));
      tops[half] = fmaxf(m[half], fmaf(top, scale, shift[half]));
    }
    // After the first tiles maxima seldom grow, and mostly by little: weights stay where they are
    // until they might be large.
    if (any_lane(tops[0] > m[0] + kSlack || tops[1] > m[1] + kSlack)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float moved = exp2_fast(m[half] - base_of(tops[half]));
        m[half] = tops[half];
        l[half] *= moved;
#pragma unroll
        for (int j = 0; j < Width / 8; ++j) {
          o[j][2 * half] *= moved;
          o[j][2 * half + 1] *= moved;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float base = base_of(m[half]);
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& weight = s[j][2 * half + e];
          weight = exp2_fast(fmaf(weight, scale, shift[half] - base));
          sum += weight;
        }
      }
      l[half] += sum;
    }
  }

  // o += weights . values. With `Guarded`, values that are not finite do not reach rows whose
  // weight of them is 0.
  template <bool Guarded>
  __device__ __forceinline__ void multiply_values(const float (&s)[kTiles][4], uint32_t values,
                                                  int first, int lane) {
    const ValueFragments<Width> fragments(values, first, lane);
    uint32_t nonfinite = 0;
#pragma unroll
    for (int j = 0; j < kTiles; j += 2) {
      const uint32_t p[4] = {pack<T>(s[j][0], s[j][1]), pack<T>(s[j][2], s[j][3]),
                             pack<T>(s[j + 1][0], s[j + 1][1]), pack<T>(s[j + 1][2], s[j + 1][3])};
#pragma unroll
      for (int step = 0; step < Width / 16; ++step) {
        uint32_t v[4];
        fragments.load(v, 8 * j, step);
        if (Guarded) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const uint32_t signs = nonfinite_signs<T>(v[i]);
            nonfinite |= signs;
            v[i] = without_nonfinite(v[i], signs);
          }
        }
        multiply_add<T>(o[2 * step], p, v[0], v[1]);
        multiply_add<T>(o[2 * step + 1], p, v[2], v[3]);
      }
    }
    if (Guarded && any_lane(nonfinite != 0)) add_nonfinite(s, fragments);
  }

  // Sums of rows over their four lanes.
  __device__ __forceinline__ void total() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      l[half] += from_lane_xor(l[half], 1);
      l[half] += from_lane_xor(l[half], 2);
    }
  }

 private:
  __device__ __forceinline__ static float one_if(float weight) {
    return weight != 0.0f ? 1.0f : 0.0f;
  }

  // Rolled: this is rare, and would be a large part of the kernel's code.
  __device__ __forceinline__ void add_nonfinite(const float (&s)[kTiles][4],
                                          const ValueFragments<Width>& fragments) {
#pragma unroll 1
    for (int step = 0; step < Width / 16; ++step) {
      float low[4] = {}, high[4] = {};
#pragma unroll
      for (int j = 0; j < kTiles; j += 2) {
        const float(&a)[4] = s[j];
        const float(&b)[4] = s[j + 1];
        const uint32_t p[4] = {
            pack<T>(one_if(a[0]), one_if(a[1])), pack<T>(one_if(a[2]), one_if(a[3])),
            pack<T>(one_if(b[0]), one_if(b[1])), pack<T>(one_if(b[2]), one_if(b[3]))};
        uint32_t v[4];
        fragments.load(v, 8 * j, step);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = nonfinite_codes<T>(v[i]);
        multiply_add<T>(low, p, v[0], v[1]);
        multiply_add<T>(high, p, v[2], v[3]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        low[i] = nonfinite_sum(low[i]);
        high[i] = nonfinite_sum(high[i]);
      }
      // Registers cannot be chosen by a number that is not known at compile time.
#pragma unroll
      for (int other = 0; other < Width / 16; ++other) {
        if (other == step) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            o[2 * other][i] += low[i];
            o[2 * other + 1][i] += high[i];
          }
        }
      }
    }
  }
};

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_SOFTMAX_CUH_
