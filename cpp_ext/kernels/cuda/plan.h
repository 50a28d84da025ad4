// What a checked call is launched as. It depends on shapes and on the GPU alone, so that a plan is
// the same at capture and at each replay, and can be made where there is no GPU.
#ifndef MMEDGE_KERNELS_CUDA_PLAN_H_
#define MMEDGE_KERNELS_CUDA_PLAN_H_

#include <cstddef>

#include "mmedge/kernels.h"
#include "tiling.h"

namespace mmedge::cuda {

// What a plan needs to know of a GPU.
struct Device {
  int multiprocessors;
  int shared_per_sm;     // bytes of shared memory of a multiprocessor
  int shared_per_block;  // of which one block can have
};

struct Plan {
  Role role;
  int width;      // elements of a head, filled up
  bool full;      // masks, biases, 8-bit keys, INDEPENDENT, or gates that differ inside a tile
  int group_rows;  // queries of all heads that share keys
  int row_tiles;
  int groups;      // batches x heads of keys
  int splits;
  int blocks_per_sm;
  SharedLayout shared;
  size_t workspace;  // bytes
};

// `call` has passed mmedge::check() and unsupported().
Plan make_plan(const mmedge_segattn& call, const Device& device);

// MMEDGE_OK where there is a kernel for a checked call, else MMEDGE_UNSUPPORTED and a message.
mmedge_status unsupported(const mmedge_segattn& call);

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_PLAN_H_
