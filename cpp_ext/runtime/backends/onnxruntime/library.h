// A copy of ONNX Runtime, loaded when the program runs: no header and no library of it is needed to
// build this.
//
// What is loaded stays until the process ends, with one environment for each copy, which is made
// with the first session. Neither is freed, on purpose: there is no order in which static
// destructors of ONNX Runtime, of this library and of an application could be relied on. Several
// copies, of the same or of different versions, do not know of each other.
#ifndef MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_LIBRARY_H_
#define MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_LIBRARY_H_

#include <mutex>
#include <string>
#include <vector>

#include "../../../ort/ort_abi.h"

namespace mmedge::runtime::onnxruntime {

class Library {
 public:
  // Loads it. `location` is a library file; or a folder that holds one, also in lib, capi or
  // onnxruntime/capi below it, as the folder of a Python environment's packages does. Empty: a file
  // libonnxruntime.so* beside this code, or else the system's. Where a folder holds several, the
  // highest version counts.
  //
  // Throws Error(kBackend): there is none, it cannot be loaded, or it is older than 1.25.
  static Library& load(const std::string& location);

  const std::string& path() const noexcept { return path_; }  // as the loader has it
  const std::string& version() const noexcept { return version_; }
  const ort::ApiBase* base() const noexcept { return base_; }

  // Calls a function of the C API.
  template <class Function, class... Arguments>
  auto call(Arguments... arguments) const noexcept {
    return api_->get<Function>()(arguments...);
  }
  // Throws Error(kBackend) with what a function says that failed.
  void check(ort::Status* status) const;
  // What a function says that failed; frees it.
  std::string take_message(ort::Status* status) const;

  // Made with the first call. Throws Error(kBackend).
  ort::Env* env();
  ort::MemoryInfo* cpu_memory() const noexcept { return memory_; }  // after env()

  // Execution providers that it was built with. Throws Error(kBackend).
  std::vector<std::string> providers() const;

 private:
  Library(void* handle, std::string path, const ort::ApiBase* base, const ort::Api* api);

  void* handle_;
  std::string path_, version_;
  const ort::ApiBase* base_;
  const ort::Api* api_;
  std::mutex lock_;  // of what env() makes
  ort::Env* env_ = nullptr;
  ort::MemoryInfo* memory_ = nullptr;
  Library* next_ = nullptr;  // of those that were loaded before
};

}  // namespace mmedge::runtime::onnxruntime

#endif  // MMEDGE_RUNTIME_BACKENDS_ONNXRUNTIME_LIBRARY_H_
