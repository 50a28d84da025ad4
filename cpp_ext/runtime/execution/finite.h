// NaN and infinity in tensors.
#ifndef MMEDGE_RUNTIME_EXECUTION_FINITE_H_
#define MMEDGE_RUNTIME_EXECUTION_FINITE_H_

#include "tensor.h"

namespace mmedge::runtime {

struct NonFinite {
  bool nan = false;
  bool infinity = false;
};

// Whether each element is finite; integers and booleans are.
bool is_finite(const TensorView& view) noexcept;

// Which of the two a tensor holds.
NonFinite find_non_finite(const TensorView& view) noexcept;

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_FINITE_H_
