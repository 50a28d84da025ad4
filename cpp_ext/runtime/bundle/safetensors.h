// Tensors of safetensors bytes, as views of those bytes.
#ifndef MMEDGE_RUNTIME_BUNDLE_SAFETENSORS_H_
#define MMEDGE_RUNTIME_BUNDLE_SAFETENSORS_H_

#include <cstddef>
#include <map>
#include <string>

#include "error.h"
#include "tensor.h"

namespace mmedge::runtime {

// Bytes of a header, and tensors that it may name: mmedge/schema/tensors.py.
constexpr size_t kMaxTensorsHeader = size_t{4} << 20;
constexpr size_t kMaxTensors = size_t{1} << 15;

// Bytes of the header of golden samples: some 200 for each tensor.
constexpr size_t kMaxSamplesHeader = size_t{16} << 20;

// Each tensor by name. Views are of `data`, valid as long as it is, not to be written to, and
// aligned as the file is. Everything is checked: limits, types, shapes, and that tensors cover the
// data without gaps or overlaps. Throws Error(kBundle), which names `source`.
std::map<std::string, TensorView> read_tensors(Bytes data, const std::string& source);

// The same by the rules of the safetensors library, which reads a bundle's golden samples: it
// passes over members that it does not know, lets the last of equal names count, and takes any byte
// for a boolean. At most `most` tensors.
std::map<std::string, TensorView> read_sample_tensors(Bytes data, size_t most,
                                                      const std::string& source);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BUNDLE_SAFETENSORS_H_
