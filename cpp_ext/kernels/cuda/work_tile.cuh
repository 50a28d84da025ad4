// The rows that a block works on: a tile of the queries that share a head of keys.
#ifndef MMEDGE_KERNELS_CUDA_WORK_TILE_CUH_
#define MMEDGE_KERNELS_CUDA_WORK_TILE_CUH_

#include "params.h"
#include "ptx.cuh"

namespace mmedge::cuda {

constexpr float kLog2e = 1.44269504088896341f;
constexpr float kInfinity = __builtin_inff();

// What exponents are relative to. The maximum of a row without a key is minus infinity, from which
// nothing may be subtracted.
__device__ __forceinline__ float base_of(float top) { return top == -kInfinity ? 0.0f : top; }

// Rows of a group (the heads of queries that share a head of keys) are numbered head by head: row r
// is query r % rows of head r / rows of the group.
struct WorkTile {
  int batch;
  int kv_head;
  int first;  // row of the group that is the tile's first
  int count;  // rows of the tile that exist
};

struct Row {
  int head;
  int query;
};

// Of a row of the tile; rows that do not exist are the last one again, so that they can be read.
__device__ __forceinline__ Row row_of(const Params& p, const WorkTile& work_tile, int row) {
  const int r = work_tile.first + (row < work_tile.count ? row : work_tile.count - 1);
  // r / rows, without the many instructions of a division: r and the quotient are below 2^23, so
  // that the product is at most one off.
  int in_group = static_cast<int>(static_cast<float>(r) * p.per_row);
  int query = r - in_group * p.call.rows;
  const int off = query < 0 ? -1 : query >= p.call.rows ? 1 : 0;
  in_group += off;
  query -= off * p.call.rows;
  return {work_tile.kv_head * p.group + in_group, query};
}

__device__ __forceinline__ uint16_t* output_of(const Params& p, const WorkTile& work_tile,
                                               const Row& row) {
  return static_cast<uint16_t*>(p.call.out) + work_tile.batch * p.call.out_stride[0] +
         row.query * p.call.out_stride[1] + row.head * p.call.out_stride[2];
}

// Queries of a warp's 16 rows as the left operand of a product, straight from global memory: each
// lane reads what it needs, 4 bytes at a time, and once. `first` is the warp's first row.
template <int Width>
__device__ __forceinline__ void load_queries(uint32_t (&q)[Width / 16][4], const Params& p,
                                             const WorkTile& work_tile, int first, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int in_tile = first + lane / 4 + 8 * half;
    const Row row = row_of(p, work_tile, in_tile);
    const uint16_t* from = static_cast<const uint16_t*>(p.call.q) +
                           work_tile.batch * p.call.q_stride[0] + row.query * p.call.q_stride[1] +
                           row.head * p.call.q_stride[2];
    const int dim = in_tile < work_tile.count ? p.call.dim : 0;
#pragma unroll
    for (int step = 0; step < Width / 16; ++step) {
      const int column = 16 * step + lane % 4 * 2;
      q[step][half] =
          column < dim ? *reinterpret_cast<const uint32_t*>(from + column) : 0u;
      q[step][half + 2] =
          column + 8 < dim ? *reinterpret_cast<const uint32_t*>(from + column + 8) : 0u;
    }
  }
}

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_WORK_TILE_CUH_
