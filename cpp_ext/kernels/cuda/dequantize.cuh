// 8-bit keys and values made into a tile of the queries' dtype, inside shared memory.
#ifndef MMEDGE_KERNELS_CUDA_DEQUANTIZE_CUH_
#define MMEDGE_KERNELS_CUDA_DEQUANTIZE_CUH_

#include "layout.cuh"
#include "params.h"

namespace mmedge::cuda {

// A signed byte as a float, without a conversion instruction, which are few: 2^23 + n has n in its
// lowest bits, and 128 makes the byte unsigned.
__device__ __forceinline__ float dequantize_byte(uint32_t word, int byte) {
  const uint32_t bits = ((word ^ 0x80808080u) >> (8 * byte)) & 0xFFu;
  return bits_as_float(bits | 0x4B000000u) - 8388736.0f;
}

// Rows [first, first + rows) from `from`, Width bytes a row, to the tile `to`, times `factor`.
// `thread` is this one's number among `Threads`.
template <class T, int Width, int Rows, int Threads>
__device__ __forceinline__ void dequantize(const unsigned char* from, unsigned char* to, int first,
                                           int thread, float factor) {
  using Layout = TileLayout<Width>;
  thread = anew(thread);
#pragma unroll
  for (int i = 0; i < Rows * Layout::kChunks; i += Threads) {
    const int row = first + (i + thread) / Layout::kChunks;
    const int chunk = (i + thread) % Layout::kChunks;
    const uint2 bytes = *reinterpret_cast<const uint2*>(from + row * Width + chunk * 8);
    uint4 wide;
    wide.x = pack<T>(factor * dequantize_byte(bytes.x, 0), factor * dequantize_byte(bytes.x, 1));
    wide.y = pack<T>(factor * dequantize_byte(bytes.x, 2), factor * dequantize_byte(bytes.x, 3));
    wide.z = pack<T>(factor * dequantize_byte(bytes.y, 0), factor * dequantize_byte(bytes.y, 1));
    wide.w = pack<T>(factor * dequantize_byte(bytes.y, 2), factor * dequantize_byte(bytes.y, 3));
    *reinterpret_cast<uint4*>(to + Layout::offset(row, chunk)) = wide;
  }
}

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_DEQUANTIZE_CUH_
