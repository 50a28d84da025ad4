// The bodies of launch() and load(), for the files that instantiate them.
#ifndef MMEDGE_KERNELS_CUDA_LAUNCH_CUH_
#define MMEDGE_KERNELS_CUDA_LAUNCH_CUH_

#include <atomic>

#include "attend.cuh"
#include "launch.h"

namespace mmedge::cuda {

// Shared memory that a kernel may have without being asked for.
constexpr int kSharedByDefault = 48 * 1024;

struct Entry {
  void (*kernel)(Params);
  int most_shared;                 // bytes that any plan gives it
  std::atomic<uint64_t>* allowed;  // GPUs that were asked for them: a bit each, of the first 64
};

template <class T, int Width, Role R, bool Full>
Entry entry() {
  static std::atomic<uint64_t> allowed{0};
  return {attend<T, Width, R, Full>, shared_layout(R, Width, Full, Full, Full).bytes, &allowed};
}

template <class T, int Width>
Entry entry_of(const Plan& plan) {
  if (plan.role == Role::kFew) {
    return plan.full ? entry<T, Width, Role::kFew, true>() : entry<T, Width, Role::kFew, false>();
  }
  return plan.full ? entry<T, Width, Role::kMany, true>() : entry<T, Width, Role::kMany, false>();
}

inline cudaError_t allow_shared(const Entry& entry) {
  if (entry.most_shared <= kSharedByDefault) return cudaSuccess;
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const uint64_t bit = device < 64 ? uint64_t{1} << device : 0;
  if ((entry.allowed->load(std::memory_order_relaxed) & bit) != 0) return cudaSuccess;
  error = cudaFuncSetAttribute(entry.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               entry.most_shared);
  if (error == cudaSuccess) entry.allowed->fetch_or(bit, std::memory_order_relaxed);
  return error;
}

template <class T, int Width>
cudaError_t launch(const Plan& plan, const Params& params, cudaStream_t stream) {
  const Entry entry = entry_of<T, Width>(plan);
  const cudaError_t error = allow_shared(entry);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(plan.splits), static_cast<unsigned>(plan.row_tiles),
                  static_cast<unsigned>(plan.groups));
  Params copy = params;
  void* arguments[] = {&copy};
  return cudaLaunchKernel(entry.kernel, grid, dim3(kThreads), arguments,
                          static_cast<size_t>(plan.shared.bytes), stream);
}

template <class T, int Width>
cudaError_t load(const Plan& plan) {
  const Entry entry = entry_of<T, Width>(plan);
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, entry.kernel);
  return error == cudaSuccess ? allow_shared(entry) : error;
}

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_LAUNCH_CUH_
