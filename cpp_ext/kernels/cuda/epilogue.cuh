// The epilogue of a row: its result goes to the output, to the workspace as one part of several, or
// to the totals of INDEPENDENT segments.
#ifndef MMEDGE_KERNELS_CUDA_EPILOGUE_CUH_
#define MMEDGE_KERNELS_CUDA_EPILOGUE_CUH_

#include "work_tile.cuh"

namespace mmedge::cuda {

// Of the block's tile and part, in the workspace.
__device__ __forceinline__ float* partial_of(const Params& p, int tile, int split, size_t floats) {
  return p.partials + (static_cast<size_t>(tile) * p.splits + split) * floats;
}

__device__ __forceinline__ float nothing(const Params& p) {
  return p.call.empty_is_nan ? __builtin_nanf("") : 0.0f;
}

__device__ __forceinline__ void write_lse(const Params& p, const WorkTile& work_tile,
                                          const Row& row, float m, float l) {
  if (p.call.lse == nullptr) return;
  const int64_t at =
      (static_cast<int64_t>(work_tile.batch) * p.call.heads + row.head) * p.call.rows + row.query;
  p.call.lse[at] = l == 0.0f ? -kInfinity : (m + log2_fast(l)) * (1.0f / kLog2e);
}

// Pairs of neighbouring elements of a row that a thread has: pair j starts at element
// `column` + `Step` * j. One thread of a row is its `speaker`, which writes what the row has once.
template <class T, int Width, int Rows, int Step>
struct Epilogue {
  static constexpr int kPairs = Width / Step;

  // x / l, or what stands for nothing where l is 0.
  __device__ __forceinline__ static void write(const Params& p, const WorkTile& work_tile,
                                               int in_tile, int column, float factor, bool empty,
                                               const float (&x)[kPairs][2]) {
    if (in_tile >= work_tile.count) return;
    uint16_t* out = output_of(p, work_tile, row_of(p, work_tile, in_tile)) + column;
    const float filler = nothing(p);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      if (column + Step * j < p.call.dim) {
        *reinterpret_cast<uint32_t*>(out + Step * j) =
            empty ? pack<T>(filler, filler) : pack<T>(x[j][0] * factor, x[j][1] * factor);
      }
    }
  }

  // Rows that do not exist are left behind too, so that the workspace never has NaN by chance.
  __device__ __forceinline__ static void leave(float* partial, int in_tile, int column,
                                               bool speaker, float m, float l,
                                               const float (&x)[kPairs][2]) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      *reinterpret_cast<float2*>(partial + in_tile * Width + column + Step * j) =
          make_float2(x[j][0], x[j][1]);
    }
    if (speaker) {
      partial[Rows * Width + in_tile] = m;
      partial[Rows * Width + Rows + in_tile] = l;
    }
  }

  // totals += factor * x; `any` tells whether some segment had a key for the row.
  __device__ __forceinline__ static void add(float* totals, int in_tile, int column, bool speaker,
                                             float factor, bool empty,
                                             const float (&x)[kPairs][2]) {
    if (empty) return;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      float2& total =
          *reinterpret_cast<float2*>(totals + in_tile * Width + column + Step * j);
      total.x += factor * x[j][0];
      total.y += factor * x[j][1];
    }
    if (speaker) totals[Rows * Width + in_tile] = 1.0f;
  }

  __device__ __forceinline__ static void take(const float* totals, int in_tile, int column,
                                              float (&x)[kPairs][2]) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float2 total =
          *reinterpret_cast<const float2*>(totals + in_tile * Width + column + Step * j);
      x[j][0] = total.x;
      x[j][1] = total.y;
    }
  }
};

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_EPILOGUE_CUH_
