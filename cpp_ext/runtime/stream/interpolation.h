// Values between two samples: linear, quaternions by slerp, angles the shorter way round.
#ifndef MMEDGE_RUNTIME_STREAM_INTERPOLATION_H_
#define MMEDGE_RUNTIME_STREAM_INTERPOLATION_H_

#include <vector>

#include "stream/options.h"
#include "stream/text.h"
#include "tensor.h"

namespace mmedge::runtime::stream {

// Writes to `mix` what lies between two floating-point tensors of one shape, by the weight of the
// second; computed in float64, mmedge/stream/interpolation.py. `mix` has the same shape. False: an
// angle is not from -pi to pi; `message` says which.
bool blend(const TensorView& before, const TensorView& after, double weight,
           const std::vector<Slice>& quaternions, const std::vector<Slice>& angles,
           const TensorView& mix, Text* message) noexcept;

}  // namespace mmedge::runtime::stream

#endif  // MMEDGE_RUNTIME_STREAM_INTERPOLATION_H_
