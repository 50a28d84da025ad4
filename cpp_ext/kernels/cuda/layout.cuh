// How a tile of keys or values lies in shared memory.
//
// Rows follow each other without gaps, in chunks of 16 bytes. ldmatrix reads one chunk of eight
// rows at a time, and these must lie in eight different groups of banks. Chunks of a row are
// therefore permuted by XOR with the row's number. Where a row has a multiple of 8 chunks (64 and
// 128 elements), all rows start at the same bank, and three bits of the row do it. Where it has 4
// more (32 and 96 elements), every second row starts half way, and two bits do it; as 12 is a
// multiple of 4, that stays inside the row.
#ifndef MMEDGE_KERNELS_CUDA_LAYOUT_CUH_
#define MMEDGE_KERNELS_CUDA_LAYOUT_CUH_

#include "ptx.cuh"

namespace mmedge::cuda {

template <int Width>
struct TileLayout {
  static constexpr int kChunks = Width / 8;
  static_assert(kChunks % 4 == 0);

  // What chunks of this row are XORed with: the same for rows that are 8 apart.
  __device__ __forceinline__ static int twist(int row) {
    return kChunks % 8 == 0 ? row & 7 : (row >> 1) & 3;
  }

  // Bytes from the start of the tile.
  __device__ __forceinline__ static int offset(int row, int chunk) {
    return (row * kChunks + (chunk ^ twist(row))) * 16;
  }
};

// Fragments of a tile as one lane reads them, 16 rows by 16 elements at a time: keys as they are,
// values transposed. `first` is the row of the first of the 16.
template <int Width>
struct KeyFragments {
  using Layout = TileLayout<Width>;

  // Matrices: keys 0-7 elements 0-7, keys 0-7 elements 8-15, keys 8-15 elements 0-7, and 8-15.
  __device__ __forceinline__ KeyFragments(uint32_t tile, int first, int lane) {
    const int row = first + lane / 16 * 8 + lane % 8;
    row_ = tile + static_cast<uint32_t>(row * Layout::kChunks * 16);
    twist_ = Layout::twist(row);
    chunk_ = lane / 8 % 2;
  }

  // m[0], m[1] are what keys 0-7 multiply with elements 16 * step to + 15; m[2], m[3] keys 8-15.
  __device__ __forceinline__ void load(uint32_t (&m)[4], int rows, int step) const {
    load_matrices(m, row_ + static_cast<uint32_t>(rows * Layout::kChunks * 16 +
                                                  ((2 * step + chunk_) ^ twist_) * 16));
  }

 private:
  uint32_t row_;
  int twist_;
  int chunk_;
};

template <int Width>
struct ValueFragments {
  using Layout = TileLayout<Width>;

  // Matrices: keys 0-7 elements 0-7, keys 8-15 elements 0-7, keys 0-7 elements 8-15, and 8-15.
  __device__ __forceinline__ ValueFragments(uint32_t tile, int first, int lane) {
    const int row = first + lane / 8 % 2 * 8 + lane % 8;
    row_ = tile + static_cast<uint32_t>(row * Layout::kChunks * 16);
    twist_ = Layout::twist(row);
    chunk_ = lane / 16;
  }

  // m[0], m[1] give elements 16 * step to + 7 of the output, m[2], m[3] the next eight.
  __device__ __forceinline__ void load(uint32_t (&m)[4], int rows, int step) const {
    load_matrices_transposed(m, row_ + static_cast<uint32_t>(rows * Layout::kChunks * 16 +
                                                             ((2 * step + chunk_) ^ twist_) * 16));
  }

 private:
  uint32_t row_;
  int twist_;
  int chunk_;
};

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_LAYOUT_CUH_
