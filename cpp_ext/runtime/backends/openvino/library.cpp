// Finds, loads and keeps copies of OpenVINO.
#include "library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include "../../error.h"
#include "../shared_library.h"

namespace mmedge::runtime::openvino {
namespace {

#if defined(__aarch64__)
#define MMEDGE_MULTIARCH "/usr/lib/aarch64-linux-gnu"
#define MMEDGE_OPENVINO_ARCH "aarch64"
#else
#define MMEDGE_MULTIARCH "/usr/lib/x86_64-linux-gnu"
#define MMEDGE_OPENVINO_ARCH "intel64"
#endif

constexpr const char* kBelow[] = {
    "", "/lib", "/libs", "/openvino/libs", "/runtime/lib/" MMEDGE_OPENVINO_ARCH, nullptr};
constexpr const char* kSystem[] = {"libopenvino_c.so", nullptr};
constexpr const char* kFolders[] = {MMEDGE_MULTIARCH, "/usr/lib64", "/usr/lib", "/usr/local/lib",
                                    nullptr};
constexpr LibraryPlaces kPlaces = {
    "OpenVINO", "libopenvino_c.so",
    kBelow,     "lib, libs, openvino/libs or runtime/lib/" MMEDGE_OPENVINO_ARCH,
    kSystem,    kFolders};

#define MMEDGE_OPENVINO_NAME(name, result, arguments) "ov_" #name,
constexpr const char* kNames[] = {MMEDGE_OPENVINO_FUNCTIONS(MMEDGE_OPENVINO_NAME)};
#undef MMEDGE_OPENVINO_NAME
constexpr size_t kCount = sizeof kNames / sizeof *kNames;
static_assert(sizeof(Api) == kCount * sizeof(void*), "only functions");

// INVALID_C_PARAM of ov_common.h.
constexpr Status kRefusedArguments = -14;

// Earlier releases have one more type in front of the others.
bool has_our_element_types(const Api& api) {
  float element = 0;
  int64_t sizes[] = {1};
  size_t bytes = 0;
  Owner<OvTensor> tensor(api.tensor_free);
  return api.tensor_create_from_host_ptr(kF32, Shape{1, sizes}, &element, tensor.out()) == 0 &&
         api.tensor_get_byte_size(tensor.get(), &bytes) == 0 && bytes == sizeof element;
}

}  // namespace

Library::Library(void* handle, const Api& api, std::string version)
    : handle_(handle), api_(api), version_(std::move(version)) {}

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
  // One that is refused stays loaded: it is not made to be unloaded.
  void* functions[kCount];
  for (size_t i = 0; i < kCount; ++i) {
    functions[i] = dlsym(handle, kNames[i]);
    if (functions[i] == nullptr) {
      throw Error(Code::kBackend, name + " has no function " + kNames[i] +
                                      ": it is not OpenVINO's C library, or too old; install "
                                      "OpenVINO 2026.4");
    }
  }
  Api api;
  std::memcpy(&api, functions, sizeof api);
  Version version{};
  if (api.get_openvino_version(&version) != 0 || version.build_number == nullptr) {
    throw Error(Code::kBackend, name + " does not tell its version; install OpenVINO again");
  }
  std::string number = version.build_number;  // such as 2026.4.1-22982-e213a147257-releases/2026/4
  api.version_free(&version);
  number.resize(std::min(number.find('-'), number.size()));
  if (!has_our_element_types(api)) {
    throw Error(Code::kBackend, name + ": OpenVINO " + number + " numbers element types in another "
                                    "way than 2026.4; install that");
  }
  auto* library = new Library(handle, api, std::move(number));
  library->next_ = first;
  first = library;
  return *library;
}

const Core* Library::core() {
  const std::lock_guard<std::mutex> held(lock_);
  if (core_ == nullptr) check(api_.core_create(&core_));
  return core_;
}

void Library::describe(Status status, char* text, size_t room) const noexcept {
  // Arguments that its C functions refuse by themselves leave the message of an earlier failure.
  const char* message = status > kRefusedArguments ? api_.get_last_err_msg() : nullptr;
  std::snprintf(text, room, "%s", message != nullptr ? message : api_.get_error_info(status));
  if (message != nullptr) api_.free(message);
  for (size_t end = std::strlen(text); end > 0 && text[end - 1] == '\n';) text[--end] = '\0';
}

void Library::check(Status status) const {
  if (status == 0) return;
  char text[2048];
  describe(status, text, sizeof text);
  throw Error(Code::kBackend, text);
}

}  // namespace mmedge::runtime::openvino
