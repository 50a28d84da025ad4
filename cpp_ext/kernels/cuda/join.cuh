// Puts the parts of a tile together in the launch that made them.
//
// Each block counts its arrival when its part is in the workspace. The last one, whichever it is,
// joins all parts in the order of their keys, so that results do not depend on which was last. The
// counter starts again by itself.
#ifndef MMEDGE_KERNELS_CUDA_JOIN_CUH_
#define MMEDGE_KERNELS_CUDA_JOIN_CUH_

#include "outcome.cuh"

namespace mmedge::cuda {

// True in all threads of the block that comes last. `flag` is one int of shared memory.
__device__ __forceinline__ bool arrive_last(const Params& p, int tile, int* flag) {
  fence_device();
  sync_block();
  if (thread_index() == 0) {
    const unsigned last = static_cast<unsigned>(p.splits - 1);
    *flag = count_arrival(p.counters + tile, last) == last;
  }
  sync_block();
  fence_device();
  return *flag != 0;
}

// `scratch` has 2 * splits * rows floats of shared memory.
template <class T, int Width, Role R>
__device__ void join_parts(const Params& p, const Unit& unit, int tile, float* scratch) {
  constexpr int kRows = Tiling<Width, R>::kRows;
  constexpr size_t kFloats = Tiling<Width, R>::kPartialFloats;
  const int thread = thread_index();
  const int splits = p.splits;
  float* maxima = scratch;
  float* sums = scratch + splits * kRows;
  for (int i = thread; i < splits * kRows; i += kThreads) {
    const float* partial = partial_of(p, tile, i / kRows, kFloats) + kRows * Width + i % kRows;
    maxima[i] = load_shared_by_blocks(partial);
    sums[i] = load_shared_by_blocks(partial + kRows);
  }
  sync_block();

  for (int i = thread; i < kRows * Width / 4; i += kThreads) {
    const int in_tile = i / (Width / 4);
    const int column = i % (Width / 4) * 4;
    if (in_tile >= unit.count || column >= p.call.dim) continue;
    float top = -kInfinity;
    for (int s = 0; s < splits; ++s) top = fmaxf(top, maxima[s * kRows + in_tile]);
    const float base = base_of(top);
    float sum = 0.0f;
    float4 o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
    for (int s = 0; s < splits; ++s) {
      const float4 part = load_shared_by_blocks(reinterpret_cast<const float4*>(
          partial_of(p, tile, s, kFloats) + in_tile * Width + column));
      const float weight = exp2_fast(maxima[s * kRows + in_tile] - base);
      sum = fmaf(weight, sums[s * kRows + in_tile], sum);
      o.x = fmaf(weight, part.x, o.x);
      o.y = fmaf(weight, part.y, o.y);
      o.z = fmaf(weight, part.z, o.z);
      o.w = fmaf(weight, part.w, o.w);
    }
    const bool empty = sum == 0.0f;
    // Parts of INDEPENDENT segments are divided already: their sums tell only that there are any.
    const float factor = p.call.mode == MMEDGE_INDEPENDENT ? 1.0f : reciprocal(sum);
    const float filler = nothing(p);
    const Row row = row_of(p, unit, in_tile);
    uint2 packed;
    packed.x = empty ? pack<T>(filler, filler) : pack<T>(o.x * factor, o.y * factor);
    packed.y = empty ? pack<T>(filler, filler) : pack<T>(o.z * factor, o.w * factor);
    *reinterpret_cast<uint2*>(output_of(p, unit, row) + column) = packed;
    if (column == 0) write_lse(p, unit, row, top, sum);
  }
}

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_JOIN_CUH_
