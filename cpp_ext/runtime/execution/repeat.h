// A tensor repeated to larger sizes.
#ifndef MMEDGE_RUNTIME_EXECUTION_REPEAT_H_
#define MMEDGE_RUNTIME_EXECUTION_REPEAT_H_

#include "tensor.h"

namespace mmedge::runtime {

// Writes `from` to `out`, of the same rank and dtype: sizes are equal, or 1 in `from`.
void repeat(const TensorView& from, const TensorView& out) noexcept;

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_EXECUTION_REPEAT_H_
