// mmedge's own operators for ONNX Runtime: where their functions are.
#ifndef MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_KERNELS_H_
#define MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_KERNELS_H_

#include <cstdint>
#include <string>

#include "../../../ort/ort_abi.h"

namespace mmedge::runtime::onnxruntime {

// Functions of libmmedge_kernels. A program that links it in sets all three to
// RegisterCustomOps, mmedge_cpu_isa and mmedge_segattn_cpu_calls.
struct Kernels {
  ort::Status* (*register_operators)(ort::SessionOptions*, const ort::ApiBase*) = nullptr;
  const char* (*isa)() = nullptr;
  uint64_t (*calls)() = nullptr;
  std::string path = "this program";                    // where they are, for messages
  std::string reason = "this program was built without kernels";  // where there are none

  bool present() const noexcept { return register_operators != nullptr; }
};

// Those of a library file, which stays loaded. Throws nothing: where there are none, `reason` says
// why.
Kernels load_kernels(const std::string& path);

}  // namespace mmedge::runtime::onnxruntime

#endif  // MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_KERNELS_H_
