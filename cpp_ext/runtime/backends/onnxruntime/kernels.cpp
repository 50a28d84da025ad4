// Loads libmmedge_kernels.
#include "kernels.h"

#include <dlfcn.h>

namespace mmedge::runtime::onnxruntime {
namespace {

// Version of mmedge's C API of kernels (MMEDGE_ABI_VERSION) that the functions are taken from.
constexpr int kAbiVersion = 1;

template <class Function>
bool find(void* library, const char* name, Function* out) {
  *out = reinterpret_cast<Function>(dlsym(library, name));
  return *out != nullptr;
}

}  // namespace

Kernels load_kernels(const std::string& path) {
  Kernels kernels;
  kernels.path = path;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* error = dlerror();
    kernels.reason = path + " cannot be loaded: " + (error == nullptr ? "no reason given" : error);
    return kernels;
  }
  int (*abi_version)() = nullptr;
  if (!find(library, "mmedge_abi_version", &abi_version) || abi_version() != kAbiVersion) {
    const std::string found = abi_version == nullptr ? "none" : std::to_string(abi_version());
    kernels.reason = path + ": expected version " + std::to_string(kAbiVersion) +
                     " of the C API, found " + found +
                     "; install mmedge again, so that its libraries are of one version";
  } else if (!find(library, "mmedge_cpu_isa", &kernels.isa) ||
             !find(library, "mmedge_segattn_cpu_calls", &kernels.calls) ||
             !find(library, "RegisterCustomOps", &kernels.register_operators)) {
    kernels.reason = "the native library was built without operators for ONNX Runtime";
  } else {
    kernels.reason.clear();
  }
  return kernels;
}

}  // namespace mmedge::runtime::onnxruntime
