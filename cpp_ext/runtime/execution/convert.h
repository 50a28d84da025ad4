// Elements of any type as float64.
#ifndef MMEDGE_RUNTIME_EXECUTION_CONVERT_H_
#define MMEDGE_RUNTIME_EXECUTION_CONVERT_H_

#include <cstddef>

#include "tensor.h"

namespace mmedge::runtime {

// Writes `count` elements as float64, rounded where an integer has more than 53 digits.
void to_float64(DType dtype, const void* elements, size_t count, double* out) noexcept;

// Whether elements of the type may be NaN or infinite.
inline bool is_float(DType dtype) noexcept {
  return dtype == DType::kFloat16 || dtype == DType::kFloat32 || dtype == DType::kFloat64;
}

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_CONVERT_H_
