// Everything that is not plain C++ in the kernels: PTX and intrinsics, each behind one function.
//
// A program that defines MMEDGE_EMULATOR gives the same functions itself, and runs the kernels
// without a GPU (tests/native/emulator). Layouts of fragments are those of the PTX ISA, "Matrix
// Fragments for mma.m16n8k16 with floating point type" and "ldmatrix"; in comments of the kernels,
// g is a lane's number / 4 and t its number % 4.
#ifndef MMEDGE_KERNELS_CUDA_PTX_CUH_
#define MMEDGE_KERNELS_CUDA_PTX_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace mmedge::cuda {

// Dtypes of queries, by their 16 bits. `kExponent`: the bits that are all ones in infinities and
// NaNs. `kCarry` added to these alone carries into the sign.
struct Float16 {
  static constexpr uint32_t kExponent = 0x7C00;
  static constexpr uint32_t kCarry = 0x0400;
};
struct BFloat16 {
  static constexpr uint32_t kExponent = 0x7F80;
  static constexpr uint32_t kCarry = 0x0080;
};

}  // namespace mmedge::cuda

#if defined(MMEDGE_EMULATOR)
#include "emulated_ptx.h"
#else

namespace mmedge::cuda {

// ---- Where a thread is

__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int block_x() { return static_cast<int>(blockIdx.x); }
__device__ __forceinline__ int block_y() { return static_cast<int>(blockIdx.y); }
__device__ __forceinline__ int block_z() { return static_cast<int>(blockIdx.z); }
__device__ __forceinline__ int grid_y() { return static_cast<int>(gridDim.y); }

// ---- Waiting and exchanging

__device__ __forceinline__ void sync_block() { __syncthreads(); }
__device__ __forceinline__ void sync_warp() { __syncwarp(); }

__device__ __forceinline__ float from_lane_xor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

__device__ __forceinline__ bool any_lane(bool value) { return __any_sync(0xffffffffu, value); }

// What this thread has written, or has seen through a barrier, is seen by the whole GPU before what it
// writes from now on.
__device__ __forceinline__ void fence_device() { __threadfence(); }

// Counts an arrival; returns how many there were before. After `last` it starts again at 0.
__device__ __forceinline__ unsigned count_arrival(unsigned* counter, unsigned last) {
  return atomicInc(counter, last);
}

// Loads of what other blocks have written in this launch: past the first-level cache.
__device__ __forceinline__ float load_shared_by_blocks(const float* from) { return __ldcg(from); }
__device__ __forceinline__ float4 load_shared_by_blocks(const float4* from) { return __ldcg(from); }

// ---- Shared memory

__device__ __forceinline__ unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts to copy 16 bytes to shared memory, of which only the first `bytes` are read and the others
// become 0. Both addresses are multiples of 16.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(bytes)
               : "memory");
}

// Copies that this thread has started since the last call form a group.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until all groups of this thread but the latest N have arrived.
template <int N>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&m)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}

// ---- Arithmetic

// c += a . b for a 16x16, b 16x8, c 16x8.
template <class T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1);

template <>
__device__ __forceinline__ void multiply_add<Float16>(float (&c)[4], const uint32_t (&a)[4],
                                                      uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void multiply_add<BFloat16>(float (&c)[4], const uint32_t (&a)[4],
                                                       uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x with a relative error of 2^-22; 2^-inf is 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// With an absolute error of 2^-22 around 1, and a relative one of 2^-22 elsewhere.
__device__ __forceinline__ float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x, to the last bit but one.
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two floats rounded to 16 bits, `low` in the low half.
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);

template <>
__device__ __forceinline__ uint32_t pack<Float16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

template <>
__device__ __forceinline__ uint32_t pack<BFloat16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

template <class T>
__device__ __forceinline__ float unpack(uint16_t bits);

template <>
__device__ __forceinline__ float unpack<Float16>(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

template <>
__device__ __forceinline__ float unpack<BFloat16>(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

// The same value, of which the compiler does not know that it is the same at each pass of a loop.
// What is computed from it is computed anew, and takes no registers from the rest of the loop.
__device__ __forceinline__ int anew(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

__device__ __forceinline__ float bits_as_float(uint32_t bits) { return __uint_as_float(bits); }

}  // namespace mmedge::cuda

#endif  // MMEDGE_EMULATOR
#endif  // MMEDGE_KERNELS_CUDA_PTX_CUH_
