// Launching the kernel that a plan names. Each pair of dtype and width is compiled on its own
// (instance.cu.in), so that a build has parts to do side by side.
#ifndef MMEDGE_KERNELS_CUDA_LAUNCH_H_
#define MMEDGE_KERNELS_CUDA_LAUNCH_H_

#include <cuda_runtime_api.h>

#include "params.h"
#include "plan.h"

namespace mmedge::cuda {

struct Float16;
struct BFloat16;

// T is the dtype of queries, Width the plan's.
template <class T, int Width>
cudaError_t launch(const Plan& plan, const Params& params, cudaStream_t stream);

// Brings the kernel's code to the current GPU, which the driver would do at the first launch: under
// stream capture it might not be allowed to.
template <class T, int Width>
cudaError_t load(const Plan& plan);

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_LAUNCH_H_
