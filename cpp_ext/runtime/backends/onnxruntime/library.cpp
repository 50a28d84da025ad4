// Finds, loads and keeps copies of ONNX Runtime.
#include "library.h"

#include <dlfcn.h>

#include <cstdio>
#include <utility>

#include "../../error.h"
#include "../shared_library.h"

namespace mmedge::runtime::onnxruntime {
namespace {

// Oldest version that checks a divisor for zero.
constexpr int kOldest[2] = {1, 25};

[[noreturn]] void fail(const std::string& message) { throw Error(Code::kBackend, message); }

constexpr const char* kBelow[] = {"", "/lib", "/capi", "/onnxruntime/capi", nullptr};
constexpr const char* kSystem[] = {"libonnxruntime.so.1", "libonnxruntime.so", nullptr};
constexpr const char* kNone[] = {nullptr};
constexpr LibraryPlaces kPlaces = {"ONNX Runtime", "libonnxruntime.so",
                                   kBelow,         "lib, capi or onnxruntime/capi",
                                   kSystem,        kNone};

}  // namespace

Library::Library(void* handle, std::string path, const ort::ApiBase* base, const ort::Api* api)
    : handle_(handle),
      path_(std::move(path)),
      version_(base->version()),
      base_(base),
      api_(api) {}

Library& Library::load(const std::string& location) {
  static std::mutex lock;
  static Library* first = nullptr;
  const std::lock_guard<std::mutex> held(lock);
  std::string name;
  void* handle = open_library(kPlaces, location, &name);
  for (Library* each = first; each != nullptr; each = each->next_) {
    if (each->handle_ == handle) {
      dlclose(handle);  // counted twice
      return *each;
    }
  }
  using GetBase = const ort::ApiBase* (*)();
  const auto get_base = reinterpret_cast<GetBase>(dlsym(handle, "OrtGetApiBase"));
  if (get_base == nullptr) {
    dlclose(handle);
    fail(name + " is not ONNX Runtime: it has no function OrtGetApiBase");
  }
  const ort::ApiBase* base = get_base();
  const std::string version = base->version();
  const std::string oldest = std::to_string(kOldest[0]) + "." + std::to_string(kOldest[1]);
  int major = 0, minor = 0;
  if (std::sscanf(version.c_str(), "%d.%d", &major, &minor) != 2) {
    fail(name + ": expected a version of ONNX Runtime, found '" + version + "'");
  }
  // One that is refused stays loaded: ONNX Runtime is not made to be unloaded.
  if (std::make_pair(major, minor) < std::make_pair(kOldest[0], kOldest[1])) {
    fail(name + ": ONNX Runtime " + version +
         " ends the process on an integer division by zero; install " + oldest +
         " or a later one");
  }
  const ort::Api* api = base->get_api(ort::kSessionApiVersion);
  if (api == nullptr) {
    fail(name + ": ONNX Runtime " + version + " does not offer level " +
         std::to_string(ort::kSessionApiVersion) + " of its C API; install another version");
  }
  auto* library = new Library(handle, std::move(name), base, api);
  library->next_ = first;
  first = library;
  return *library;
}

std::string Library::take_message(ort::Status* status) const {
  std::string message = call<ort::GetErrorMessage>(status);
  call<ort::ReleaseStatus>(status);
  return message;
}

void Library::check(ort::Status* status) const {
  if (status != nullptr) fail(take_message(status));
}

ort::Env* Library::env() {
  const std::lock_guard<std::mutex> held(lock_);
  if (memory_ == nullptr) {
    if (env_ == nullptr) check(call<ort::CreateEnv>(ort::kFatal, "mmedge", &env_));
    check(call<ort::DisableTelemetryEvents>(env_));
    check(call<ort::CreateCpuMemoryInfo>(ort::kDeviceAllocator, ort::kMemoryDefault, &memory_));
  }
  return env_;
}

std::vector<std::string> Library::providers() const {
  char** names = nullptr;
  int count = 0;
  check(call<ort::GetAvailableProviders>(&names, &count));
  std::vector<std::string> providers(names, names + count);
  if (ort::Status* status = call<ort::ReleaseAvailableProviders>(names, count)) {
    take_message(status);
  }
  return providers;
}

}  // namespace mmedge::runtime::onnxruntime
