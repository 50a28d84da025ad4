// What device code and launches need of CUDA's headers, for kernels that run on the CPU.
#ifndef EMULATOR_CUDA_RUNTIME_H_
#define EMULATOR_CUDA_RUNTIME_H_

#include <cmath>

#include "cuda_runtime_api.h"
#include "emulator.h"

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <class P>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void (*)(P)) {
  return cudaSuccess;
}

template <class P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P), cudaFuncAttribute, int value) {
  return emulator::allow_shared(reinterpret_cast<const void*>(kernel), value);
}

// The parameter is copied at the launch, as CUDA does.
template <class P>
cudaError_t cudaLaunchKernel(void (*kernel)(P), dim3 grid, dim3 block, void** arguments,
                             size_t shared, cudaStream_t) {
  const P params = *static_cast<const P*>(arguments[0]);
  struct Call {
    void (*kernel)(P);
    const P* params;
  } call{kernel, &params};
  return emulator::launch(
      reinterpret_cast<const void*>(kernel), grid, block, shared,
      [](void* given) {
        const Call& c = *static_cast<Call*>(given);
        c.kernel(*c.params);
      },
      &call);
}

#endif  // EMULATOR_CUDA_RUNTIME_H_
