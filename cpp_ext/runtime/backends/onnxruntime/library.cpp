// Finds, loads and keeps copies of ONNX Runtime.
#include "library.h"

#include <dirent.h>
#include <dlfcn.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "../../error.h"

namespace mmedge::runtime::onnxruntime {
namespace {

constexpr const char kName[] = "libonnxruntime.so";

// Oldest version that checks a divisor for zero.
constexpr int kOldest[2] = {1, 25};

[[noreturn]] void fail(const std::string& message) { throw Error(Code::kBackend, message); }

std::string last_error() {
  const char* error = dlerror();
  return error == nullptr ? "the loader gives no reason" : error;
}

bool is_folder(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

// The numbers in what follows the name, such as ".1.32.0"; false where it is something else.
bool parse_suffix(const char* text, std::vector<long>* numbers) {
  numbers->clear();
  while (*text == '.') {
    char* end = nullptr;
    if (text[1] < '0' || text[1] > '9') return false;
    numbers->push_back(std::strtol(text + 1, &end, 10));
    text = end;
  }
  return *text == '\0';
}

// The library of the highest version in a folder; empty where there is none.
std::string find_in(const std::string& folder) {
  DIR* entries = opendir(folder.c_str());
  if (entries == nullptr) return "";
  std::string best;
  std::vector<long> best_numbers, numbers;
  while (const dirent* entry = readdir(entries)) {
    const std::string name = entry->d_name;
    if (name.compare(0, sizeof kName - 1, kName) != 0) continue;
    if (!parse_suffix(name.c_str() + sizeof kName - 1, &numbers)) continue;
    if (best.empty() || numbers > best_numbers) {
      best = name;
      best_numbers = numbers;
    }
  }
  closedir(entries);
  return best.empty() ? "" : folder + "/" + best;
}

// The folder of the library or program that this code is in.
std::string own_folder() {
  Dl_info info{};
  std::string path;
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) != 0 && info.dli_fname != nullptr) {
    path = info.dli_fname;
  }
  if (path.empty() || path[0] != '/') {  // a program, by the name that it was called by
    char target[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", target, sizeof target);
    if (length <= 0 || length == sizeof target) return "";
    path.assign(target, static_cast<size_t>(length));
  }
  return path.substr(0, path.rfind('/'));
}

void* open(const std::string& location, std::string* name) {
  if (!location.empty()) {
    *name = location;
    if (is_folder(location)) {
      name->clear();
      for (const char* below : {"", "/lib", "/capi", "/onnxruntime/capi"}) {
        if (name->empty()) *name = find_in(location + below);
      }
      if (name->empty()) {
        fail("no ONNX Runtime in " + location + ": expected a file " + kName +
             "* there, or in lib, capi or onnxruntime/capi below it; give the path of the library");
      }
    }
  } else {
    const std::string folder = own_folder();
    *name = folder.empty() ? "" : find_in(folder);
    if (name->empty()) {
      std::string errors;
      for (const char* system : {"libonnxruntime.so.1", kName}) {
        *name = system;
        if (void* handle = dlopen(system, RTLD_NOW | RTLD_LOCAL)) return handle;
        errors += "; " + last_error();
      }
      fail("ONNX Runtime is not here: no " + std::string(kName) + "* in " + folder + errors +
           "; install it, or give the path of the library");
    }
  }
  void* handle = dlopen(name->c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    fail("ONNX Runtime cannot be loaded from " + *name + ": " + last_error());
  }
  return handle;
}

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
  void* handle = open(location, &name);
  for (Library* each = first; each != nullptr; each = each->next_) {
    if (each->handle_ == handle) {
      dlclose(handle);  // counted twice
      return *each;
    }
  }
  link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map->l_name[0] != '\0') name = map->l_name;
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
