// Values that are NaN or infinite: kept from rows that do not attend to them.
//
// They belong to a row only where its weight is not 0, but 0 * NaN is NaN. Where a mask can hide a
// key, products therefore take such values as 0. Only where there are some, a second product counts
// for each output how many of each kind its row does attend to: the values become codes that are
// far enough apart, and the weights become ones.
#ifndef MMEDGE_KERNELS_CUDA_NONFINITE_CUH_
#define MMEDGE_KERNELS_CUDA_NONFINITE_CUH_

#include "ptx.cuh"

namespace mmedge::cuda {

// Codes of values of one tile, which has less than 128 keys: sums tell which kinds there were.
constexpr float kCodeInfinity = 1.0f;
constexpr float kCodeMinusInfinity = 128.0f;
constexpr float kCodeNaN = 16384.0f;

// The sign bits of those of two values that are not finite.
template <class T>
__device__ __forceinline__ uint32_t nonfinite_signs(uint32_t two) {
  return ((two & (T::kExponent * 0x10001u)) + T::kCarry * 0x10001u) & 0x80008000u;
}

// Two values, 0 where not finite.
__device__ __forceinline__ uint32_t without_nonfinite(uint32_t two, uint32_t signs) {
  return two & ~((signs >> 15) * 0xFFFFu);
}

template <class T>
__device__ __forceinline__ float nonfinite_code(uint32_t bits) {
  if ((bits & T::kExponent) != T::kExponent) return 0.0f;
  if ((bits & 0x7FFFu) != T::kExponent) return kCodeNaN;
  return (bits & 0x8000u) == 0 ? kCodeInfinity : kCodeMinusInfinity;
}

template <class T>
__device__ __forceinline__ uint32_t nonfinite_codes(uint32_t two) {
  return pack<T>(nonfinite_code<T>(two & 0xFFFFu), nonfinite_code<T>(two >> 16));
}

// What the values that a row attends to add to its output.
__device__ __forceinline__ float nonfinite_sum(float codes) {
  if (codes == 0.0f) return 0.0f;
  if (codes >= kCodeNaN) return __builtin_nanf("");
  const float minus = floorf(codes / kCodeMinusInfinity);
  const bool plus = codes - minus * kCodeMinusInfinity > 0.0f;
  if (minus == 0.0f) return __builtin_inff();
  return plus ? __builtin_nanf("") : -__builtin_inff();
}

}  // namespace mmedge::cuda

#endif  // MMEDGE_KERNELS_CUDA_NONFINITE_CUH_
