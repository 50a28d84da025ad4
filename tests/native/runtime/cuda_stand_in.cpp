// A driver with one GPU, and ONNX Runtime with a CUDA provider that only writes down what it is told.
//
// The same file is built as libcuda.so.1 and as libonnxruntime.so (MMEDGE_REAL: the real library, which
// does the rest; nodes stay on the CPU, so that placement is refused).
#include <cstdio>
#include <cstring>

#ifdef MMEDGE_REAL
#include <dlfcn.h>

#include "ort_abi.h"

namespace {

using namespace mmedge::ort;

const ApiBase* real_base() {
  static void* handle = dlopen(MMEDGE_REAL, RTLD_NOW | RTLD_LOCAL);
  using Get = const ApiBase* (*)();
  return reinterpret_cast<Get>(dlsym(handle, "OrtGetApiBase"))();
}

void tell(const char* what) {
  std::printf("provider: %s\n", what);
  std::fflush(stdout);
}

char dummy;

const Api* get_api(uint32_t version) {
  static Api api;
  const Api* real = real_base()->get_api(version);
  if (real == nullptr) return nullptr;
  std::memcpy(&api, real, sizeof api);
  const auto replace = [&](size_t position, auto function) {
    api.slot[position] = reinterpret_cast<void (*)()>(function);
  };
  replace(GetAvailableProviders::kPosition, +[](char*** names, int* count) -> Status* {
    static char cuda[] = "CUDAExecutionProvider", cpu[] = "CPUExecutionProvider";
    static char* all[] = {cuda, cpu};
    *names = all;
    *count = 2;
    return nullptr;
  });
  replace(ReleaseAvailableProviders::kPosition,
          +[](char**, int) -> Status* { return nullptr; });
  replace(CreateCudaOptions::kPosition, +[](CudaOptions** out) -> Status* {
    tell("options as they are made");
    *out = reinterpret_cast<CudaOptions*>(&dummy);
    return nullptr;
  });
  replace(AppendCuda::kPosition, +[](SessionOptions*, const CudaOptions* options) -> Status* {
    tell(options == reinterpret_cast<CudaOptions*>(&dummy) ? "CUDA with these" : "CUDA with others");
    return nullptr;
  });
  replace(ReleaseCudaOptions::kPosition, +[](CudaOptions*) { tell("options released"); });
  return &api;
}

const char* get_version() { return real_base()->version(); }

}  // namespace

extern "C" const ApiBase* OrtGetApiBase() {
  static const ApiBase base = {get_api, get_version};
  return &base;
}

#else

extern "C" {

int cuInit(unsigned) { return 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int index) { return *device = index + 40, 0; }
int cuDeviceGetName(char* name, int room, int device) {
  return std::snprintf(name, static_cast<size_t>(room), "Orin %d", device), 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  if (device != 40) return 1;
  return *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1, 0;
}

}  // extern "C"

#endif
