// What a kernel is given, by value: it lies in constant memory.
#ifndef MMEDGE_KERNELS_CUDA_PARAMS_H_
#define MMEDGE_KERNELS_CUDA_PARAMS_H_

#include "mmedge/kernels.h"
#include "tiling.h"

namespace mmedge::cuda {

struct Params {
  mmedge_segattn call;
  SharedLayout shared;
  int group;       // heads that share keys
  int group_rows;  // group * call.rows: row r is query r % call.rows of head r / call.rows
  float per_row;   // 1 / call.rows
  int splits;
  float scale;        // of scores, times log2 e
  unsigned* counters; // [groups][row tiles], zero between calls
  float* partials;    // [groups][row tiles][splits] of partial_floats()
};

// The limit of every architecture and of CUDA before 12.1.
static_assert(sizeof(Params) <= 4096);

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_PARAMS_H_
