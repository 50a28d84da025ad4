// Tensors of the samples file against what a manifest declares of them.
#ifndef MMEDGE_RUNTIME_BUNDLE_SAMPLE_CHECKS_H_
#define MMEDGE_RUNTIME_BUNDLE_SAMPLE_CHECKS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "spec.h"
#include "tensor.h"

namespace mmedge::runtime {

// In a shape, as the name of a dimension: any size.
inline constexpr char kAnySize[] = "*";

// Dtype, rank and sizes. A dynamic dimension is within its limits, and has the size that it has in
// `sizes`, to which it is added. Throws Error(kBundle), whose message begins with `where`; so do
// all of these.
void check_tensor(const TensorView& tensor, const TensorSpec& spec, const Manifest& manifest,
                  std::map<std::string, int64_t>* sizes, const std::string& where);

// A stand-in is cut to size 1 along dynamic axes and repeated: nothing may be lost by it.
void check_token(const TensorView& tensor, const TensorSpec& spec, const Manifest& manifest,
                 const std::string& where);

// What a run of a loop gave: dynamic dimensions may have any size. It holds something, unless it
// may be empty.
void check_run(const TensorView& tensor, const TensorSpec& spec, bool may_be_empty,
               const std::string& where);

// Refuses golden values of an output, over all samples, that are mostly no numbers.
void check_numbers(const std::vector<const TensorView*>& golden, const std::string& output,
                   const std::string& source);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_SAMPLE_CHECKS_H_
