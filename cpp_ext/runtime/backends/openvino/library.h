// A copy of OpenVINO, loaded when the program runs.
//
// What is loaded stays until the process ends, with one Core, which is made with the first session.
// Neither is freed, on purpose: see onnxruntime/library.h.
#ifndef MMEDGE_RUNTIME_BACKENDS_OPENVINO_LIBRARY_H_
#define MMEDGE_RUNTIME_BACKENDS_OPENVINO_LIBRARY_H_

#include <mutex>
#include <string>

#include "openvino_abi.h"

namespace mmedge::runtime::openvino {

class Library {
 public:
  // Loads it. `location` is the file libopenvino_c.so*; or a folder that holds one, also in lib,
  // libs, runtime/lib/intel64 (aarch64) or openvino/libs below it, as the folder of a Python
  // environment's packages does. Empty: beside this code, or else the system's. Where a folder holds
  // several, the highest version counts. Throws Error(kBackend): there is none, it cannot be loaded,
  // or it lacks a function.
  static Library& load(const std::string& location);

  const std::string& version() const noexcept { return version_; }  // such as "2026.4.1"
  const Api& api() const noexcept { return api_; }
  // Made with the first call. Throws Error(kBackend).
  const Core* core();

  // Throws Error(kBackend) with what a function says that failed.
  void check(Status status) const;
  // Writes what a function says that failed to `text`, without a line's end.
  void describe(Status status, char* text, size_t room) const noexcept;

 private:
  Library(void* handle, const Api& api, std::string version);

  void* handle_;
  Api api_;
  std::string version_;
  std::mutex lock_;  // of core_
  Core* core_ = nullptr;
  Library* next_ = nullptr;
};

// Frees what OpenVINO has made, by one of its functions.
template <class T>
class Owner {
 public:
  using Free = void (*)(T*);

  Owner() = default;
  Owner(Free free, T* held) noexcept : held_(held), free_(free) {}
  explicit Owner(Free free) noexcept : free_(free) {}
  Owner(Owner&& other) noexcept : held_(other.held_), free_(other.free_) { other.held_ = nullptr; }
  Owner& operator=(Owner&& other) noexcept {
    T* const held = held_;
    const Free free = free_;
    held_ = other.held_;
    free_ = other.free_;
    other.held_ = held;
    other.free_ = free;
    return *this;
  }
  ~Owner() {
    if (held_ != nullptr) free_(held_);
  }

  T* get() const noexcept { return held_; }
  T** out() noexcept { return &held_; }  // of an empty one
  T* leave() noexcept {
    T* const held = held_;
    held_ = nullptr;
    return held;
  }

 private:
  T* held_ = nullptr;
  Free free_ = nullptr;
};

}  // namespace mmedge::runtime::openvino

#endif  // MMEDGE_RUNTIME_BACKENDS_OPENVINO_LIBRARY_H_
