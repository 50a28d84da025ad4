// The functions of mmedge/kernels.h for GPUs: checks, a plan, and a launch on the caller's stream.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/plan.h"
#include "status.h"

namespace mmedge {
namespace {

constexpr float kLog2e = 1.44269504088896341f;

// Partial results are read 16 bytes at a time. cudaMalloc() gives more than this.
constexpr uintptr_t kWorkspaceAlignment = 16;

mmedge_status device_error(cudaError_t error, const char* doing) {
  switch (error) {
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
      return fail(MMEDGE_NO_DEVICE, "%s: %s; mmedge_segattn_cpu() needs no GPU", doing,
                  cudaGetErrorString(error));
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return fail(MMEDGE_UNSUPPORTED,
                  "%s: this library has kernels for sm_ %s and this GPU is another; build it with "
                  "-DMMEDGE_CUDA_ARCHITECTURES=NN (mmedge env tells the GPU's number)",
                  doing, mmedge_cuda_architectures());
    default:
      return fail(MMEDGE_DEVICE_ERROR, "%s: %s (%s)", doing, cudaGetErrorString(error),
                  cudaGetErrorName(error));
  }
}

mmedge_status find_device(cuda::Device* found) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  const struct {
    cudaDeviceAttr attribute;
    int* value;
  } wanted[] = {
      {cudaDevAttrMultiProcessorCount, &found->multiprocessors},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, &found->shared_per_sm},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, &found->shared_per_block},
  };
  for (const auto& one : wanted) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(one.value, one.attribute, device);
  }
  return error == cudaSuccess ? MMEDGE_OK : device_error(error, "asking for the current GPU");
}

mmedge_status make_plan(const mmedge_segattn* desc, cuda::Plan* plan) {
  mmedge_status status = check(desc);
  if (status == MMEDGE_OK) status = cuda::unsupported(*desc);
  cuda::Device device{};
  if (status == MMEDGE_OK) status = find_device(&device);
  if (status != MMEDGE_OK) return status;
  *plan = cuda::make_plan(*desc, device);
  if (plan->shared.bytes > device.shared_per_block) {
    return fail(MMEDGE_UNSUPPORTED,
                "this GPU has %d bytes of shared memory for a block, the kernel needs %d: expected "
                "sm_80 or later",
                device.shared_per_block, plan->shared.bytes);
  }
  return MMEDGE_OK;
}

template <class T>
cudaError_t launch(const cuda::Plan& plan, const cuda::Params& params, cudaStream_t stream) {
  switch (plan.width) {
    case 32: return cuda::launch<T, 32>(plan, params, stream);
    case 64: return cuda::launch<T, 64>(plan, params, stream);
    case 96: return cuda::launch<T, 96>(plan, params, stream);
    default: return cuda::launch<T, 128>(plan, params, stream);
  }
}

template <class T>
cudaError_t load(const cuda::Plan& plan) {
  switch (plan.width) {
    case 32: return cuda::load<T, 32>(plan);
    case 64: return cuda::load<T, 64>(plan);
    case 96: return cuda::load<T, 96>(plan);
    default: return cuda::load<T, 128>(plan);
  }
}

}  // namespace
}  // namespace mmedge

mmedge_status mmedge_segattn_workspace(const mmedge_segattn* desc, size_t* bytes) {
  mmedge::cuda::Plan plan{};
  mmedge_status status = mmedge::check_result(bytes);
  if (status == MMEDGE_OK) status = mmedge::make_plan(desc, &plan);
  if (status != MMEDGE_OK) return status;
  *bytes = plan.workspace;
  // Whoever captures a call has asked for its workspace before.
  const cudaError_t error = desc->dtype == MMEDGE_F16
                                ? mmedge::load<mmedge::cuda::Float16>(plan)
                                : mmedge::load<mmedge::cuda::BFloat16>(plan);
  return error == cudaSuccess ? MMEDGE_OK
                              : mmedge::device_error(error, "loading segmented attention");
}

mmedge_status mmedge_segattn_enqueue(const mmedge_segattn* desc, void* workspace, void* stream) {
  using mmedge::cuda::kCounters;
  mmedge::cuda::Plan plan{};
  const mmedge_status status = mmedge::make_plan(desc, &plan);
  if (status != MMEDGE_OK) return status;
  if (plan.workspace > 0 &&
      (workspace == nullptr ||
       reinterpret_cast<uintptr_t>(workspace) % mmedge::kWorkspaceAlignment != 0)) {
    return mmedge::fail(MMEDGE_INVALID,
                        "workspace: expected %zu bytes of device memory aligned to %zu (ask "
                        "mmedge_segattn_workspace), got %p",
                        plan.workspace, static_cast<size_t>(mmedge::kWorkspaceAlignment),
                        workspace);
  }
  mmedge::cuda::Params params{};
  params.call = *desc;
  params.shared = plan.shared;
  params.group = desc->heads / desc->kv_heads;
  params.group_rows = plan.group_rows;
  params.per_row = 1.0f / static_cast<float>(desc->rows);
  params.splits = plan.splits;
  params.scale = desc->scale * mmedge::kLog2e;
  if (plan.splits > 1) {
    params.counters = static_cast<unsigned*>(workspace);
    params.partials = reinterpret_cast<float*>(params.counters + kCounters);
  }
  const cudaError_t error =
      desc->dtype == MMEDGE_F16
          ? mmedge::launch<mmedge::cuda::Float16>(plan, params, static_cast<cudaStream_t>(stream))
          : mmedge::launch<mmedge::cuda::BFloat16>(plan, params,
                                                   static_cast<cudaStream_t>(stream));
  return error == cudaSuccess ? MMEDGE_OK
                              : mmedge::device_error(error, "launching segmented attention");
}

const char* mmedge_cuda_architectures(void) { return MMEDGE_CUDA_ARCHITECTURES; }
