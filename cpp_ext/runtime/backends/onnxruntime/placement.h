// Which execution provider runs each node of a loaded graph.
#ifndef MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_PLACEMENT_H_
#define MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_PLACEMENT_H_

#include <cstdint>
#include <string>

#include "library.h"

namespace mmedge::runtime::onnxruntime {

// The execution provider that must run every node of a variant's target; null where the target is
// none of ONNX Runtime's.
const char* provider_name(const std::string& target) noexcept;

// Counts the nodes of mmedge's own domain, which its kernels run.
//
// Throws Error(kBackend) where a node runs on another provider than the target stands for. Size
// arithmetic on the CPU beside a GPU is the one exception.
int64_t check_placement(const Library& library, const ort::Session* session,
                        const std::string& target, const std::string& where);

}  // namespace mmedge::runtime::onnxruntime

#endif  // MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_PLACEMENT_H_
