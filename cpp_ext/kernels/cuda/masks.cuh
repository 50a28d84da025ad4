// What hides keys from rows and is added to scores.
//
// Before a tile is attended to, what is added to its scores is put in shared memory: minus infinity
// where a key is hidden, and the bias times log2 e elsewhere. It is one row where that is the same
// for all rows. So global memory is read along keys, by all threads side by side.
#ifndef MMEDGE_KERNELS_CUDA_MASKS_CUH_
#define MMEDGE_KERNELS_CUDA_MASKS_CUH_

#include "work_tile.cuh"

namespace mmedge::cuda {

// Floats from one row to the next in shared memory: 8 more than keys, so that eight rows lie in
// different banks.
template <int Keys>
constexpr int kAddedRow = Keys + 8;

template <class T>
__device__ __forceinline__ float load_bias(const mmedge_segment& s, int64_t at) {
  return s.bias_dtype == MMEDGE_F32
             ? static_cast<const float*>(s.bias)[at]
             : unpack<T>(static_cast<const uint16_t*>(s.bias)[at]);
}

// Whether rows of a tile differ in what is added.
__device__ __forceinline__ bool differs_by_row(const Params& p, const mmedge_segment& s) {
  return s.bias != nullptr && ((s.bias_stride[2] != 0 && p.call.rows > 1) ||
                               (s.bias_stride[1] != 0 && p.group > 1));
}

// Puts what is added to scores of keys [first, first + Count) of a tile, which starts at `key` of
// the segment, to added[row][first...]. `thread` is this one's number among `Threads`.
template <class T, int Rows, int Keys, int Count, int Threads>
__device__ __forceinline__ void load_added(float* added, const Params& p, const WorkTile& work_tile,
                                           const mmedge_segment& s, int key, int length, int first,
                                           int thread) {
  const uint8_t* valid = s.key_valid;
  if (valid != nullptr) valid += work_tile.batch * s.key_valid_stride;
  const int rows = differs_by_row(p, s) ? Rows : 1;
#pragma unroll 1
  for (int i = anew(thread); i < rows * Count; i += Threads) {
    const int in_tile = i / Count;
    const int column = first + i % Count;
    const int at = key + column;
    float add = -kInfinity;
    if (at < length && (valid == nullptr || valid[at] != 0)) {
      add = 0.0f;
      if (s.bias != nullptr) {
        const Row row = row_of(p, work_tile, in_tile);
        add = kLog2e * load_bias<T>(s, work_tile.batch * s.bias_stride[0] +
                                           row.head * s.bias_stride[1] +
                                           row.query * s.bias_stride[2] + at);
      }
    }
    added[in_tile * kAddedRow<Keys> + column] = add;
  }
}

// Products of queries and keys, as fragments of 16 rows and 8 keys, become scores times log2 e:
// minus infinity where the key is hidden from the row, whatever the product is. `added` is what
// load_added() left of the first row and key of these, `step` what lies between rows.
template <int Tiles>
__device__ __forceinline__ void mask(float (&s)[Tiles][4], const float* added, int step,
                                     float scale, const float (&gates)[2], int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float* row = added + (lane / 4 + 8 * half) * step + lane % 4 * 2;
    const bool dropped = gates[half] == -kInfinity;
#pragma unroll
    for (int j = 0; j < Tiles; ++j) {
      const float2 add = *reinterpret_cast<const float2*>(row + 8 * j);
      float& x = s[j][2 * half];
      float& y = s[j][2 * half + 1];
      x = dropped || add.x == -kInfinity ? -kInfinity : fmaf(x, scale, add.x + gates[half]);
      y = dropped || add.y == -kInfinity ? -kInfinity : fmaf(y, scale, add.y + gates[half]);
    }
  }
}

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_MASKS_CUH_
