// Merges the states (maximum, sum, output) of a tile's parts in the launch that made them.
//
// Each block counts its arrival when its part is in the workspace. The last one, whichever it is,
// merges all parts in the order of their keys, so that results do not depend on which was last. The
// counter starts again by itself.
#ifndef MMEDGE_KERNELS_CUDA_MERGE_STATES_CUH_
#define MMEDGE_KERNELS_CUDA_MERGE_STATES_CUH_

#include "epilogue.cuh"

namespace mmedge::cuda {

// True in all threads of the block that comes last. `flag` is one int of shared memory.
__device__ __forceinline__ bool arrive_last(const Params& p, int tile, int* flag) {
  // One thread's fence covers what all have written before they met.
  sync_block();
  if (thread_index() == 0) {
    fence_device();
    const unsigned last = static_cast<unsigned>(p.splits - 1);
    *flag = count_arrival(p.counters + tile, last) == last;
    fence_device();
  }
  sync_block();
  return *flag != 0;
}

// Parts that a thread has on their way at once: it waits for the second-level cache once for all.
constexpr int kPartsAtOnce = 8;

template <class T, int Width, Role R>
__device__ void merge_states(const Params& p, const WorkTile& work_tile, int tile) {
  constexpr int kRows = Tiling<Width, R>::kRows;
  constexpr size_t kFloats = Tiling<Width, R>::kPartialFloats;
  const float* parts = partial_of(p, tile, 0, kFloats);

  for (int i = thread_index(); i < kRows * Width / 4; i += kThreads) {
    const int in_tile = i / (Width / 4);
    const int column = i % (Width / 4) * 4;
    if (in_tile >= work_tile.count || column >= p.call.dim) continue;
    float top = -kInfinity;
    float sum = 0.0f;
    float4 o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
    for (int first = 0; first < p.splits; first += kPartsAtOnce) {
      float m[kPartsAtOnce], l[kPartsAtOnce];
      float4 x[kPartsAtOnce];
#pragma unroll
      for (int s = 0; s < kPartsAtOnce; ++s) {
        m[s] = -kInfinity;
        l[s] = 0.0f;
        x[s] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (first + s < p.splits) {
          const float* part = parts + (first + s) * kFloats;
          m[s] = load_shared_by_blocks(part + kRows * Width + in_tile);
          l[s] = load_shared_by_blocks(part + kRows * Width + kRows + in_tile);
          x[s] = load_shared_by_blocks(
              reinterpret_cast<const float4*>(part + in_tile * Width + column));
        }
      }
      float higher = top;
#pragma unroll
      for (int s = 0; s < kPartsAtOnce; ++s) higher = fmaxf(higher, m[s]);
      const float base = base_of(higher);
      if (first > 0) {
        const float moved = exp2_fast(top - base);
        sum *= moved;
        o.x *= moved;
        o.y *= moved;
        o.z *= moved;
        o.w *= moved;
      }
      top = higher;
#pragma unroll
      for (int s = 0; s < kPartsAtOnce; ++s) {
        const float weight = exp2_fast(m[s] - base);
        sum = fmaf(weight, l[s], sum);
        o.x = fmaf(weight, x[s].x, o.x);
        o.y = fmaf(weight, x[s].y, o.y);
        o.z = fmaf(weight, x[s].z, o.z);
        o.w = fmaf(weight, x[s].w, o.w);
      }
    }
    const bool empty = sum == 0.0f;
    // Parts of INDEPENDENT segments are divided already: their sums tell only that there are any.
    const float factor = p.call.mode == MMEDGE_INDEPENDENT ? 1.0f : reciprocal(sum);
    const float filler = nothing(p);
    const Row row = row_of(p, work_tile, in_tile);
    uint2 packed;
    packed.x = empty ? pack<T>(filler, filler) : pack<T>(o.x * factor, o.y * factor);
    packed.y = empty ? pack<T>(filler, filler) : pack<T>(o.z * factor, o.w * factor);
    *reinterpret_cast<uint2*>(output_of(p, work_tile, row) + column) = packed;
    if (column == 0) write_lse(p, work_tile, row, top, sum);
  }
}

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_MERGE_STATES_CUH_
